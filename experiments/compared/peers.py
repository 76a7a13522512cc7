"""Methods of other packages (extra: peers): spectralexplain, which the papers' authors published, and shapiq."""

import contextlib
import functools
import importlib.util
import io
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from games import Game

from compared.contender import Answer, Contender, Predict, Unsuitable, asked_of
from spex_jax import Spectrum
from spex_jax.core.masks import number_of_sets

_DEGREE = 5  # largest degree of a term and most errors that a code corrects, the peers' default
_FEWEST_BITS = 3  # fewest bits that number the bins of a group
_LARGEST = 16  # most features for which shapiq's regressions of order 2 are run
_ROWS = 4096  # masks that are predicted at once


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what other packages print, and their warnings."""
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # with more threads the public decoder is ten times slower
    ignored = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(ignored), contextlib.redirect_stderr(ignored):
        warnings.simplefilter("ignore")
        yield


def _spectrum(found: Mapping[Any, Any], n: int) -> Spectrum:
    """Returns the spectrum of a mapping from 0/1 tuples of length n to coefficients."""
    if not found:
        return Spectrum(np.zeros((1, n), np.bool_), np.zeros(1))
    support = np.array([list(map(bool, key)) for key in found])
    return Spectrum(support, np.array([float(np.real(value)) for value in found.values()]))


def of_sets(found: Mapping[tuple[int, ...], float], n: int) -> Predict:
    """Returns the function whose value at a mask is the sum of the numbers of all sets that the mask keeps whole."""
    members = np.zeros((len(found), n))
    for row, key in zip(members, found, strict=True):
        row[list(key)] = 1
    sizes, numbers = members.sum(axis=1), np.array(list(found.values()), np.float64)

    def predict(masks: np.ndarray) -> np.ndarray:
        parts = [masks[start : start + _ROWS] for start in range(0, len(masks), _ROWS)]
        return np.concatenate([(part.astype(np.float64) @ members.T == sizes) @ numbers for part in parts])

    return predict


def proxy_spex(masks: np.ndarray, values: np.ndarray) -> Spectrum:
    """Fits spectralexplain's ProxySPEX, with its own grid of LightGBM settings."""
    from spectralexplain import utils

    with _quiet():
        return _spectrum(utils.proxy_spex((masks.astype(int), values), max_order=_DEGREE), masks.shape[1])


def public_proxyspex(game: Game, budget: int, seed: int) -> Answer:
    """Runs `proxy_spex` on the game's masks."""
    from spectralexplain import utils  # imported here so that the import is not timed

    del seed, utils
    masks, values = game.masks[:budget], game.values[:budget]
    start = time.perf_counter()
    spectrum = proxy_spex(masks, values)
    seconds = time.perf_counter() - start
    return Answer(predict=spectrum, terms=len(spectrum), seconds=seconds, compile=0.0, masks=masks, spectrum=spectrum)


def public_decoder(value_fn: Any, n: int, b: int, t: int, kind: str) -> tuple[Spectrum, float]:
    """Returns what spectralexplain decodes ("soft" or "hard") from its own design, and the seconds of the decoding.

    These leave out the construction of the code, which the package repeats at each call and could keep.
    """
    with _quiet():
        from sparse_transform.qsft.codes.BCH import BCH
        from spectralexplain.support_recovery import sampling_strategy, support_recovery

        signal, _ = sampling_strategy(lambda masks: value_fn(np.asarray(masks).astype(np.bool_)), b, b, n, None, t)
        start = time.perf_counter()
        BCH(n, t)
        made = time.perf_counter()
        found = support_recovery(kind, signal, b, t)
        seconds = time.perf_counter() - made - (made - start)
    return _spectrum(found, n), seconds


def public_spex(game: Game, budget: int, seed: int, *, kind: str) -> Answer:
    """Runs spectralexplain's SPEX with the most bins that the budget allows, and, as shapiq does, with a code that
    corrects fewer errors where there would be fewer than 8 bins.
    """
    from sparse_transform.qsft.signals.input_signal_subsampled import SubsampledSignal

    value_fn = asked_of(game)
    settings = {"num_subsample": 3, "delays_method_source": "joint-coded", "delays_method_channel": "identity-siso"}
    for t in range(_DEGREE, 1, -1):
        with _quiet():
            b = SubsampledSignal.get_b_for_sample_budget(budget, game.n, t, 2, {**settings, "num_repeat": 1, "t": t})
        if b >= _FEWEST_BITS:
            break
    else:
        raise Unsuitable("needs more masks")
    np.random.seed(seed)  # noqa: NPY002 (the package draws from it)
    spectrum, seconds = public_decoder(value_fn, game.n, b, t, kind)
    return Answer(
        predict=spectrum, terms=len(spectrum), seconds=seconds, compile=0.0, masks=value_fn.masks, spectrum=spectrum
    )


class _Rows:
    """Stands in for shapiq's sampler and draws the first rows of a table."""

    def __init__(self, masks: np.ndarray):
        self.coalitions_matrix = masks.astype(int)

    def sample(self, budget: int) -> None:
        assert budget == len(self.coalitions_matrix)


