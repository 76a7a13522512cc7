"""The random streams of one seed, and the numbers that tell them apart.

A call takes one seed. The masks of a method, the folds of a fit and the order or choice of its rows, groups of examples
and resamples of a bootstrap are drawn from the seed itself (`numpy.random.default_rng(seed)`), each from the beginning,
so that these purposes share their random numbers. All others have a stream of their own, which is named here.

Stores and saved explanations hold what was drawn, so stream numbers never change; a new stream takes a free number.
The number of an item, such as an epoch, is not a stream: it is folded into a key where items are counted.
"""

import enum

import numpy as np

__all__ = ["FURTHER_TRAININGS", "Stream", "generator"]


class Stream(enum.IntEnum):
    """NumPy streams of a seed, see `generator`.

    Attributes:
      HELD_OUT_MASKS: the uniform held-out masks of `explain`.
      LEFTOVER_MASKS: the uniform masks that fill up the budget of a SPEX design. The number is that of the held-out
        masks; `masks.uniform` leaves out the masks that it is given, so that the two never share a mask.
      SEED_NOISE: the masks on which `lenses.measure_seed_noise` compares seeds.
      ROWS_HELD_OUT: the rows that are held out where some of all 2^n masks have no value.
      ADAPTIVE: the candidates of adaptive sampling; the number of the batch follows.
      CONTEXTS: the contexts of the discrete derivatives that check an explanation.
      WALSH_GP_START: the scales from which the proxy `walsh_gp` starts to learn.
      WALSH_GP_STEPS: the rows of each step of its learning.
      WALSH_GP_DRAWS: the draws of its posterior.
      MLP_FOLDS: the networks of the proxy `mlp` that are trained without a fold, whose number follows: the initial
        parameters, then the rows of each step.
      MLP_MEMBERS: the networks of its ensemble in the same way; the number of the network follows.
      MLP_QUERIES: the masks at which the ensemble is evaluated to read its spectrum.
      WALSH_GP_WINDOWS: the rows of each step in which `walsh_gp` learns the scales of windows.
      RELEVANCE: the masks at which the gradients of `ValueFunction.relevance` are taken.
      NEAR_FULL: masks near the full one; the number of the block may follow.
    """

    HELD_OUT_MASKS = 1
    LEFTOVER_MASKS = HELD_OUT_MASKS
    SEED_NOISE = 2
    ROWS_HELD_OUT = 3
    ADAPTIVE = 4
    CONTEXTS = 5
    WALSH_GP_START = 6
    WALSH_GP_STEPS = 7
    WALSH_GP_DRAWS = 8
    MLP_FOLDS = 9
    MLP_MEMBERS = 10
    MLP_QUERIES = 11
    WALSH_GP_WINDOWS = 12
    RELEVANCE = 13
    NEAR_FULL = 14


# Added to the number of a training that gradients need beyond those of the lens: `measure_seed_noise` folds the numbers
# of its repeats, from 1 on, out of the same keys.
FURTHER_TRAININGS = 1_000


def generator(seed: int, stream: Stream, *index: int) -> np.random.Generator:
    """Returns the NumPy generator of a stream of a seed, and of an index within the stream where it has one."""
    return np.random.default_rng([seed, stream, *index])
