"""Estimates the effects of leaving examples out from the gradients of networks that were trained on all of them.

Both methods take a value function of `lenses.training_data` and train only those networks. P denotes the number of
parameters, N of training examples, T of test points, R of networks.
"""

import dataclasses
import numbers
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg

from spex_jax.baselines.additive import additive_spectrum
from spex_jax.core.masks import check_whole
from spex_jax.core.spectrum import Spectrum
from spex_jax.engine.value_function import ValueFunction
from spex_jax.lenses.training_data_lens import WATCHED, are_classes
from spex_jax.lenses.training_parts.retraining import Retraining
from spex_jax.utils.jax_settings import own_settings
from spex_jax.utils.precision import compiled, precision_of_models
from spex_jax.utils.seeds import FURTHER_TRAININGS

__all__ = ["SOLVERS", "influence", "trak"]

SOLVERS = ("cg", "exact")
_RIDGE = 1e-4  # for the projected features, as a share of their mean square; float32 needs it
_UNSOLVED = 0.05  # the share of a gradient above which a warning is given
_MOST_EXACT = 20_000  # parameters, whose Hessian takes 1.6 GB


def _trainings(value_fn: ValueFunction, caller: str) -> Retraining:
    """Returns the trainings of a value function of the lens; raises ValueError for any other."""
    if not isinstance(value_fn, ValueFunction) or not isinstance(value_fn.fn, Retraining):
        raise ValueError(f"{caller} needs a value function of lenses.training_data, whose network it differentiates")
    return value_fn.fn


def _networks(value_fn: ValueFunction, caller: str, count: int = 0) -> tuple[Retraining, Any]:
    """Returns the trainings, and the parameters [R, ...] of those on all examples, with further seeds up to `count`."""
    fn = _trainings(value_fn, caller)
    further = [jax.random.fold_in(fn.keys[0], FURTHER_TRAININGS + number) for number in range(len(fn.keys), count)]
    keys = jnp.concatenate([fn.keys, jnp.stack(further)]) if further else fn.keys
    everything = jnp.ones((1, value_fn.n), np.bool_)
    return fn, _trained(dataclasses.replace(fn, keys=keys), everything)


@compiled
def _trained(fn: Retraining, masks: jax.Array) -> Any:
    with precision_of_models():
        return fn.trained(masks)


@compiled
def _values(fn: Retraining, params: Any) -> jax.Array:
    """Returns the values of networks [R, ...] at the test points, [R, T]."""
    with precision_of_models():
        return jax.vmap(lambda one: fn.values(one, fn.x_test, fn.y_test))(params)


def _spectra(fn: Retraining, effects: np.ndarray, params: Any, n: int) -> Spectrum | list[Spectrum]:
    """Returns the additive spectra of effects float64 [T, N] of single examples; effects within a group add up."""
    full = np.asarray(_values(fn, params), np.float64).mean(axis=0)
    if fn.mean:
        effects, full = effects.mean(axis=0, keepdims=True), full.mean(keepdims=True)
    labels = np.asarray(fn.group)
    free = labels >= 0
    grouped = np.stack([np.bincount(labels[free], row[free], minlength=n) for row in effects])
    found = [additive_spectrum(row, float(value)) for row, value in zip(grouped, full, strict=True)]
    return found[0] if fn.mean else found


def _functions(fn: Retraining, params: Any) -> tuple[jax.Array, Callable[..., jax.Array], Callable[..., jax.Array]]:
    """Returns the parameters as a vector [P], and the functions of it that compute losses [N] and values [T]."""
    flat, unravel = ravel_pytree(params)

    def losses(vector: jax.Array) -> jax.Array:
        return fn.losses(unravel(vector), fn.x, fn.y)

    def values(vector: jax.Array) -> jax.Array:
        return fn.values(unravel(vector), fn.x_test, fn.y_test)

    return flat, losses, values


@compiled
def _gradients_of_values(fn: Retraining, params: Any) -> jax.Array:
    """Returns the gradients of the values at the test points, float32 [T, P]."""
    flat, _, values = _functions(fn, params)
    with precision_of_models():
        found: jax.Array = jax.jacrev(values)(flat)
    return found


