"""Two lenses in one mask: tokens and heads, training groups and the heads or words of the model trained on them."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.core.masks import deduplicate
from spex_jax.engine.details import ComponentsDetails, JointDetails, TextDetails
from spex_jax.engine.packing import Packing
from spex_jax.engine.value_function import DeviceOptions, ValueFunction
from spex_jax.fingerprints import fingerprint
from spex_jax.lenses.component_parts.ablated_components import AblatedComponents
from spex_jax.lenses.stages import AskedAblated, AskedRetrained, without_arrays
from spex_jax.lenses.text_parts.ablated_text import AblatedAnswer, AblatedClass
from spex_jax.lenses.text_parts.layout import rounded
from spex_jax.lenses.training_parts.retraining import Retraining
from spex_jax.models.protocols import width_of
from spex_jax.utils.jax_settings import own_settings

__all__ = ["joint"]

# In the order in which they act.
_STAGES: dict[str, Any] = {
    "training_data": Retraining,
    "components": AblatedComponents,
    "text": (AblatedAnswer, AblatedClass),
}
_SLOTS = 16  # masks that share a training, at most


@own_settings()
def joint(a: ValueFunction, b: ValueFunction) -> ValueFunction:
    """Returns a value function of two lenses in one mask, for interactions across them (see `Interactions.across`).

    A lens is a stage: training data make a model, components change it, a text queries it with its prompt. Whichever
    comes first here, the stages act in that order:

    * text and components of one `Decoder`: the model without the parts that a mask removes reads the prompt without the
      units that it removes. The value is that of the text lens; of the components lens only its removal counts, not its
      prompts, value and target. Every mask is a forward pass of its own, which computes again what masks have in common
      (a prefix of the prompt, the first layers).
    * training data and components: the parts are removed from the model that is trained on the kept groups, whatever
      the parameters of the components lens's model. The replacements of removed parts (their means, their outputs in
      corrupted prompts) come from the trained model. The value is that of the components lens, the mean over seeds.
    * training data and text: the trained model reads the prompt. The value is that of the text lens, the mean over
      seeds.

    With training data every mask costs the training of a model (times seeds). Up to 16 masks of a batch
    that keep the same groups share a training, where there are so few groups that a budget of 8 n log2(n) masks has
    several masks for each set of them; with many groups every mask has a training of its own.

    Args:
      a: a value function of `text`, `components` or `training_data`.
      b: another, of another kind. With training data, `init_fn` must give parameters of the structure and shapes of
        the other lens's model: of its `params`, as in `spex_jax.models`, or of the whole model, for any pytree.

    Returns:
      A `ValueFunction` of a.n + b.n units, first those of a, with the outputs of the lens that gives the value. Names
      that occur in both lenses get the kind of their lens. A store identifies it by the content of its arrays, or with
      training data by that lens's `identity=`.

    Raises:
      ValueError: the pair of lenses is another one; text and components have two models, or parts are removed at
        positions of their own prompts (positions=, removal "resample", mean_over="prompts"); with training data, the
        parameters have another form, the value is "kl", or no target was given: both would come from the model as it
        was before the training.
    """
    kinds = (_kind(a), _kind(b))
    lenses = dict(zip(kinds, (a, b), strict=True))
    if len(lenses) < 2 or not lenses.keys() <= _STAGES.keys():
        raise ValueError(
            "joint takes two lenses of different kinds, text and components, training_data and components, or "
            f"training_data and text; got {kinds[0]} and {kinds[1]}"
        )
    columns = dict(zip(kinds, _columns(a, b), strict=True))
    kind = "text" if "text" in lenses else "components"  # of the lens that gives the value
    asking, training = lenses[kind], lenses.get("training_data")
    if training is None:
        fn: Any = _asked_ablated(asking, lenses["components"], columns)
        programs, packing = {}, None
    else:
        fn = _asked_retrained(training, asking, kind, columns)
        programs, packing = {kind: fn.asking}, _sharing(training, columns["training_data"], a.n + b.n)
    return ValueFunction(
        fn,
        a.n + b.n,
        names=_names(lenses),
        on_device=True,
        identity=_identity((lens, programs.get(kind, lens.fn)) for kind, lens in lenses.items()),
        outputs=asking.outputs,
        device=DeviceOptions(width=a.width + b.width, packing=packing),
        details=_details(a, b, asking),
    )


def _kind(lens: Any) -> str:
    """Returns one of _STAGES for a lens, and a description for messages for anything else."""
    if not isinstance(lens, ValueFunction):
        return f"{type(lens).__name__}, which is not a lens"
    for kind, program in _STAGES.items():
        if isinstance(lens.fn, program):
            return kind
    return f"another value function ({type(lens.fn).__name__})"


def _columns(a: ValueFunction, b: ValueFunction) -> list[np.ndarray]:
    """Returns the columns of each lens in the joint masks, int32 [width]; its padding is the last column."""
    last = a.width + b.width - 1
    return [
        np.pad(np.arange(start, start + lens.n, dtype=np.int32), (0, lens.width - lens.n), constant_values=last)
        for lens, start in ((a, 0), (b, a.n))
    ]


def _names(lenses: dict[str, ValueFunction]) -> list[str]:
    both = set.intersection(*(set(lens.names) for lens in lenses.values()))
    return [
        f"{name} ({kind.replace('_', ' ')})" if name in both else name
        for kind, lens in lenses.items()
        for name in lens.names
    ]


def _details(a: ValueFunction, b: ValueFunction, asking: ValueFunction) -> JointDetails:
    """Returns the details of both lenses; value, target and prompts are those of the lens that gives the value."""
    return JointDetails(
        units="unit",
        lenses=(a.details, b.details),
        lens_sizes=(a.n, b.n),
        removal="; ".join(dict.fromkeys(str(lens.details.removal) for lens in (a, b))),
        value=asking.details.value,
        prompts=asking.details.prompts,
        target=asking.details.target,
        contrast=asking.details.contrast,
    )


def _identity(parts: Iterable[tuple[ValueFunction, Any]]) -> str | None:
    """Returns the identity of two lenses and their programs where one of them was given an identity; else None."""
    given = list(parts)
    if all(lens.identity is None for lens, _ in given):
        return None
    try:
        found = [lens.identity or fingerprint(fn, lens.n, lens.outputs) for lens, fn in given]
    except ValueError:  # reported when a store is used
        return None
    return f"joint of {found[0]!r} and {found[1]!r}"


def _asked_ablated(text: ValueFunction, components: ValueFunction, columns: dict[str, np.ndarray]) -> AskedAblated:
    asking: Any = text.fn
    changing: Any = components.fn
    _check_same(asking.model, changing.model)
    remedies = {
        "resample": "use removal 'zero', 'zero_rescaled' or 'mean'",
        "mean over prompts": "use mean_over='tokens'",
    }
    tied, remedy = f"removal {changing.removal!r}", remedies.get(changing.removal)
    if changing.at is not None:
        tied, remedy = "positions=", "leave positions= out"
    if remedy is not None:
        raise ValueError(
            f"the components lens removes parts at positions of its own prompts ({tied}), which mean nothing in the "
            f"prompt of the text lens; {remedy}"
        )
    return AskedAblated(
        asking=_of_one_text(text).without_derived(),
        changing=dataclasses.replace(changing, model=without_arrays(changing.model), entering=jnp.zeros(())),
        of_asking=jnp.asarray(columns["text"]),
        of_changing=jnp.asarray(columns["components"]),
    )


def _check_same(queried: Any, changed: Any) -> None:
    """Raises ValueError where two models differ."""
    if queried is changed:
        return
    differ = None
    structures: list[Any] = [jax.tree.structure(model) for model in (queried, changed)]
    if structures[0] != structures[1]:
        differ = f"a {type(queried).__name__} and a {type(changed).__name__} of different configs or weights"
    elif not all(
        one is two or (one.dtype == two.dtype and bool(jnp.array_equal(one, two)))
        for one, two in zip(jax.tree.leaves(queried), jax.tree.leaves(changed), strict=True)
    ):
        differ = "two of one config with different parameters"
    if differ is not None:
        raise ValueError(
            f"the text lens and the components lens must be of one model, got {differ}; make both of the same model"
        )


def _asked_retrained(
    training: ValueFunction, asking: ValueFunction, kind: str, columns: dict[str, np.ndarray]
) -> AskedRetrained:
    producing: Any = training.fn
    fn: Any = asking.fn
    layers: tuple[int, ...] = ()
    if kind == "components" and fn.reading.value == "kl":
        raise ValueError(
            "value 'kl' compares with the predictions of the whole network, and with training data every mask has "
            "another network; use a value with a target, such as 'logprob'"
        )
    if isinstance(asking.details, TextDetails | ComponentsDetails) and asking.details.own_target:
        raise ValueError(
            f"the {kind} lens was given no target and took the answer of its model; with training data the models "
            "are others: give target="
        )
    _check_parameters(producing, fn.model, kind)
    if kind == "components":
        holding = [np.asarray(unit).reshape(len(unit), -1).max(axis=1) >= 0 for unit in fn.unit.values()]
        layers = tuple(np.flatnonzero(np.any(holding, axis=0)).tolist())
    else:
        fn = _of_one_text(asking)
    fn = fn if isinstance(fn, AblatedClass) else fn.without_derived()
    return AskedRetrained(
        training=producing,
        asking=dataclasses.replace(fn, model=without_arrays(fn.model)),
        of_training=jnp.asarray(columns["training_data"]),
        of_asking=jnp.asarray(columns[kind]),
        layers=layers,
    )


def _check_parameters(training: Retraining, model: Any, kind: str) -> None:
    """Raises ValueError unless the parameters of a training fit a model."""
    trained = jax.eval_shape(training.init, training.keys[0])
    structure: Any = jax.tree.structure(trained)
    params = getattr(model, "params", None) if dataclasses.is_dataclass(model) else None
    shapes = [_shapes(tree) for tree in (trained, model, params)]
    for tree, found in zip((model, params), shapes[1:], strict=True):
        if structure == jax.tree.structure(tree) and shapes[0] == found:
            return
    expected = shapes[1] if params is None else shapes[2]
    differ = [name for name in [*expected, *shapes[0]] if expected.get(name) != shapes[0].get(name)]
    difference = "they are kept in containers of other types"
    if differ:
        there, here = (tree.get(differ[0], "nothing") for tree in (expected, shapes[0]))
        difference = f"{differ[0]} is {there} in the model and {here} in what init_fn gives"
    raise ValueError(
        f"init_fn must give parameters like those of the model of the {kind} lens, in the same structure and shapes "
        f"(its `params` where it is a dataclass with such a field, or the whole model as a pytree): {difference}"
    )


def _shapes(tree: Any) -> dict[str, str]:
    """Returns a description of the shape of each array, by its path."""
    found, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path) or "the array": f"of shape {np.shape(leaf)}" for path, leaf in found}


def _of_one_text(text: ValueFunction) -> Any:
    """Returns the program of a text lens, with rows no longer than the longest text needs."""
    fn: Any = text.fn
    packing = text.device.packing
    if packing is None:
        return fn
    width = width_of(fn.model)
    longest = packing.fixed + int(np.maximum(packing.kept, packing.removed).sum())
    capacity = min(fn.template.capacity, rounded(longest, width))
    return dataclasses.replace(fn, template=dataclasses.replace(fn.template, capacity=capacity))


@dataclasses.dataclass(frozen=True, eq=False)
class _Sharing(Packing):
    """Packs masks that keep the same training groups into rows.

    Attributes:
      columns: int [groups], the columns of the masks that choose the groups.
      order_of: the order of the masks of the training lens, see `DeviceOptions`.
    """

    columns: np.ndarray
    order_of: Callable[[np.ndarray], np.ndarray] | None

    def rows(self, masks: np.ndarray, most: int | None = None) -> np.ndarray:
        """Returns the masks of each row, as `Packing.rows`."""
        most = self.slots if most is None else min(most, self.slots)
        trained_on = masks[:, self.columns]
        number = np.zeros(len(masks)) if self.order_of is None else self.order_of(trained_on)
        _, training = deduplicate(trained_on)
        order = np.lexsort((training, number))
        together = np.split(order, np.flatnonzero(np.diff(training[order])) + 1)
        rows = [members[i : i + most] for members in together for i in range(0, len(members), most)]
        table = np.full((len(rows), self.slots), -1, np.int64)
        for places, members in zip(table, rows, strict=True):
            places[: len(members)] = members
        return table


def _sharing(training: ValueFunction, columns: np.ndarray, n: int) -> Packing:
    """Packs as many masks into a row as usually share one set of groups."""
    usual = 8 * n * math.log2(n) / 2 ** min(training.n, 60)  # 2.0 to the thousands would overflow
    slots = 2 ** math.ceil(math.log2(min(max(usual, 1.0), _SLOTS, 2 ** (n - training.n))))
    nothing = np.zeros(n, np.int64)
    return _Sharing(slots, slots, 1, nothing, nothing, columns, training.device.order_of)
