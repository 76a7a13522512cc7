"""The front door: budget -> masks -> values -> spectrum -> Explanation. The one place where the model side and the
mathematics meet.
"""

import dataclasses
import json
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spex_jax import masks as masks_lib
from spex_jax import report
from spex_jax.evaluate import evaluate
from spex_jax.indices import INDICES
from spex_jax.interactions import Interactions
from spex_jax.lenses.value_function import ValueFunction
from spex_jax.methods import METHODS
from spex_jax.metrics import Faithfulness, faithfulness
from spex_jax.spectrum import Spectrum, exact_spectrum
from spex_jax.timing import Stopwatch
from spex_jax.version import environment

__all__ = ["Explanation", "default_budget", "explain", "least_budget"]

_FORMAT = 1
_HELD_OUT = 50  # masks at least, or 10% of the budget


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """What `explain` found, with all that it asked.

    Attributes:
      spectrum: the answer.
      masks: bool [M, n], the distinct masks asked; the last `held_out` of them no fit saw.
      values: float64 [M].
      held_out: number of masks held out.
      faithfulness: R2 on them with its 95% interval; nan where the answer is exact or the values are constant.
      exact: whether all 2^n masks were asked, so that the spectrum is the function.
      names: one name per feature.
      index, max_order: what `interactions()` gives when it is not told.
      timings: seconds, {"compile", "model", "fit"}.
      settings: method, options, budget, seed, versions and device.
      details: what the lens knows of the input (text, spans, units, target), for reports.
    """

    spectrum: Spectrum
    masks: np.ndarray
    values: np.ndarray
    held_out: int
    faithfulness: Faithfulness
    exact: bool
    names: tuple[str, ...]
    index: str
    max_order: int
    timings: dict[str, float]
    settings: dict[str, Any]
    details: dict[str, Any]

    @property
    def n(self) -> int:
        """The number of features."""
        return self.spectrum.n

    def interactions(self, index: str | None = None, max_order: int | None = None) -> Interactions:
        """Interactions with names; None takes the index and order that `explain` was given ("FSII", 2 by default)."""
        return self.spectrum.interactions(
            self.index if index is None else index, self.max_order if max_order is None else max_order, self.names
        )

    def __str__(self) -> str:
        """The ranked table of the terminal report."""
        return report.to_text(self)

    def __repr__(self) -> str:
        """One line."""
        return f"<Explanation n={self.n} masks={len(self.masks)} terms={len(self.spectrum)} {self.faithfulness}>"

    def _repr_html_(self) -> str:
        return report.to_html(self, page=False)

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Writes one self-contained HTML file."""
        report.save_html(self, path)

    def plot(self, top: int = 15) -> Any:
        """A matplotlib figure of the `top` strongest interactions; needs the extra `plot`."""
        return report.plot(self, top)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes a folder: spectrum.npz, ablations.npz, explanation.json. A folder written before is replaced as a
        whole.

        Raises:
          ValueError: the path is a file, or a folder that `save` did not write.
        """
        target = pathlib.Path(directory).resolve()  # a link to a folder, or ".", is the folder
        if target.exists() and not (target / "explanation.json").is_file():
            raise ValueError(f"{str(target)!r} exists and is not a folder of Explanation.save; give another path")
        target.parent.mkdir(parents=True, exist_ok=True)
        new = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            new.chmod(0o755)
            self.spectrum.save(new / "spectrum.npz")
            np.savez_compressed(new / "ablations.npz", masks=masks_lib.pack(self.masks), values=self.values)
            content = {
                "format": _FORMAT,
                **{
                    name: getattr(self, name)
                    for name in ("held_out", "exact", "index", "max_order", "timings", "settings", "details")
                },
                "names": list(self.names),
                "faithfulness": {
                    k: None if math.isnan(v) else v for k, v in dataclasses.asdict(self.faithfulness).items()
                },
            }
            (new / "explanation.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
            if target.exists():
                old = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
                os.replace(target, old)
                os.replace(new, target)
                shutil.rmtree(old)
            else:
                os.replace(new, target)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> "Explanation":
        """Reads what `save` wrote.

        Raises:
          ValueError: the folder is not complete, or of a newer format.
        """
        folder = pathlib.Path(directory)
        try:
            content = json.loads((folder / "explanation.json").read_text(encoding="utf-8"))
            if content.pop("format") > _FORMAT:
                raise ValueError("written by a newer version; update spex_jax")
            spectrum = Spectrum.load(folder / "spectrum.npz")
            with np.load(folder / "ablations.npz", allow_pickle=False) as ablations:
                masks, values = masks_lib.unpack(ablations["masks"], spectrum.n), ablations["values"]
            score = {name: np.nan if value is None else value for name, value in content.pop("faithfulness").items()}
            names = tuple(content.pop("names"))
            return cls(
                spectrum=spectrum,
                masks=masks,
                values=values,
                names=names,
                faithfulness=Faithfulness(**score),
                **content,
            )
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{str(folder)!r} is not a folder of Explanation.save: {error}") from error


def _held_out(budget: int) -> int:
    return max(_HELD_OUT, budget // 10)


def least_budget(n: int, method: str = "proxyspex", **options: Any) -> int:
    """The smallest budget for n features: what the method needs to fit, and the held-out masks."""
    if n < 63 and 2**n <= _HELD_OUT:
        return 2**n
    chosen = METHODS[method]
    fitted = chosen.least(n, {**chosen.defaults, **options})
    least = fitted + _HELD_OUT
    while least - _held_out(least) < fitted:
        least += 1
    return min(2**n, least) if n < 63 else least


def default_budget(n: int, method: str = "proxyspex", **options: Any) -> int:
    """8 n log2(n) ablations, and never fewer than the least."""
    return max(math.ceil(8 * n * math.log2(n)), least_budget(n, method, **options))


def _check_budget(budget: int | None, n: int, method: str, options: dict[str, Any]) -> int:
    if budget is None:
        return default_budget(n, method, **options)
    if isinstance(budget, bool) or not isinstance(budget, int | np.integer):
        raise ValueError(f"budget must be a whole number of ablations, got {budget!r}")
    least = least_budget(n, method, **options)
    if budget < least:
        raise ValueError(
            f"a budget of {budget} is too small for {n} features; the least that would do is {least} "
            f"(the default is {default_budget(n, method, **options)})"
        )
    return int(budget)


def explain(
    value_fn: ValueFunction | Callable[[np.ndarray], Any],
    n: int | None = None,
    *,
    budget: int | None = None,
    method: str = "proxyspex",
    index: str = "FSII",
    max_order: int = 2,
    store: Any = None,
    seed: int = 0,
    batch_size: int | None = None,
    names: Sequence[str] | None = None,
    progress: bool = True,
    **options: Any,
) -> Explanation:
    """Which features act together in a value function.

    Asks `budget` masks, the full and the empty one among them: uniform ones for "proxyspex", those of a design for
    "spex". max(50, 10%) of them, uniform ones, are held out of every fit and give the faithfulness. Where 2^n <= budget
    every mask is asked and the answer is exact.

    Args:
      value_fn: a `ValueFunction` from a lens, or any callable masks bool [M, n] -> values [M].
      n: number of features; needed for a bare callable.
      budget: ablations, held-out ones included; None is 8 n log2(n).
      method: "proxyspex" (a proxy fitted to random ablations) or "spex" (coded ablations, decoded).
      index, max_order: of the interactions that reports show; any other can be had from the same answer.
      store: not supported yet; must be None.
      seed: of the masks and the fit.
      batch_size: masks in one call of the value function.
      names: n names; None takes the lens's.
      progress: a bar on stderr while the model is asked, where that is a terminal.
      **options: of the method. "proxyspex": proxy, max_degree, max_terms, solver, extract (see `proxyspex.fit`).
        "spex": max_degree (see `spex.design`; "auto" by default) and residual_of, a proxy for the smooth part, of which
        SPEX decodes what it leaves (see `proxyspex.fit_and_decode`).

    Raises:
      ValueError: options that do not fit, a budget below the least, or values that are not finite.
    """
    if not isinstance(value_fn, ValueFunction):
        if n is None:
            raise ValueError("explain needs n, the number of features, for a bare callable: explain(value_fn, n)")
        value_fn = ValueFunction(value_fn, n)
    if n is not None and n != value_fn.n:
        raise ValueError(f"n = {n} was given, but the value function has {value_fn.n} features; leave n out")
    if value_fn.outputs != ():
        raise ValueError(f"explain needs one value for each mask; this value function gives shape {value_fn.outputs}")
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")
    if index not in INDICES:
        raise ValueError(f"unknown index {index!r}; expected one of {', '.join(INDICES)}")
    masks_lib.check_whole("max_order", max_order, 1)
    chosen = METHODS[method]
    if unknown := sorted(set(options) - set(chosen.defaults)):
        raise ValueError(f"unknown options {', '.join(unknown)}; {method} takes {', '.join(chosen.defaults)}")
    n = value_fn.n
    options = {**chosen.defaults, **options}
    chosen.check(seed, options)  # now, and not after the model has been paid for
    budget = _check_budget(budget, n, method, options)
    names = value_fn.names if names is None else ValueFunction(value_fn.fn, n, names=names).names

    exact = n < 63 and 2**n <= budget
    held_out = 0 if exact else _held_out(budget)
    shown = {"method": method, "budget": budget, "seed": int(seed), **options}
    if exact:
        masks = masks_lib.all_masks(n)
    else:
        fitted, made = chosen.draw(n, budget - held_out, int(seed), options)
        masks = masks_lib.uniform(n, budget, np.random.default_rng([int(seed), 1]), given=fitted)
        shown |= chosen.settings(made)
    watch = Stopwatch("model", "fit")
    with watch.phase("model"):
        values = evaluate(value_fn, masks, batch_size=batch_size, store=store, progress=progress)
    with watch.phase("fit"):
        if exact:
            spectrum = exact_spectrum(masks, values)
            score = Faithfulness(np.nan, np.nan, np.nan)
        else:
            fit, tested = slice(0, budget - held_out), slice(budget - held_out, None)
            spectrum = chosen.fit(masks[fit], values[fit], made, int(seed), options)
            score = faithfulness(values[tested], spectrum(masks[tested]), seed=int(seed))
    return Explanation(
        spectrum=spectrum,
        masks=masks,
        values=values,
        held_out=held_out,
        faithfulness=score,
        exact=exact,
        names=names,
        index=index,
        max_order=int(max_order),
        timings=watch.seconds,
        settings={**{name: value for name, value in shown.items() if value is not None}, **environment()},
        details=value_fn.details,
    )
