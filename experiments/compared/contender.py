"""The common form of methods that are compared: a contender answers for a game within a budget."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np
from games import Game

from spex_jax import Spectrum, ValueFunction, evaluate

Predict = Callable[[np.ndarray], np.ndarray]


class Unsuitable(Exception):
    """A method does not apply: it needs more masks, or chooses its own and the game is a table. Not a failure."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """The prediction that a method fitted to a game, and its cost.

    Attributes:
      predict: masks bool [M, n] -> values float64 [M].
      terms: number of coefficients of the prediction.
      seconds: time outside of the value function, without compilation.
      compile: seconds of compilation.
      masks: the evaluated masks, bool [M, n].
      spectrum: the prediction where it is a spectrum.
    """

    predict: Predict
    terms: int
    seconds: float
    compile: float
    masks: np.ndarray
    spectrum: Spectrum | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """A method that is compared.

    Attributes:
      name: name of the method.
      run: (game, budget, seed) -> `Answer`. Raises `Unsuitable`; any other exception is a failure of the method.
      same_masks: whether it reads the first rows of the game's table, so that such methods see the same masks;
        otherwise it chooses its own masks and needs a game that can evaluate any mask.
      package: the package that it comes from, which must be installed; None for ours.
    """

    name: str
    run: Callable[[Game, int, int], Answer]
    same_masks: bool
    package: str | None = None


class RecordedFunction:
    """A game's value function that records the masks that it evaluates and the seconds that this takes."""

    def __init__(self, value_fn: ValueFunction, store: str | None = None):
        """Wraps a value function; `store` is the folder that keeps ablations."""
        self._value_fn, self._store = value_fn, store
        self._masks: list[np.ndarray] = []
        self.seconds = 0.0

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        """Returns values float64 [M] of masks [M, n] of any type, or of one mask [n]."""
        start = time.perf_counter()
        given = np.atleast_2d(np.asarray(masks)).astype(np.bool_)
        self._masks.append(given)
        values = evaluate(self._value_fn, given, store=self._store, progress=False)
        self.seconds += time.perf_counter() - start
        return values

    @property
    def masks(self) -> np.ndarray:
        """All masks that were evaluated, bool [M, n]."""
        return np.concatenate(self._masks) if self._masks else np.zeros((0, self._value_fn.n), np.bool_)


def asked_of(game: Game) -> RecordedFunction:
    """Returns the game's value function, which records its evaluations.

    Raises:
      Unsuitable: the game is a table of some masks only.
    """
    value_fn = game.value_fn()
    if value_fn is None:
        raise Unsuitable("chooses its own masks, and this game is a table of some masks only")
    return RecordedFunction(value_fn, game.store)
