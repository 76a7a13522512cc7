"""The result of `explain` with all ablations: interactions, validation, reports, and a folder to save it in."""

import dataclasses
import json
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from spex_jax import report
from spex_jax.analysis.correction import Correction
from spex_jax.analysis.metrics import Faithfulness, NearFull, varies
from spex_jax.analysis.validation import Validation, validate
from spex_jax.core import masks as masks_lib
from spex_jax.core.ablations import Ablations, last_rows
from spex_jax.core.indices import INDICES, Index
from spex_jax.core.interactions import Interactions
from spex_jax.core.spectrum import Spectrum, read_spectrum
from spex_jax.engine.details import Details, details_from_json
from spex_jax.engine.evaluator import Evaluator
from spex_jax.engine.value_function import ValueFunction, as_value_function
from spex_jax.utils.atomic_write import temporary_prefix
from spex_jax.utils.untrusted_files import Allowance, Archive, Record, read_json, refusing, savez

__all__ = ["Explanation"]

_FORMAT = 1
_ROUNDING = 1e-10  # interactions below this fraction of the largest are rounding errors of the fit


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """Holds the result of `explain` with all ablations.

    Attributes:
      spectrum: the fitted spectrum, or the exact one.
      correction: what the spectrum misses of Shapley-type indices, where masks were drawn for these; `interactions`
        adds it.
      ablations: the distinct masks, their values, and which of them are held out of all fits.
      faithfulness: R2 on the held-out masks with its 95% interval; nan where the spectrum is exact or the values are
        constant.
      near_full: R2 at masks that remove 1 to 4 features, predicted by fits without them; of no masks where fewer than
        20 were evaluated, as with uniform masks of many features (`focus="full"` evaluates them).
      exact: whether all 2^n masks were evaluated, so that the spectrum equals the function.
      names: one name per feature.
      index, max_order: the defaults of `interactions()`.
      timings: seconds, {"compile", "model", "fit"}.
      noise: the largest change of a value that was computed twice, in another batch or order; nan where none was.
      stored: how many of the masks came out of the store and were not evaluated again.
      settings: method, options, budget, seed, versions and device.
      details: what the lens reports about the input (text, spans, units, target); see `engine.details`.
      failed: bool [F, n], masks whose values are not finite; they are not among `ablations`.
      evaluator: masks bool [M, n] -> values [M] of the model, for `validate`; None after `load`, since a folder holds
        no model.
      validation: the result of the last `validate`.
      relevance: float64 [n], how much each feature was expected to matter before the fit; None where that is unknown.
    """

    spectrum: Spectrum
    ablations: Ablations
    faithfulness: Faithfulness
    exact: bool
    names: tuple[str, ...]
    index: str
    max_order: int
    timings: dict[str, float]
    settings: dict[str, Any]
    details: Details
    noise: float = math.nan
    stored: int = 0
    failed: np.ndarray | None = None
    correction: Correction | None = None
    evaluator: Callable[[np.ndarray], np.ndarray] | None = None
    validation: Validation | None = None
    near_full: NearFull = dataclasses.field(default_factory=NearFull.unknown)
    relevance: np.ndarray | None = None

    @property
    def masks(self) -> np.ndarray:
        """The distinct masks that were evaluated, bool [M, n]."""
        return self.ablations.masks

    @property
    def values(self) -> np.ndarray:
        """Their values, float64 [M]."""
        return self.ablations.values

    @property
    def n(self) -> int:
        """The number of features."""
        return self.spectrum.n

    def interactions(self, index: str | Index | None = None, max_order: int | None = None) -> Interactions:
        """Returns the named interactions; None takes the index and order given to `explain` ("FSII", 2 by default)."""
        found = self.spectrum.interactions(
            self.index if index is None else index, self.max_order if max_order is None else max_order, self.names
        )
        found = found if self.correction is None else self.correction(found)
        found.estimated, found.budget = not self.exact, len(self.masks)
        return found

    def validate(
        self,
        top: int = 10,
        *,
        contexts: int = 256,
        index: str | Index | None = None,
        max_order: int | None = None,
        seed: int = 0,
        value_fn: ValueFunction | Callable[[np.ndarray], Any] | None = None,
        **options: Any,
    ) -> Validation:
        """Measures the strongest interactions on the model itself, at new masks.

        From then on reports show the result, and `save` writes it. An exact explanation evaluates nothing again.

        Args:
          top: how many interactions; ties go to the sets that come first.
          contexts: the most contexts for one set, each of 2^|set| ablations, some of which sets share; see
            `spex_jax.analysis.validation.validate` for how many are used, what is measured and the verdicts.
          index, max_order: as for `interactions`.
          seed: seed of the contexts.
          value_fn: the value function, where the explanation was loaded from a folder.
          **options: batch_size, mesh, store and store_key of `spex_jax.evaluate` for this value function, and output,
            the index of the explained output where the value function has several.

        Raises:
          ValueError: `top` or `contexts` is out of range; the value function is missing, has other features or several
            outputs; or a value is not finite.
        """
        masks_lib.check_whole("top", top, 1)
        masks_lib.check_whole("contexts", contexts, 2)
        evaluator = self.evaluator
        if value_fn is not None:
            value_fn = as_value_function(value_fn, self.n, "validate", several="output" in options)
            evaluator = Evaluator.checked(value_fn, **options)
        elif options:
            raise ValueError(
                f"{', '.join(options)}: these options need value_fn=, which was not given; give it too or omit them"
            )
        interactions = self.interactions(index, max_order)
        ranked = interactions.top(top) if varies(self.values) else []
        found = validate(
            evaluator,
            self.spectrum,
            [members for members, value in ranked if abs(value) > _ROUNDING * abs(ranked[0][1])],
            index=interactions.index,
            max_order=interactions.max_order,
            claims=interactions,
            names=self.names,
            masks=self.masks,
            values=self.values,
            noise=self.noise,
            contexts=max(contexts, len(self.masks)) if self.exact else contexts,
            seed=seed,
        )
        # Frozen otherwise: validating does not change the result, only what reports show.
        object.__setattr__(self, "validation", found)
        return found

    def __str__(self) -> str:
        """Returns the terminal report, a ranked table."""
        return report.to_text(self)

    def __repr__(self) -> str:
        """Returns a summary of one line."""
        return f"<Explanation n={self.n} masks={len(self.masks)} terms={len(self.spectrum)} {self.faithfulness}>"

    def _repr_html_(self) -> str:
        return report.to_html(self, page=False)

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Writes one self-contained HTML file."""
        report.save_html(self, path)

    def plot(self, top: int = 15) -> Any:
        """Draws the `top` strongest interactions as a matplotlib figure; needs the extra `plot`."""
        return report.plot(self, top)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes a folder with spectrum.npz, ablations.npz and explanation.json, which replaces one written before.

        Raises:
          ValueError: the path is a file, or a folder that `save` did not write.
        """
        target = pathlib.Path(directory).resolve()  # follows a link, and "." to its folder
        if target.exists() and not (target / "explanation.json").is_file():
            raise ValueError(f"{str(target)!r} exists and is not a folder of Explanation.save; give another path")
        target.parent.mkdir(parents=True, exist_ok=True)
        new = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix=temporary_prefix(target)))
        try:
            new.chmod(0o755)
            self.spectrum.save(new / "spectrum.npz")
            rows = np.argsort(self.ablations.held_out, kind="stable")  # the format has held-out rows last
            arrays: dict[str, Any] = {"masks": masks_lib.pack(self.masks[rows]), "values": self.values[rows]}
            if self.failed is not None:
                arrays["failed"] = masks_lib.pack(self.failed)
            if self.relevance is not None:
                arrays["relevance"] = self.relevance
            if self.correction is not None:
                arrays |= self.correction.to_arrays()
            savez(new / "ablations.npz", arrays)
            content = {
                "format": _FORMAT,
                "held_out": self.ablations.tested_count,
                **{
                    name: getattr(self, name)
                    for name in ("exact", "index", "max_order", "timings", "settings", "stored")
                },
                "details": self.details.to_json(),
                "noise": None if math.isnan(self.noise) else self.noise,
                "validation": None if self.validation is None else self.validation.to_json(),
                "names": list(self.names),
                "faithfulness": self.faithfulness.to_json(),
                "near_full": self.near_full.to_json(),
            }
            (new / "explanation.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
            if target.exists():
                old = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix=temporary_prefix(target)))
                target.replace(old)
                new.replace(target)
                shutil.rmtree(old)
            else:
                new.replace(target)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise

    @classmethod
    def load(cls, directory: str | os.PathLike[str], *, max_bytes: int | None = None) -> "Explanation":
        """Reads a folder that `save` wrote.

        Args:
          directory: the folder.
          max_bytes: limit on the memory that this may take; None is 10 times the size of the files plus 50 MiB, enough
            for everything that this version writes.

        Raises:
          ValueError: the folder is incomplete, damaged or of a newer format, or would take more memory.
        """
        with refusing(directory, "a folder of Explanation.save"):
            return _read(pathlib.Path(directory), max_bytes)


