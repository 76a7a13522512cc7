"""Draws the masks to evaluate, by a sampling that suits the index.

Uniform masks suit R2, Fourier and Banzhaf-type indices. Shapley-type indices give weight to small and large coalitions:
their masks are drawn by coalition size, each with its complement.
"""

from typing import Literal, get_args

import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.core.indices import Index, find_index
from spex_jax.utils.seeds import Stream, generator

__all__ = [
    "ACQUISITIONS",
    "PAIRED",
    "SAMPLINGS",
    "Acquisition",
    "Focus",
    "Sampling",
    "by_size",
    "check",
    "draw",
    "for_index",
    "leave_out",
    "near_full",
    "nearly_full",
]

Sampling = Literal["uniform", "mixed", "size", "kernel_shap", "pairs", "leave_one_out"]
Acquisition = Literal["information", "interactions", "index", "uniform"]
Focus = Literal["full"]
SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)
ACQUISITIONS: tuple[Acquisition, ...] = get_args(Acquisition)
PAIRED = ("mixed", "size", "kernel_shap")  # drawn by coalition size, each mask with its complement

NEAR = 4  # most features that a mask near the full one removes
_FEW = 25_000
_DRAWN = 1024  # pairs in a block; whole blocks are drawn whatever the count


def for_index(index: str | Index) -> Sampling:
    """Returns the sampling that suits an index (BUILD_NOTES.md)."""
    return "mixed" if find_index(index).shapley_type else "uniform"


def check(sampling: str, *, adaptive: bool = False) -> None:
    """Raises ValueError for an unknown sampling; "adaptive" is known where `adaptive` is true."""
    known = (*SAMPLINGS, "adaptive") if adaptive else SAMPLINGS
    if sampling not in known:
        raise ValueError(f"unknown sampling {sampling!r}; expected one of {', '.join(known)}")


def _ends(n: int) -> np.ndarray:
    return np.stack([np.ones(n, np.bool_), np.zeros(n, np.bool_)])


def _shares(sampling: str, n: int) -> np.ndarray:
    """Returns the probabilities float64 [n - 1] of the coalition sizes 1 to n - 1."""
    sizes = np.arange(1, n)
    kernel = 1 / (sizes * (n - sizes))
    if sampling == "kernel_shap":
        return np.asarray(kernel / kernel.sum())
    if sampling == "size":
        return np.full(n - 1, 1 / (n - 1))
    from scipy import stats

    uniform = stats.binom.pmf(sizes, n, 0.5)
    return np.asarray(kernel / kernel.sum() + uniform / uniform.sum()) / 2