@compiled
def _hessian(fn: Retraining, params: Any) -> jax.Array:
    """Returns the Hessian of the mean loss, float32 [P, P]."""
    flat, losses, _ = _functions(fn, params)
    gradient = jax.grad(lambda vector: losses(vector).mean())
    ways = jnp.eye(len(flat))
    with precision_of_models():
        found: jax.Array = jax.lax.map(lambda way: jax.jvp(gradient, (flat,), (way,))[1], ways, batch_size=64)
    return found


@compiled(static_argnames="iterations")
def _by_conjugate_gradients(
    fn: Retraining, params: Any, given: jax.Array, damping: jax.Array, iterations: int
) -> tuple[jax.Array, jax.Array]:
    """Returns (H + damping)^-1 times each row of [T, P], and the residual as a share of the row, [T]."""
    flat, losses, _ = _functions(fn, params)
    gradient = jax.grad(lambda vector: losses(vector).mean())

    def product(direction: jax.Array) -> jax.Array:
        with precision_of_models():
            found: jax.Array = jax.jvp(gradient, (flat,), (direction,))[1] + damping * direction
        return found

    def solve(row: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = cg(product, row, maxiter=iterations)[0]
        return found, jnp.linalg.norm(product(found) - row) / jnp.maximum(jnp.linalg.norm(row), 1e-30)

    found: tuple[jax.Array, jax.Array] = jax.lax.map(solve, given, batch_size=8)
    return found


@compiled
def _losses_along(fn: Retraining, params: Any, directions: jax.Array) -> jax.Array:
    """Returns the slopes of the losses along each of the directions [T, P], float32 [T, N]."""
    flat, losses, _ = _functions(fn, params)
    with precision_of_models():
        found: jax.Array = jax.lax.map(lambda way: jax.jvp(losses, (flat,), (way,))[1], directions, batch_size=8)
    return found


@own_settings()
def influence(
    value_fn: ValueFunction, *, damping: float = 0.01, solver: str = "cg", iterations: int = 100
) -> Spectrum | list[Spectrum]:
    """Estimates effects by influence functions (Koh and Liang 2017, https://arxiv.org/abs/1703.04730, section 2): that
    of an example on a value is -grad(value) (H + damping)^-1 grad(loss) / N at the network trained on all examples,
    with H the Hessian of the mean loss. The effects are means over the lens's seeds.

    Args:
      value_fn: a value function of `lenses.training_data`.
      damping: added to the diagonal of the Hessian, which has negative eigenvalues where the training has not
        converged; a warning tells where the conjugate gradients fail because of that.
      solver: "cg" (conjugate gradients with products with the Hessian) or "exact" (the Hessian itself).
      iterations: the largest number of conjugate gradient iterations.

    Returns:
      The additive spectrum of the groups for each test point, or one where the lens averages them. The effects of a
      group's examples add up; examples that are always kept are part of the training and have none. Values that are
      constant between jumps, such as "accuracy", have no gradient and no effects.

    Raises:
      ValueError: another value function, an unknown solver, options out of range, too many parameters for "exact".
    """
    if solver not in SOLVERS:
        raise ValueError(f"unknown solver {solver!r}; expected one of {', '.join(SOLVERS)}")
    if isinstance(damping, bool) or not isinstance(damping, numbers.Real) or not 0 <= damping < np.inf:
        raise ValueError(f"damping must be a finite number that is not below 0, got {damping!r}")
    check_whole("iterations", iterations, 1)
    fn, params = _networks(value_fn, "influence")
    count = sum(leaf[0].size for leaf in jax.tree.leaves(params))
    if solver == "exact" and count > _MOST_EXACT:
        raise ValueError(f"solver='exact' is for up to {_MOST_EXACT:,} parameters, got {count:,}; use 'cg'")
    effects, unsolved = np.zeros(()), 0.0
    for seed in range(len(fn.keys)):
        network = jax.tree.map(lambda leaf, seed=seed: leaf[seed], params)
        rows = _gradients_of_values(fn, network)
        if solver == "exact":
            matrix = np.asarray(_hessian(fn, network), np.float64) + damping * np.eye(count)
            try:
                solved = np.linalg.solve(matrix, np.asarray(rows, np.float64).T).T
            except np.linalg.LinAlgError as error:
                raise ValueError(f"the Hessian has no inverse with damping = {damping}; give a larger one") from error
            directions = jnp.asarray(solved, jnp.float32)
        else:
            directions, left = _by_conjugate_gradients(fn, network, rows, jnp.float32(damping), int(iterations))
            unsolved = max(unsolved, float(jnp.where(jnp.isfinite(left), left, jnp.inf).max()))
        along = _losses_along(fn, network, directions)
        effects = effects - np.asarray(along, np.float64) / (fn.examples * len(fn.keys))
    if unsolved > _UNSOLVED:
        warnings.warn(
            f"conjugate gradients left {100 * unsolved:.0f}% of a gradient. If the Hessian has negative eigenvalues "
            f"(the training has not converged), damping must exceed them, got {damping}; else give more iterations",
            stacklevel=3,
        )
    return _spectra(fn, effects, params, value_fn.n)


@compiled(static_argnames=("size",))
def _kernel(fn: Retraining, params: Any, key: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Returns phi(test) (Phi^T Phi)^-1 Phi^T float32 [T, N] of one network, and 1 - p of the examples' classes [N]."""
    flat, unravel = ravel_pytree(params)
    projection = jax.random.normal(key, (len(flat), size), jnp.float32) / np.float32(np.sqrt(size))

    def features(x: Any, y: Any) -> tuple[jax.Array, jax.Array]:
        def one(example: Any) -> tuple[jax.Array, jax.Array]:
            single = jax.tree.map(lambda leaf: leaf[None], example)
            with precision_of_models():
                margin, gradient = jax.value_and_grad(
                    lambda vector: WATCHED["margin"](fn.logits(unravel(vector), single[0]), single[1])[0]
                )(flat)
            return margin, gradient @ projection

        found: tuple[jax.Array, jax.Array] = jax.lax.map(one, (x, y), batch_size=64)
        return found

    margins, phi = features(fn.x, fn.y)
    _, tests = features(fn.x_test, fn.y_test)
    gram = phi.T @ phi
    factor = jnp.linalg.cholesky(gram + _RIDGE * jnp.trace(gram) / size * jnp.eye(size))
    solved = jax.scipy.linalg.cho_solve((factor, True), phi.T)
    return tests @ solved, jax.nn.sigmoid(-margins)


@own_settings()
def trak(value_fn: ValueFunction, *, size: int = 256, models: int = 4, seed: int = 0) -> Spectrum | list[Spectrum]:
    """Estimates effects from random projections of the margin's gradients, as TRAK does (Park et al. 2023,
    https://arxiv.org/abs/2303.14186, equation 13): phi(test) (Phi^T Phi)^-1 Phi^T times 1 - p, each averaged over
    networks. The last step of TRAK, a soft threshold, is left out.

    The networks are trained on all examples, with the lens's seeds and further ones up to `models`.

    Args:
      value_fn: a value function of `lenses.training_data`, of a classifier.
      size: the width of a projected gradient; well below the number of examples.
      models: the number of networks, where the lens has fewer seeds.
      seed: the seed of the projections.

    Returns:
      As `influence`. The effects are on the margin whatever the lens watches, and known up to a factor.

    Raises:
      ValueError: another value function, labels that are no classes, options out of range.
    """
    for name, given in (("size", size), ("models", models)):
        check_whole(name, given, 1)
    check_whole("seed", seed, 0, 2**32 - 1)
    fn = _trainings(value_fn, "trak")
    logits = jax.eval_shape(lambda fn: fn.logits(fn.init(fn.keys[0]), fn.x), fn).shape[1]
    if not are_classes(fn.y) or logits < 2 or not all(y.min() >= 0 and y.max() < logits for y in (fn.y, fn.y_test)):
        raise ValueError(f"trak needs a classifier of two or more classes, with y as class numbers 0 to {logits - 1}")
    fn, params = _networks(value_fn, "trak", models)
    count = max(len(fn.keys), models)
    networks = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(count)]
    keys = jax.random.split(jax.random.key(seed), count)
    found = [_kernel(fn, network, key, int(size)) for network, key in zip(networks, keys, strict=True)]
    kernel, weight = (
        np.mean([np.asarray(part, np.float64) for part in parts], axis=0) for parts in zip(*found, strict=True)
    )
    if not np.isfinite(kernel).all():
        raise ValueError(
            "the margins of the trained network have no gradient (it is saturated), so that trak cannot be used"
        )
    own = jax.tree.map(lambda leaf: leaf[: len(fn.keys)], params)  # whose mean is the lens's value
    return _spectra(fn, kernel * weight, own, value_fn.n)
