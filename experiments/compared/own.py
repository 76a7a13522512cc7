"""The methods of this package."""

import functools
from collections.abc import Callable
from typing import Any

from games import Game

import spex_jax
from compared.contender import Answer, Contender, Unsuitable, asked_of
from spex_jax import Spectrum, baselines, proxyspex
from spex_jax.core.ablations import Ablations
from spex_jax.core.side_information import SideInformation, side_information
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


def _known(game: Game) -> SideInformation:
    return side_information(game.n, coordinates=game.coordinates)


def _of_table(fit: Callable[[Ablations, int], Spectrum], game: Game, budget: int, seed: int) -> Answer:
    """Fits the first rows of the game."""
    ablations = Ablations.to_fit(game.masks[:budget], game.values[:budget], known=_known(game))
    watch = Stopwatch("fit")
    with watch.phase("fit"):
        spectrum = fit(ablations, seed)
    return _answer(spectrum, watch, ablations.masks)


def _proxy(name: str, *, places: bool = True) -> Contender:
    def fit(ablations: Ablations, seed: int) -> Spectrum:
        where = ablations.known.coordinates if places else None
        return proxyspex.fit(ablations.masks, ablations.values, proxy=name, seed=seed, coordinates=where)

    shown = name if places else f"{name}, no places"
    return Contender(name=shown, run=functools.partial(_of_table, fit), same_masks=True)


def _with_gradients(game: Game, budget: int, seed: int) -> Answer:
    """Fits as many rows fewer as gradients cost in forward passes, with what the gradients say of relevance."""
    value_fn, watch = game.live, Stopwatch("fit", "model")
    if value_fn is None or not value_fn.has_relevance:
        raise Unsuitable("has no gradients by how far a feature is kept")
    with watch.phase("model"):
        own = value_fn.relevance(seed=seed)
    if budget - own.passes < game.n:
        raise Unsuitable(f"needs {own.passes + game.n} masks: gradients cost {own.passes}")
    masks, values = game.masks[: budget - own.passes], game.values[: budget - own.passes]
    with watch.phase("fit"):
        spectrum = proxyspex.fit(masks, values, seed=seed, coordinates=game.coordinates, relevance=own)
    return _answer(spectrum, watch, masks)


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
        spectrum = method.fit(Ablations.to_fit(masks, values, design, _known(game)), seed)
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
    Contender(name="auto, relevance", run=_with_gradients, same_masks=True),
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
