"""The methods of this package."""

import functools
from collections.abc import Callable
from typing import Any

from games import Game

import spex_jax
from compared.contender import Answer, Contender, Unsuitable, asked_of
from spex_jax import Spectrum, baselines, proxyspex
from spex_jax.core.ablations import Ablations
from spex_jax.methods import Method
from spex_jax.utils.timing import Stopwatch


def _answer(spectrum: Spectrum, watch: Stopwatch, masks: Any) -> Answer:
    return Answer(
        predict=spectrum,
        terms=len(spectrum),
        seconds=watch.seconds["fit"],
        compile=watch.seconds["compile"],
        masks=masks,
        spectrum=spectrum,
    )


def _of_table(fit: Callable[[Ablations, int], Spectrum], game: Game, budget: int, seed: int) -> Answer:
    """Fits the first rows of the game."""
    ablations = Ablations.to_fit(game.masks[:budget], game.values[:budget], coordinates=game.coordinates)
    watch = Stopwatch("fit")
    with watch.phase("fit"):
        spectrum = fit(ablations, seed)
    return _answer(spectrum, watch, ablations.masks)


def _proxy(name: str, *, places: bool = True) -> Contender:
    def fit(ablations: Ablations, seed: int) -> Spectrum:
        where = ablations.coordinates if places else None
        return proxyspex.fit(ablations.masks, ablations.values, proxy=name, seed=seed, coordinates=where)

    shown = name if places else f"{name}, no places"
    return Contender(name=shown, run=functools.partial(_of_table, fit), same_masks=True)


def _of_masks(game: Game, budget: int, seed: int, *, method: Method, drawn: bool) -> Answer:
    """Fits a method of `explain` with nothing held out, to the game's masks or to those that the method draws."""
    method = method.complete("FSII" if drawn else "FBII")
    if budget < (least := method.least(game.n)):
        raise Unsuitable(f"needs {least} masks")
    if not drawn:
        return _of_table(method.fit, game, budget, seed)
    value_fn, watch = asked_of(game), Stopwatch("fit", "model")
    with watch.phase("fit"):
        masks, design = method.draw(game.n, budget, seed)
        with watch.phase("model"):
            values = value_fn(masks)
        spectrum = method.fit(Ablations.to_fit(masks, values, design, game.coordinates), seed)
    return _answer(spectrum, watch, masks)


def _method(name: str, method: Method, *, drawn: bool) -> Contender:
    run = functools.partial(_of_masks, method=method, drawn=drawn)
    return Contender(name=name, run=run, same_masks=not drawn)


def _lasso(ablations: Ablations, seed: int) -> Spectrum:
    del seed
    return baselines.datamodels(ablations.masks, ablations.values)


OWN = (
    *(_proxy(name) for name in proxyspex.PROXIES),
    *(_proxy(name, places=False) for name in ("auto", "walsh_gp")),  # what coordinates add
    _method("spex", spex_jax.SPEX(), drawn=True),
    _method("spex, residual of walsh_gp", spex_jax.SPEX(residual_of="walsh_gp"), drawn=True),
    Contender(name="lasso", run=functools.partial(_of_table, _lasso), same_masks=True),
    _method("lime", spex_jax.LIME(sampling="uniform"), drawn=False),
    _method("banzhaf", spex_jax.Banzhaf(), drawn=False),
    _method("faith_banzhaf", spex_jax.FaithBanzhaf(), drawn=False),
    _method("kernel_shap", spex_jax.KernelSHAP(), drawn=True),
    _method("faith_shapley", spex_jax.FaithShapley(), drawn=True),
    _method("permutation_shapley", spex_jax.PermutationShapley(), drawn=True),
    _method("leave_one_out", spex_jax.LeaveOneOut(), drawn=True),
)