def by_size(n: int, count: int, rng: np.random.Generator, share: np.ndarray, *, border: bool) -> np.ndarray:
    """Draws distinct masks by coalition size, each followed by its complement; the full and the empty mask come first.

    All masks of one size are equally likely. A mask that was drawn before is drawn again. A larger count returns the
    same masks and further ones.

    Args:
      n: number of features, at least 2.
      count: number of masks.
      rng: numpy generator.
      share: float64 [n - 1], the probabilities of the coalition sizes 1 to n - 1; those of s and n - s are equal.
      border: whether every second pair is one feature alone and all but this one, until there are no more of them.

    Returns:
      bool [count, n].

    Raises:
      ValueError: fewer than `count` distinct masks exist.
    """
    if count < 2 or (n < 63 and count > 2**n):
        raise ValueError(f"cannot draw {count} distinct masks of {n} features, the full and the empty one among them")
    alone = np.eye(n, dtype=np.bool_)[rng.permutation(n) if border else []]
    drawn = np.zeros((0, n), np.bool_)
    if n <= 20:  # few enough to put all masks in a random order
        drawn = _all_in_random_order(n, rng, share)[: count // 2 + n]
    while True:
        turns = min(len(alone), len(drawn))
        mixed = np.stack([drawn[:turns], alone[:turns]], axis=1).reshape(2 * turns, n)
        first = np.concatenate([mixed, drawn[turns:]])
        masks = np.concatenate([_ends(n), np.stack([first, ~first], axis=1).reshape(-1, n)])
        masks = masks[masks_lib.deduplicate(masks)[0]]
        if len(masks) >= count:
            return np.asarray(masks[:count])
        blocks = -(-(count - len(masks)) // (2 * _DRAWN))
        drawn = np.concatenate([drawn, *(_block(n, rng, share) for _ in range(blocks))])


def _block(n: int, rng: np.random.Generator, share: np.ndarray) -> np.ndarray:
    """Draws masks bool [_DRAWN, n]; whole blocks, so that a larger count begins with the same random numbers."""
    size = rng.choice(np.arange(1, n), _DRAWN, p=share)
    rank = rng.permuted(np.broadcast_to(np.arange(n), (_DRAWN, n)), axis=1)
    return rank < size[:, None]


def _all_in_random_order(n: int, rng: np.random.Generator, share: np.ndarray) -> np.ndarray:
    """Returns one mask of every pair but the full and the empty mask, bool [2^(n-1) - 1, n], in the random order of
    weighted draws without replacement: exponential races (Efraimidis and Spirakis, 2006).
    """
    from scipy import special

    each = masks_lib.all_masks(n - 1)[1:]  # the mask of each pair that removes the last feature
    size = each.sum(axis=1)
    counts = special.comb(n, np.arange(n + 1))
    order = np.argsort(rng.exponential(size=len(each)) * (counts / np.array([1, *share, 1]))[size], kind="stable")
    first = np.pad(each[order], ((0, 0), (0, 1)))
    return first ^ rng.integers(0, 2, (len(first), 1)).astype(np.bool_)


def leave_out(n: int, count: int, rng: np.random.Generator, *, most: int) -> np.ndarray:
    """Returns the full and the empty mask, every mask that removes one feature, those that remove two in a random
    order, and uniform masks up to `count`.

    Args:
      n: number of features.
      count: number of masks.
      rng: numpy generator.
      most: 1 or 2, the largest number of features removed.

    Returns:
      bool [count, n], distinct.
    """
    parts = [_ends(n), ~np.eye(n, dtype=np.bool_)]
    if most == 2 and n > 1:
        left, right = np.triu_indices(n, 1)
        order = rng.permutation(len(left))[: max(0, count - 2 - n)]
        pairs = np.ones((len(order), n), np.bool_)
        pairs[np.arange(len(order)), left[order]] = pairs[np.arange(len(order)), right[order]] = False
        parts.append(pairs)
    masks = np.concatenate(parts)
    masks = masks[masks_lib.deduplicate(masks)[0]][:count]
    return masks_lib.uniform(n, count, rng, given=masks)


def nearly_full(masks: np.ndarray) -> np.ndarray:
    """Returns which masks bool [M, n] are near the full one: they remove 1 to 4 features, and fewer than half."""
    removed = (~masks).sum(axis=1)
    return np.asarray((removed >= 1) & (removed <= min(NEAR, (masks.shape[1] - 1) // 2)))


def near_full(n: int, count: int, seed: int, given: np.ndarray) -> np.ndarray:
    """Draws distinct masks near the full one, all numbers of removed features from 1 to 4 equally likely.

    Args:
      n: number of features.
      count: number of masks.
      seed: seed of the draw; a larger count returns the same masks and further ones.
      given: bool [M, n], masks that are not drawn again.

    Returns:
      bool [at most count, n]; fewer where there are no more of them.
    """
    most = min(NEAR, (n - 1) // 2)
    if most < 1:
        return np.zeros((0, n), np.bool_)
    if masks_lib.number_of_sets(n, most) <= _FEW:  # few enough to put all of them in a random order
        every = ~masks_lib.sets_up_to(n, most)[1:]
        rng = generator(seed, Stream.NEAR_FULL)
        size = (~every).sum(axis=1)
        # Exponential races with equal weight for each size (Efraimidis and Spirakis, 2006).
        race = rng.exponential(size=len(every)) * np.bincount(size)[size]
        drawn = every[np.argsort(race, kind="stable")]
    else:
        drawn = np.zeros((0, n), np.bool_)
        block = 0
        while len(drawn) < count + len(given):
            rng = generator(seed, Stream.NEAR_FULL, block)
            removed = rng.integers(1, most + 1, _DRAWN)
            rank = rng.permuted(np.broadcast_to(np.arange(n), (_DRAWN, n)), axis=1)
            drawn = np.concatenate([drawn, rank >= removed[:, None]])
            drawn, block = drawn[masks_lib.deduplicate(drawn)[0]], block + 1
    return masks_lib.not_among(drawn, given)[:count]


def draw(sampling: str, n: int, count: int, seed: int) -> np.ndarray:
    """Draws distinct masks, the full and the empty one first; a larger count returns the same masks and further ones.

    Args:
      sampling: "uniform"; "size" (coalition sizes uniform, with complements); "kernel_shap" (sizes by the KernelSHAP
        weights, Lundberg and Lee 2017, https://arxiv.org/abs/1705.07874, theorem 2, with complements, alternating with
        each feature alone and all but it); "mixed" (the same, with half of the sizes as of uniform masks); "pairs" (all
        masks that remove one or two features, as many as there is room for, then uniform ones); "leave_one_out" (all
        masks that remove one feature, then uniform ones).
      n: number of features.
      count: number of masks.
      seed: seed of the draw.

    Returns:
      bool [count, n].

    Raises:
      ValueError: the sampling is unknown, or there are fewer than `count` distinct masks.
    """
    check(sampling)
    rng = np.random.default_rng(seed)
    if sampling == "uniform":
        return masks_lib.uniform(n, count, rng, given=_ends(n)[:count])
    if sampling in PAIRED:
        if n == 1:
            return _ends(n)[:count]
        return by_size(n, count, rng, _shares(sampling, n), border=sampling != "size")
    return leave_out(n, count, rng, most=2 if sampling == "pairs" else 1)
