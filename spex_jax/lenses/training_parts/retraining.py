"""Trainings on subsets of a data set as one program: vmapped over masks and seeds, scanned over steps.

M masks, R seeds, K = M R trainings, N training examples, T test points, C classes, B examples of a batch.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Retraining", "in_dtype", "seed_keys"]

_CHUNKS = 8  # parts of a batch of all examples; those without kept examples are skipped
_CHUNK = 64  # examples in such a part, at least

Tree = Any
_State = tuple[Tree, Tree]  # parameters and state of the optimiser


def in_dtype(tree: Tree, dtype: Any) -> Tree:
    """Returns a pytree with its floats in another dtype; None leaves them."""
    if dtype is None:
        return tree
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["x", "y", "x_test", "y_test", "group", "keys"],
    meta_fields=["init", "apply", "loss", "watch", "optimizer", "steps", "epochs", "batch", "mean", "dtype"],
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Retraining:
    """Maps masks bool [M, n] to values [M, T] (or [M], their mean): each mask is a training on the groups it keeps.

    Attributes:
      x, y: training examples, pytrees of arrays [N, ...].
      x_test, y_test: test points [T, ...].
      group: int32 [N], the group of each example, -1 where it is always kept.
      keys: keys [R], one for each seed, for the initial parameters and the order of the examples.
      init: key -> parameters.
      apply: (parameters, x [B, ...]) -> logits [B, C], in which the examples are independent.
      loss: (logits, y) -> [B].
      watch: (logits float32 [T, C], y [T]) -> values [T].
      optimizer: an `optax.GradientTransformation`.
      steps: updates of every training; None where `epochs` is given.
      epochs: passes over the kept examples; None where `steps` is given.
      batch: examples in a step; None is all that are kept.
      mean: whether the value is the mean over test points.
      dtype: for the forward and backward pass; None is that of the parameters, which keep theirs in any case.
    """

    identity_name: ClassVar[str] = "spex_jax.Retraining"

    x: Tree
    y: Tree
    x_test: Tree
    y_test: Tree
    group: jax.Array
    keys: jax.Array
    init: Callable[..., Tree]
    apply: Callable[..., jax.Array]
    loss: Callable[..., jax.Array]
    watch: Callable[..., jax.Array]
    optimizer: Any
    steps: int | None
    epochs: int | None
    batch: int | None
    mean: bool
    dtype: Any

    @property
    def examples(self) -> int:
        """N, the number of training examples."""
        return len(self.group)

    @property
    def batches(self) -> int:
        """The number of steps that see every example once where all are kept."""
        return 1 if self.batch is None else -(-self.examples // self.batch)

    def __call__(self, masks: jax.Array) -> jax.Array:
        """Returns values float32 [M, T], or [M], each the mean over seeds."""
        params = self.trained(masks)
        values = jax.vmap(lambda one: self.values(one, self.x_test, self.y_test))(params)
        values = values.reshape(len(masks), len(self.keys), -1).mean(axis=1)
        return values.mean(axis=1) if self.mean else values

    def logits(self, params: Tree, x: Tree) -> jax.Array:
        """Returns logits float32 [B, C] of one network."""
        return self.apply(in_dtype(params, self.dtype), in_dtype(x, self.dtype)).astype(jnp.float32)

    def values(self, params: Tree, x: Tree, y: Tree) -> jax.Array:
        """Returns the values float32 [B] of one network at examples."""
        return self.watch(self.logits(params, x), y)

    def losses(self, params: Tree, x: Tree, y: Tree) -> jax.Array:
        """Returns the losses float32 [B] of one network."""
        return self.loss(self.logits(params, x), y).astype(jnp.float32)

    def kept(self, masks: jax.Array) -> jax.Array:
        """Returns which examples the masks keep, bool [M, N]."""
        return (self.group < 0) | masks[:, jnp.maximum(self.group, 0)]

    def trained(self, masks: jax.Array) -> Tree:
        """Returns the parameters with leaves [K, ...] after training, all seeds of a mask next to each other.

        A training goes through the kept examples batch after batch, so that no work is done for the others. Every
        `batches` steps the order is drawn anew. With `epochs` that is once for each pass, whose last batch is smaller
        where it has to be; with `steps` a pass that ends earlier begins again with the same order. A mask that keeps
        nothing leaves the initial parameters.
        """
        seeds, count = len(self.keys), len(masks) * len(self.keys)
        kept = jnp.repeat(self.kept(masks), seeds, axis=0)  # [K, N]
        sizes = kept.sum(axis=1)
        ways = jax.vmap(functools.partial(jax.random.split, num=2))(self.keys)  # initial parameters, orders

        def of_all(leaf: jax.Array) -> jax.Array:
            return jnp.broadcast_to(leaf, (len(masks), *leaf.shape)).reshape(count, *leaf.shape[1:])

        params = jax.tree.map(of_all, jax.vmap(self.init)(ways[:, 0]))
        passes = self.epochs if self.epochs is not None else -(-(self.steps or 0) // self.batches)

        def one_pass(state: _State, number: jax.Array) -> tuple[_State, None]:
            order = self._order(kept, ways[:, 1], number)

            def step(state: _State, place: jax.Array) -> tuple[_State, None]:
                positions, weight = self._batch(sizes, number * self.batches + place, place)
                rows = jnp.take_along_axis(order, positions, axis=1)
                update = functools.partial(self._step, rows=rows, weight=weight)
                return jax.lax.cond(weight.any(), update, lambda state: state, state), None

            return jax.lax.scan(step, state, jnp.arange(self.batches))[0], None

        start = (params, jax.vmap(self.optimizer.init)(params))
        return jax.lax.scan(one_pass, start, jnp.arange(passes))[0][0]

    def _order(self, kept: jax.Array, keys: jax.Array, number: jax.Array) -> jax.Array:
        """Returns the numbers of the examples int32 [K, N] in the order of a pass, the kept ones first."""
        if self.batch is None:
            shuffled = jnp.broadcast_to(jnp.arange(self.examples), (len(keys), self.examples))
        else:
            shuffled = jax.vmap(lambda key: jax.random.permutation(jax.random.fold_in(key, number), self.examples))(
                keys
            )
        shuffled = jnp.tile(shuffled, (len(kept) // len(keys), 1))
        there = jnp.take_along_axis(kept, shuffled, axis=1)
        return jnp.take_along_axis(shuffled, jnp.argsort(~there, axis=1, stable=True), axis=1)

    def _batch(self, sizes: jax.Array, step: jax.Array, place: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the places int32 [K, B] in the order of the batch at `place` of a pass; which count, bool [K, B].

        Places that do not count are that of the last kept example, so that no other example is ever read.
        """
        size = self.examples if self.batch is None else min(self.batch, self.examples)
        within, last = jnp.arange(size), jnp.maximum(sizes - 1, 0)[:, None]
        if self.epochs is not None:
            positions = jnp.broadcast_to(place * size + within, (len(sizes), size))
            return jnp.minimum(positions, last), positions < sizes[:, None]
        positions = (place * size + within) % (last + 1)
        return positions, (within < sizes[:, None]) & (step < (self.steps or 0))

    def _step(self, state: _State, *, rows: jax.Array, weight: jax.Array) -> _State:
        """Updates K networks once by the mean loss of the examples `rows` int32 [K, B] that count. One without any
        stays as it is, and so does its optimiser.
        """
        params, memory = state
        if self.batch is None and self.examples > _CHUNK:
            gradients = self._in_chunks(params, rows, weight)
        else:
            gradients = self._gradients(params, rows, weight)
        count = weight.sum(axis=1)

        def update(params: Tree, memory: Tree, gradients: Tree, count: jax.Array) -> _State:
            gradients = jax.tree.map(lambda leaf: leaf / jnp.maximum(count, 1), gradients)
            updates, after = self.optimizer.update(gradients, memory, params)
            moved = jax.tree.map(lambda old, change: (old + change).astype(old.dtype), params, updates)
            new: _State = jax.tree.map(lambda a, b: jnp.where(count > 0, a, b), (moved, after), (params, memory))
            return new

        return jax.vmap(update)(params, memory, gradients, count)

    def _gradients(self, params: Tree, rows: jax.Array, weight: jax.Array) -> Tree:
        """Returns gradients of the summed losses of the examples that count, leaves [K, ...]."""

        def total(params: Tree, rows: jax.Array, weight: jax.Array) -> jax.Array:
            x, y = jax.tree.map(lambda leaf: leaf[rows], (self.x, self.y))
            return jnp.where(weight, self.losses(params, x, y), 0.0).sum()

        return jax.vmap(jax.grad(total))(params, rows, weight)

    def _in_chunks(self, params: Tree, rows: jax.Array, weight: jax.Array) -> Tree:
        """Returns the same for a batch of all examples: the kept ones are first, and parts without any are skipped."""
        size = max(_CHUNK, -(-self.examples // _CHUNKS))
        parts = -(-self.examples // size)
        padding = ((0, 0), (0, parts * size - self.examples))
        # Padding repeats the last place, which is a kept example: no other may be read, whatever its weight.
        rows = jnp.pad(rows, padding, mode="edge").reshape(len(rows), parts, size)
        weight = jnp.pad(weight, padding).reshape(len(weight), parts, size)

        def add(total: Tree, part: tuple[jax.Array, jax.Array]) -> tuple[Tree, None]:
            def more(total: Tree) -> Tree:
                return jax.tree.map(jnp.add, total, self._gradients(params, *part))

            return jax.lax.cond(part[1].any(), more, lambda total: total, total), None

        zero = jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(add, zero, (rows.swapaxes(0, 1), weight.swapaxes(0, 1)))[0]


def seed_keys(seed: int, count: int) -> jax.Array:
    """Returns keys [count], one for each training of a mask."""
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(np.arange(count))
