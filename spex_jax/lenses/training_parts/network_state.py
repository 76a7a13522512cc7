"""The variables of a network: parameters, which are trained, and other collections, which are not."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax

__all__ = ["trained_parts"]

_HELD = ("batch_stats", "cache", "constants", "intermediates", "losses", "state", "stats")  # names that Flax users give
_STATISTICS = re.compile(r"batch_stats|(running|moving)_(mean|var|variance|average)|(mean|var)_ema")


@dataclasses.dataclass(frozen=True, eq=False)
class _Parameters:
    """Maps a key to the collection "params" of Flax variables."""

    identity_name: ClassVar[str] = "spex_jax.Parameters"

    init: Callable[[jax.Array], Any]

    def __call__(self, key: jax.Array) -> Any:
        """Returns the parameters."""
        return self.init(key)["params"]


@dataclasses.dataclass(frozen=True, eq=False)
class _WithCollections:
    """Maps (parameters, x) to logits, with collections that stay as they are."""

    identity_name: ClassVar[str] = "spex_jax.WithCollections"

    apply: Callable[[Any, Any], jax.Array]
    held: dict[str, Any]

    def __call__(self, params: Any, x: Any) -> jax.Array:
        """Returns logits [B, C]."""
        return self.apply({"params": params, **self.held}, x)


def trained_parts(
    init_fn: Callable[[jax.Array], Any], apply_fn: Callable[[Any, Any], jax.Array], key: jax.Array
) -> tuple[Callable[[jax.Array], Any], Callable[[Any, Any], jax.Array]]:
    """Returns the functions of a network such that only parameters are trained.

    Of Flax variables {"params": ..., "batch_stats": ...} these are "params"; the other collections stay as `init_fn`
    makes them.

    Args:
      init_fn: key -> parameters, or Flax variables.
      apply_fn: (what init_fn gives, x) -> logits.
      key: the key with which the other collections are made.

    Raises:
      ValueError: there are unknown collections beside "params", or statistics among the parameters.
    """
    variables = jax.eval_shape(init_fn, key)
    if isinstance(variables, Mapping) and "params" in variables:
        others = [name for name in variables if name != "params"]
        if unknown := [name for name in others if name not in _HELD]:
            raise ValueError(
                f"init_fn gives 'params' and {', '.join(map(repr, unknown))}, and whether these are trained is not "
                "known; give parameters alone, and hold the rest in apply_fn"
            )
        if others:
            held = {name: part for name, part in init_fn(key).items() if name != "params"}
            return _Parameters(init_fn), _WithCollections(apply_fn, held)
        return init_fn, apply_fn
    for path, _ in jax.tree_util.tree_leaves_with_path(variables):
        if found := _STATISTICS.search(jax.tree_util.keystr(path)):
            raise ValueError(
                f"init_fn gives {found[0]!r}, statistics of a batch norm, which would be trained as parameters; give "
                "parameters alone and hold the statistics in apply_fn, or Flax variables {'params': ..., "
                "'batch_stats': ...}"
            )
    return init_fn, apply_fn
