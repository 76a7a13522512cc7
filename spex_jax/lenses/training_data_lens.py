"""The training data lens: which training examples, or groups of them, act together in a trained network's outputs."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.core.masks import check_whole, finite_rows, uniform
from spex_jax.engine.details import OutputDetails, TrainingDetails, ValueNoise
from spex_jax.engine.evaluation import evaluate
from spex_jax.engine.value_function import DeviceOptions, ValueFunction
from spex_jax.lenses.probes import Remedy, check_rows, logits_of, with_remedies
from spex_jax.lenses.training_parts.groups import as_groups
from spex_jax.lenses.training_parts.network_state import trained_parts
from spex_jax.lenses.training_parts.pictures import group_pictures
from spex_jax.lenses.training_parts.retraining import Retraining, seed_keys
from spex_jax.lenses.values import logit_and_margin
from spex_jax.utils.jax_settings import own_settings
from spex_jax.utils.seeds import Stream, generator

if TYPE_CHECKING:
    import optax

__all__ = ["VALUES", "WATCHED", "SeedNoise", "are_classes", "measure_seed_noise", "training_data"]

_ONE = "it takes one example and not several: give jax.vmap(apply_fn, in_axes=(None, 0))"
VALUES = ("margin", "logit", "logprob", "loss", "accuracy")


def _margin(logits: jax.Array, y: jax.Array) -> jax.Array:
    return logit_and_margin(logits, y)[1]


def _logit(logits: jax.Array, y: jax.Array) -> jax.Array:
    return logit_and_margin(logits, y)[0]


def _logprob(logits: jax.Array, y: jax.Array) -> jax.Array:
    return -jax.nn.softplus(-_margin(logits, y))


def _accuracy(logits: jax.Array, y: jax.Array) -> jax.Array:
    return (jnp.argmax(logits, axis=-1) == y).astype(jnp.float32)


WATCHED = {"margin": _margin, "logit": _logit, "logprob": _logprob, "accuracy": _accuracy}


def are_classes(y: Any) -> bool:
    """Returns whether targets are class numbers [N]."""
    return isinstance(y, jax.Array) and y.ndim == 1 and jnp.issubdtype(y.dtype, jnp.integer)


def _examples(name: str, given: Any) -> tuple[Any, Any, int]:
    """Returns the checked (x, y) as arrays of the device, and the number of examples."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise ValueError(f"{name} must be a pair (x, y), got {type(given).__name__}")
    x, y = (jax.tree.map(np.asarray, np.asarray(part) if isinstance(part, list) else part) for part in given)
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves((x, y))}
    if len(sizes) != 1 or sizes == {()} or sizes == {(0,)}:
        shapes = " and ".join(str(jax.tree.map(lambda leaf: leaf.shape, part)) for part in (x, y))
        raise ValueError(
            f"x and y of {name} must be arrays with the same number of examples, at least one; their shapes: {shapes}"
        )
    for leaf in jax.tree.leaves((x, y)):
        if leaf.dtype.kind not in "fiub":
            raise ValueError(f"{name} must hold numbers, got {leaf.dtype}")
        with np.errstate(over="ignore"):
            finite = leaf.dtype.kind != "f" or np.isfinite(leaf.astype(np.float32)).all()
        if not finite:
            raise ValueError(f"{name} has numbers that are not finite in float32; fill in what is missing, or scale it")
        if leaf.dtype.kind in "iu" and leaf.size and (leaf.min() < -(2**31) or leaf.max() >= 2**31):
            raise ValueError(
                f"{name} has whole numbers beyond 32 bits, up to {leaf.max()}, which JAX would wrap around"
            )
    return *jax.tree.map(jnp.asarray, (x, y)), sizes.pop()[0]


def _check_test_points(name: str, train: Any, test: Any) -> None:
    kinds = [jax.tree.map(lambda leaf: f"{leaf.dtype} {leaf.shape[1:]}", part) for part in (train, test)]
    inner = [jax.tree.map(lambda leaf: (leaf.shape[1:], leaf.dtype.kind in "iu"), part) for part in (train, test)]
    if inner[0] != inner[1]:
        raise ValueError(
            f"test points must have the shape and kind of training examples; {name} of one is {kinds[0]} and {kinds[1]}"
        )


