"""What a method that is compared is."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np
from games import Game

from spex_jax import Spectrum, ValueFunction, evaluate

Predict = Callable[[np.ndarray], np.ndarray]


class Unsuitable(Exception):
    """A method cannot be asked this: too few masks for it, or a table where it chooses its own. Not a failure."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a method found.

    Attributes:
      predict: masks bool [M, n] -> values float64 [M].
      terms: coefficients of the prediction.
      seconds: outside of the value function, without compilation.
      compile: seconds of compilation.
      masks: what was asked, bool [M, n].
      spectrum: where it is one.
    """

    predict: Predict
    terms: int
    seconds: float
    compile: float
    masks: np.ndarray
    spectrum: Spectrum | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """A method.

    Attributes:
      name: of the method.
      run: (game, budget, seed) -> `Answer`. Raises `Unsuitable`; whatever else it raises is a failure of the method.
      same_masks: whether it reads the first rows of the game's table, as all of these do; otherwise it chooses its own
        masks and needs a game that answers them.
      package: the package that it is of, which must be installed; None for ours.
    """

    name: str
    run: Callable[[Game, int, int], Answer]
    same_masks: bool
    package: str | None = None


class Asked:
    """A game's value function that notes what it is asked, and the seconds that this takes."""

    def __init__(self, value_fn: ValueFunction, store: str | None = None):
        """Nothing asked so far; `store` is the folder that keeps ablations."""
        self._value_fn, self._store = value_fn, store
        self._masks: list[np.ndarray] = []
        self.seconds = 0.0

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        """Values float64 [M] of masks [M, n] of any type, or of one mask [n]."""
        start = time.perf_counter()
        given = np.atleast_2d(np.asarray(masks)).astype(np.bool_)
        self._masks.append(given)
        values = evaluate(self._value_fn, given, store=self._store, progress=False)
        self.seconds += time.perf_counter() - start
        return values

    @property
    def masks(self) -> np.ndarray:
        """All that was asked."""
        return np.concatenate(self._masks) if self._masks else np.zeros((0, self._value_fn.n), np.bool_)


def asked_of(game: Game) -> Asked:
    """The game's value function.

    Raises:
      Unsuitable: the game is a table of some masks.
    """
    value_fn = game.value_fn()
    if value_fn is None:
        raise Unsuitable("chooses its own masks, and this game is a table of some")
    return Asked(value_fn, game.store)