def _read(folder: pathlib.Path, max_bytes: int | None) -> Explanation:
    """Reads a folder of `Explanation.save` and checks every part of it."""
    files = [folder / name for name in ("explanation.json", "spectrum.npz", "ablations.npz")]
    allowance = Allowance(files, max_bytes)
    content = Record(read_json(files[0], allowance), "explanation.json")
    if (format_ := content.whole("format", 1)) > _FORMAT:
        raise ValueError(f"written by a newer version (format {format_}); update spex_jax")
    spectrum = read_spectrum(files[1], allowance)
    n = spectrum.n
    with Archive(files[2], allowance) as file:
        masks = file.masks("masks", n)
        values = masks_lib.check_values(file.floats("values", (len(masks),)), masks)
        failed = file.masks("failed", n) if "failed" in file else None
        relevance = file.floats("relevance", (n,)) if "relevance" in file else None
        correction = Correction.from_arrays(file, n)
    allowance.take(masks.size // 8 + 64 * len(masks), "the comparison of its masks")
    if not len(masks) or len(masks_lib.deduplicate(masks)[0]) < len(masks):
        raise ValueError(f"its {len(masks)} masks must be distinct, and at least one")
    names, settings = content.texts("names", n), content.plain("settings")
    details = details_from_json(content.plain("details"), n)
    _check_settings(settings)
    held_out = last_rows(len(masks), content.whole("held_out", 0, len(masks)))
    found = Explanation(
        spectrum=spectrum,
        correction=correction,
        ablations=Ablations(masks=masks, values=values, held_out=held_out),
        faithfulness=Faithfulness.from_json(content.take("faithfulness")),
        near_full=NearFull.from_json(content.take("near_full", NearFull.unknown().to_json())),
        exact=content.flag("exact"),
        names=names,
        index=content.text("index", INDICES),
        max_order=content.whole("max_order", 1),
        timings=_timings(content.plain("timings")),
        settings=settings,
        details=details,
        noise=content.real("noise", none=math.nan, default=math.nan),
        stored=content.whole("stored", default=0),
        failed=failed,
        relevance=relevance,
        validation=None if content.null("validation") else Validation.from_json(content.take("validation"), names),
    )
    content.end()
    if found.exact and (n >= 63 or len(masks) != 2**n or held_out.any()):
        raise ValueError(f"an exact explanation of {n} features needs all 2^{n} masks, none of them held out")
    return found


def _timings(content: dict[str, Any]) -> dict[str, float]:
    given = Record(content, "the timings")
    return {name: given.real(name) for name in content}


def _check_settings(settings: dict[str, Any]) -> None:
    """Raises ValueError where a setting that reports read has an unexpected type."""
    given = Record(settings, "the settings")
    given.text("method")
    given.whole("budget", default=None)
    versions = given.take("versions", {})
    if not isinstance(versions, dict) or not all(isinstance(version, str) for version in versions.values()):
        raise ValueError("'versions' of the settings must map names to strings")