@jax.jit
def _first_look(fn: Retraining, partner: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns logits [2, C] of the first example twice, and of it and the partner, for parameters moved away from 0."""
    leaves, structure = jax.tree.flatten(fn.init(fn.keys[0]))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    moved = [
        leaf + 0.1 * jax.random.normal(key, leaf.shape, leaf.dtype) for leaf, key in zip(leaves, keys, strict=True)
    ]
    params = jax.tree.unflatten(structure, moved)

    def beside(other: jax.Array) -> jax.Array:
        return fn.logits(params, jax.tree.map(lambda leaf: leaf[jnp.stack([jnp.zeros_like(other), other])], fn.x))

    return beside(jnp.zeros_like(partner)), beside(partner)


def _check_network(fn: Retraining, classes_matter: bool) -> None:
    """Raises ValueError where the functions give other shapes, where labels are not classes, or where examples of a
    batch act on one another, since examples that are not kept would then do so too.
    """
    params = jax.eval_shape(fn.init, fn.keys[0])
    for leaf in jax.tree.leaves(params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"init_fn must give parameters that are floats, got {leaf.dtype}; leave other state out")
    one = Remedy((params, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), fn.x)), _ONE)
    found = with_remedies(lambda: jax.eval_shape(fn.apply, params, fn.x), fn.apply, [one], "apply_fn")
    found = logits_of(found, "apply_fn", "logits of shape [B, C]", fn.examples)
    shape: tuple[int, ...] = getattr(found, "shape", ())
    if len(shape) != 2 or shape[0] != fn.examples:
        got = shape or type(found).__name__
        raise ValueError(f"apply_fn must give logits of shape [B, C]; for {fn.examples} examples it gave {got}")
    if classes_matter:
        labels = np.concatenate([fn.y, fn.y_test])
        if labels.min() < 0 or labels.max() >= shape[1]:
            raise ValueError(
                f"labels must be classes from 0 to {shape[1] - 1}, one for each logit; got {labels.min()} to "
                f"{labels.max()}"
            )
        if shape[1] == 1:
            raise ValueError(
                "apply_fn gives one logit, and classes need at least two; give loss_fn=, and value='loss' or a function"
            )
    losses, values = (
        jax.eval_shape(function, jax.ShapeDtypeStruct((len(jax.tree.leaves(y)[0]), shape[1]), jnp.float32), y)
        for function, y in ((fn.loss, fn.y), (fn.watch, fn.y_test))
    )
    points = len(jax.tree.leaves(fn.y_test)[0])
    if getattr(losses, "shape", None) != (fn.examples,) or getattr(values, "shape", None) != (points,):
        raise ValueError(
            "loss_fn must give one loss for each example and value one number for each test point; for "
            f"{fn.examples} examples and {points} test points they gave {losses} and {values}"
        )
    try:
        jax.eval_shape(lambda params: fn.optimizer.update(params, fn.optimizer.init(params), params), params)
    except TypeError as error:
        raise ValueError(f"the optimiser cannot be used with gradients and parameters alone: {error}") from error
    flat = np.concatenate([np.reshape(leaf, (fn.examples, -1)) for leaf in jax.tree.leaves(fn.x)], axis=1)
    looks = _first_look(fn, jnp.int32(np.argmax((flat != flat[0]).any(axis=1))))
    check_rows(looks[0], looks[1], "apply_fn", tolerance=1e-3 if fn.dtype is None else 0.1)


@own_settings()
def training_data(  # noqa: PLR0913
    init_fn: Callable[[jax.Array], Any],
    apply_fn: Callable[[Any, Any], jax.Array],
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    *,
    loss_fn: Callable[[jax.Array, Any], jax.Array] | None = None,
    groups: Any = None,
    optimizer: "optax.GradientTransformation | None" = None,
    steps: int | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    seeds: int = 1,
    seed: int = 0,
    value: str | Callable[[jax.Array, Any], jax.Array] = "margin",
    average: bool = False,
    dtype: Any = None,
    identity: str | None = None,
    pictures: tuple[Any, Any] | None = None,
    embedding: Any = None,
) -> ValueFunction:
    """Returns a value function for a data set: each mask is one training on the groups it keeps, and its values are
    those of the trained network at all test points (datamodels: Ilyas et al. 2022, https://arxiv.org/abs/2202.00622).

    A training goes through the kept examples in batches; an example that is not kept is never read. The loss of a step
    is the mean over the examples of its batch. Every ceil(N / batch) steps the examples get a new random order. All
    masks share initial parameters and, as far as they keep the same examples, the order. A mask that keeps nothing
    leaves the initial parameters, so its value is that of the untrained network.

    Networks with convolutions train several times faster on a CPU where these are written as products of shifted
    pictures (as in experiments/data_attribution.py): vmapped over networks they become grouped convolutions.

    Args:
      init_fn: key -> parameters, a pytree; or Flax variables, of which "params" is trained and the other collections
        (such as batch_stats) stay as they are.
      apply_fn: (parameters, x [B, ...]) -> logits [B, C], a pure JAX function in which the examples are independent (no
        batch normalisation, no dropout).
      train: (x, y) of N examples; x and y may be pytrees of arrays.
      test: (x, y) of T test points, of the same shapes.
      loss_fn: (logits [B, C], y [B]) -> losses [B]; None is cross entropy with class numbers.
      groups: the units that are kept or left out: None (each example), labels [N] (whole numbers, below 0: always kept;
        or strings), a mapping from names to examples, or `Groups` from `lenses.groups`.
      optimizer: from optax; None is adam(1e-3). A training starts it anew; steps without examples do not count for it.
      steps: updates of each training, the same number however much it keeps: one that keeps half of the examples goes
        through them twice before they get a new order.
      epochs: in place of steps, passes over the kept examples: a mask that keeps half of them takes half the time.
      batch: examples in a step; None is all that are kept.
      seeds: the number of trainings for each mask, whose values are averaged.
      seed: the seed of all of them.
      value: for the true class of each test point: "margin" (z_y - logsumexp of the others), "logit", "logprob",
        "loss" (that of loss_fn where given), "accuracy"; or a function (logits [T, C], y [T]) -> [T].
      average: whether the value is the mean over test points, one number; otherwise there are T values.
      dtype: for the forward and backward pass, such as jnp.bfloat16; parameters and the optimiser keep theirs.
      identity: names the lens in a store; None is a hash of the data, the settings and the code of all functions. A
        store needs it where one of these cannot be hashed: change it whenever the network, the data or the settings
        change.
      pictures: (pictures of the training examples, of the test points) for reports: uint8 or floats in [0, 1], of
        shape [N, H, W] or [N, H, W, 3]; needs the extra `data`.
      embedding: [N, d], where the examples are, such as their states in a trained network, in a unit that all columns
        share; a group is at the mean of its examples. Fits then look for interactions among neighbours.

    Returns:
      A `ValueFunction` on the device of n groups, with outputs (T,) or (). `spex_jax.explain` takes the latter,
      `spex_jax.explain_many` either: one explanation for each test point, from the same trainings.

    Raises:
      ValueError: shapes, labels or options do not fit, or examples of a batch act on one another.
    """
    import optax

    x, y, examples = _examples("train", train)
    x_test, y_test, points = _examples("test", test)
    _check_test_points("x", x, x_test)
    _check_test_points("y", y, y_test)
    for name, given in (("init_fn", init_fn), ("apply_fn", apply_fn), ("loss_fn", loss_fn)):
        if not callable(given) and (given is not None or name != "loss_fn"):
            raise ValueError(f"{name} must be callable, got {type(given).__name__}")
    if optimizer is not None and not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        raise ValueError(f"optimizer must be one of optax, such as optax.adam(1e-3), got {optimizer!r}")
    if dtype is not None:
        try:
            dtype = jnp.dtype(dtype)
        except TypeError as error:
            raise ValueError(f"dtype must be a float type, such as jax.numpy.bfloat16, got {dtype!r}") from error
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"dtype must be a float type, such as jax.numpy.bfloat16, got {dtype}")
    if (steps is None) == (epochs is None):
        raise ValueError(
            f"give either steps= (updates of each training) or epochs= (passes over the kept examples), got {steps!r} "
            f"and {epochs!r}"
        )
    for name, number in (("steps", steps), ("epochs", epochs), ("batch", batch), ("seeds", seeds)):
        if number is not None:
            check_whole(name, number, 1)
    check_whole("seed", seed, 0, 2**32 - 1)
    if not callable(value) and value not in VALUES:
        raise ValueError(f"unknown value {value!r}; expected one of {', '.join(VALUES)}, or a function")
    classes_matter = loss_fn is None or value in WATCHED
    if classes_matter and not are_classes(y):
        raise ValueError(
            "the cross entropy and the values of a class need class numbers y [N]; for other targets give loss_fn=, "
            "and value='loss' or a function"
        )
    divided = as_groups(groups, examples)
    keys = seed_keys(int(seed), int(seeds))
    init_fn, apply_fn = trained_parts(init_fn, apply_fn, keys[0])
    loss = optax.softmax_cross_entropy_with_integer_labels if loss_fn is None else loss_fn
    fn = Retraining(
        x=x,
        y=y,
        x_test=x_test,
        y_test=y_test,
        group=jnp.asarray(divided.labels),
        keys=keys,
        init=init_fn,
        apply=apply_fn,
        loss=loss,
        watch=value if callable(value) else loss if value == "loss" else WATCHED[value],
        optimizer=optax.adam(1e-3) if optimizer is None else optimizer,
        steps=steps,
        epochs=epochs,
        batch=None if batch is None or batch >= examples else int(batch),
        mean=bool(average),
        dtype=dtype,
    )
    _check_network(fn, classes_matter)
    places = None if embedding is None else divided.means("embedding", embedding)
    sizes = divided.sizes
    targets = [str(int(label)) for label in np.asarray(y_test)] if classes_matter else [None] * points
    details = TrainingDetails(
        units="example" if groups is None else "group",
        value=value if isinstance(value, str) else getattr(value, "__name__", "value"),
        removal="not trained on",
        seeds=int(seeds),
        examples=examples,
        test_points=points,
        sizes=None if groups is None else tuple(sizes.tolist()),
        pictures=None if pictures is None else group_pictures(pictures, divided, points),
        outputs=() if average else tuple(OutputDetails(test_point=t, target=y) for t, y in enumerate(targets)),
    )
    return ValueFunction(
        fn,
        len(divided),
        names=divided.names,
        on_device=True,
        identity=identity,
        outputs=() if average else (points,),
        # Trainings of one batch wait for the longest of them.
        device=DeviceOptions(order_of=None if epochs is None else lambda masks: masks @ sizes),
        details=details,
        coordinates=places,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedNoise:
    """Holds how much values depend on the seed, float64 [*outputs] each.

    Attributes:
      deviation: standard deviation of the value of one mask over other seeds (for the mean over the lens's seeds).
      share: the part of the variance over masks that other seeds do not reproduce: 1 minus the correlation of the
        values of two seeds. Effects of this size may come from the seed alone.
      masks: the number of evaluated masks.
      repeats: how often each was evaluated, with other seeds.
    """

    deviation: np.ndarray
    share: np.ndarray
    masks: int
    repeats: int


@own_settings()
def measure_seed_noise(
    value_fn: ValueFunction, *, masks: int = 32, repeats: int = 4, seed: int = 0, **options: Any
) -> SeedNoise:
    """Trains on the same masks with further seeds, and keeps the noise in `value_fn.details` for reports.

    Args:
      value_fn: made by `training_data`.
      masks: the number of random masks, fewer where there are not so many.
      repeats: how often each is evaluated, each time with seeds of its own. The effect of a seed on all masks alike is
        known from this many numbers only.
      seed: the seed of the masks.
      **options: batch_size, mesh, nonfinite and progress of `spex_jax.evaluate`. Masks without a finite value are left
        out.

    Raises:
      ValueError: it is another value function, or masks or repeats are fewer than 2; see `spex_jax.evaluate`.
    """
    if not isinstance(value_fn, ValueFunction) or not isinstance(value_fn.fn, Retraining):
        raise ValueError("seed noise needs a value function of lenses.training_data; others have no seeds")
    if unknown := sorted(set(options) - {"batch_size", "mesh", "nonfinite", "progress"}):
        raise ValueError(f"measure_seed_noise takes no {', '.join(unknown)}: other seeds give values of another lens")
    check_whole("masks", masks, 2)
    check_whole("repeats", repeats, 2)
    fn = value_fn.fn
    count = min(masks, 2**value_fn.n) if value_fn.n < 63 else masks
    drawn, seeds = uniform(value_fn.n, count, generator(seed, Stream.SEED_NOISE)), len(fn.keys)
    values = []
    for repeat in range(1, repeats + 1):  # without the lens's own seeds, whose values the noise is compared with
        keys = jax.vmap(lambda key, repeat=repeat: jax.random.fold_in(key, repeat))(fn.keys)
        other = ValueFunction(
            dataclasses.replace(fn, keys=keys),
            value_fn.n,
            on_device=True,
            outputs=value_fn.outputs,
            device=value_fn.device,
        )
        values.append(evaluate(other, drawn, **{"progress": False, **options}))
    table = np.stack(values)  # [repeats, masks, *outputs]
    table = table[:, finite_rows(np.moveaxis(table, 0, 1))]
    count = table.shape[1]
    if count < 2:
        raise ValueError("fewer than 2 masks have finite values with all seeds, so that the noise cannot be measured")
    within = table.var(axis=0, ddof=1).mean(axis=0)
    # Without what a seed adds to all masks alike, which changes no effect.
    changing = (table - table.mean(axis=1, keepdims=True)).var(axis=0, ddof=1).mean(axis=0) * count / (count - 1)
    total = table.var(axis=1, ddof=1).mean(axis=0)
    share = np.where(total > 0, np.minimum(changing / np.where(total > 0, total, 1.0), 1.0), np.nan)
    noise = SeedNoise(deviation=np.sqrt(within), share=share, masks=count, repeats=repeats)
    details: Any = value_fn.details
    found = zip(details.outputs or [details], np.ravel(noise.deviation).tolist(), np.ravel(share).tolist(), strict=True)
    outputs = [
        dataclasses.replace(one, seed_noise=ValueNoise(deviation, part, seeds)) if np.isfinite(part) else one
        for one, deviation, part in found
    ]
    value_fn.details = dataclasses.replace(details, outputs=tuple(outputs)) if details.outputs else outputs[0]
    return noise
