"""First-order estimates of the effect of removing a unit, from gradients with respect to the mask."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.baselines.additive import additive_spectrum
from spex_jax.core.masks import check_whole
from spex_jax.core.spectrum import Spectrum
from spex_jax.engine.evaluation import evaluate
from spex_jax.engine.value_function import ValueFunction, as_pytree

__all__ = ["attribution_patching", "integrated_gradients"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Gradient:
    """Maps masks bool [B, n] to [B, n + 1]: the mean gradient at shares float32 [T] of each mask, and its value."""

    fn: Callable[[jax.Array], jax.Array]
    shares: jax.Array

    def __call__(self, masks: jax.Array) -> jax.Array:
        def value(mask: jax.Array) -> jax.Array:
            return self.fn(mask[None])[0]

        def of(mask: jax.Array) -> jax.Array:
            whole = mask.astype(jnp.float32)
            gradients = jax.lax.map(lambda share: jax.grad(value)(share * whole), self.shares)
            return jnp.append(gradients.mean(axis=0), value(whole))

        found: jax.Array = jax.lax.map(of, masks)
        return found


def _effects(value_fn: ValueFunction, shares: np.ndarray, options: dict[str, Any]) -> Spectrum:
    if not isinstance(value_fn, ValueFunction) or not value_fn.device.relaxed or value_fn.outputs != ():
        raise ValueError(
            "gradients need a value function of one value that takes masks of floats, with "
            "device=DeviceOptions(relaxed=True), as lenses.components makes them; leave_one_out needs no gradients"
        )
    value = value_fn.details.value
    if value == "kl" and shares.min() == 1:
        raise ValueError(
            "value 'kl' is least at the whole network, where its gradient is 0; use 'logit_diff' or 'loss'"
        )
    if value == "accuracy":
        raise ValueError(
            "value 'accuracy' is constant between its jumps and has no gradient; use 'logit_diff' or 'loss'"
        )
    fn = _Gradient(as_pytree(value_fn.fn), jax.device_put(shares.astype(np.float32)))
    gradient = ValueFunction(fn, value_fn.n, names=value_fn.names, on_device=True, outputs=(value_fn.n + 1,))
    found = evaluate(gradient, np.ones((1, value_fn.n), np.bool_), **options)[0]
    return additive_spectrum(found[:-1], float(found[-1]))


def attribution_patching(value_fn: ValueFunction, **options: Any) -> Spectrum:
    """Estimates every leave-one-out effect linearly by the gradient at the whole network times what removing changes,
    in one forward and one backward pass (Nanda 2023; Syed et al. 2023, https://arxiv.org/abs/2310.10348).

    Args:
      value_fn: a value function with `device.relaxed`, as `lenses.components` makes them.
      **options: see `spex_jax.evaluate`.

    Raises:
      ValueError: a value function that cannot be differentiated.
    """
    return _effects(value_fn, np.ones(1), options)


def integrated_gradients(value_fn: ValueFunction, *, steps: int = 32, **options: Any) -> Spectrum:
    """Integrates gradients along the straight path of masks from everything removed to everything kept (Sundararajan et
    al. 2017, https://arxiv.org/abs/1703.01365); effects sum to f(all) - f(none) up to the error of `steps` midpoints.

    Args:
      value_fn: a value function with `device.relaxed`, as `lenses.components` makes them.
      steps: the number of forward and backward passes.
      **options: see `spex_jax.evaluate`.

    Raises:
      ValueError: a value function that cannot be differentiated, no steps.
    """
    check_whole("steps", steps, 1)
    return _effects(value_fn, (np.arange(steps) + 0.5) / steps, options)