def shapiq_proxyspex(game: Game, budget: int, seed: int) -> Answer:
    """Runs shapiq's ProxySPEX on the game's masks and reads its refined spectrum before it becomes an index."""
    from shapiq.approximator import ProxySPEX

    kept: dict[str, Any] = {}

    class Kept(ProxySPEX):
        def _refine(self, *given: Any, **named: Any) -> Any:
            kept["spectrum"] = super()._refine(*given, **named)
            kept["seconds"] = time.perf_counter()
            return kept["spectrum"]

    masks, values = game.masks[:budget], game.values[:budget]
    with _quiet():
        start = time.perf_counter()
        approximator: Any = Kept(n=game.n, index="FBII", max_order=2, random_state=seed)
        approximator._sampler = _Rows(masks)
        approximator.approximate(budget, lambda _: values)
    found = {tuple(int(i in key) for i in range(game.n)): value for key, value in kept["spectrum"].items()}
    spectrum = _spectrum(found, game.n)
    return Answer(
        predict=spectrum,
        terms=len(found),
        seconds=kept["seconds"] - start,
        compile=0.0,
        masks=masks,
        spectrum=spectrum,
    )


def shapiq_spex(game: Game, budget: int, seed: int) -> Answer:
    """Runs shapiq's SPEX (soft) and reads its Moebius transform before it becomes an index."""
    from shapiq.approximator import SPEX

    value_fn = asked_of(game)
    kept: dict[str, Any] = {}

    class Kept(SPEX):
        def _process_moebius(self, moebius_transform: Any) -> Any:
            kept["sets"] = dict(moebius_transform)
            kept["seconds"] = time.perf_counter()
            return super()._process_moebius(moebius_transform)

    np.random.seed(seed)  # noqa: NPY002 (the package draws from it)
    with _quiet():
        start = time.perf_counter()
        try:
            approximator = Kept(n=game.n, index="FBII", max_order=2, random_state=seed)
            approximator.approximate(budget, value_fn)
        except ValueError as error:
            if "Insufficient budget" not in str(error):
                raise
            raise Unsuitable("needs more masks") from error
    return Answer(
        predict=of_sets(kept["sets"], game.n),
        terms=len(kept["sets"]),
        seconds=kept["seconds"] - start - value_fn.seconds,
        compile=0.0,
        masks=value_fn.masks,
    )


def shapiq_regression(game: Game, budget: int, seed: int, *, name: str, order: int) -> Answer:
    """Runs shapiq's KernelSHAP, KernelSHAPIQ or RegressionFSII; a mask's value is the sum over the sets it keeps."""
    from shapiq import approximator

    if order > 1 and game.n > _LARGEST:
        raise Unsuitable(f"run up to {_LARGEST} features only")
    given: dict[str, Any] = {"n": game.n, "random_state": seed}
    if order > 1:
        given["max_order"] = order
    if name == "KernelSHAPIQ":
        given["index"] = "k-SII"
    fewest = number_of_sets(game.n, order)
    if budget < fewest:
        raise Unsuitable(f"needs {fewest} masks")
    value_fn = asked_of(game)
    with _quiet():
        start = time.perf_counter()
        found = getattr(approximator, name)(**given).approximate(budget, value_fn)
        seconds = time.perf_counter() - start - value_fn.seconds
    sets = {tuple(key): float(found[key]) for key in found.interaction_lookup if key}
    sets[()] = float(found.baseline_value)
    return Answer(predict=of_sets(sets, game.n), terms=len(sets), seconds=seconds, compile=0.0, masks=value_fn.masks)


PEERS = (
    Contender(name="ProxySPEX (published)", run=public_proxyspex, same_masks=True, package="spectralexplain"),
    Contender(
        name="SPEX soft (published)",
        run=functools.partial(public_spex, kind="soft"),
        same_masks=False,
        package="spectralexplain",
    ),
    Contender(
        name="SPEX hard (published)",
        run=functools.partial(public_spex, kind="hard"),
        same_masks=False,
        package="spectralexplain",
    ),
    Contender(name="ProxySPEX (shapiq)", run=shapiq_proxyspex, same_masks=True, package="shapiq"),
    Contender(name="SPEX (shapiq)", run=shapiq_spex, same_masks=False, package="shapiq"),
    *(
        Contender(
            name=f"{name} (shapiq)",
            run=functools.partial(shapiq_regression, name=name, order=order),
            same_masks=False,
            package="shapiq",
        )
        for name, order in (("KernelSHAP", 1), ("KernelSHAPIQ", 2), ("RegressionFSII", 2))
    ),
)


def missing_packages(names: Iterable[str]) -> list[str]:
    """Returns the sorted names of those packages that are not installed."""
    return sorted(name for name in set(names) if importlib.util.find_spec(name) is None)


def missing(contenders: Iterable[Contender]) -> list[str]:
    """Returns the packages of these contenders that are not installed."""
    return missing_packages(contender.package for contender in contenders if contender.package)
