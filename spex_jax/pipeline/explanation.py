"""What `explain` found, with all ablations: to read, to convert, to save and to share."""

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
from spex_jax.analysis.metrics import Faithfulness, varies
from spex_jax.analysis.validation import Validation, validate
from spex_jax.core import masks as masks_lib
from spex_jax.core.ablations import Ablations
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
_ROUNDING = 1e-10  # interactions below this part of the largest are rounding errors of the fit


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """What `explain` found, with all ablations.

    Attributes:
      spectrum: the answer.
      correction: what the spectrum misses of Shapley-type indices, where masks were drawn for these; `interactions`
        adds it.
      ablations: the distinct masks, their values, and which of them no fit saw.
      faithfulness: R2 on those held out with its 95% interval; nan where the answer is exact or the values are
        constant.
      exact: whether all 2^n masks were evaluated, so that the spectrum is the function.
      names: one name per feature.
      index, max_order: what `interactions()` gives when it is not told.
      timings: seconds, {"compile", "model", "fit"}.
      noise: the largest change of a value that was computed twice, in another batch or order; nan where none was.
      stored: how many of the masks came out of the store and cost nothing.
      settings: method, options, budget, seed, versions and device.
      details: what the lens knows of the input (text, spans, units, target), for reports; see `engine.details`.
      failed: bool [F, n], masks whose values are not finite; they are not among `ablations`.
      evaluator: masks bool [M, n] -> values [M] of the model, for `validate`; None after `load`, since a folder holds
        no model.
      validation: what `validate` found last.
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
        """Interactions with names; None takes the index and order that `explain` was given ("FSII", 2 by default)."""
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
        """Measures the strongest interactions on the model itself, at masks of its own.

        The answer stands in the reports from then on, and goes into the folder of `save`. What an exact explanation
        knows already is not evaluated again.

        Args:
          top: how many interactions; of equal ones those of the first sets.
          contexts: the most for one set, 2^|set| ablations each, of which sets share some; see
            `spex_jax.analysis.validation.validate` for how many are taken, what is measured and the verdicts.
          index, max_order: as for `interactions`.
          seed: of the contexts.
          value_fn: the value function, where the explanation was loaded from a folder.
          **options: batch_size, mesh, store and store_key of `spex_jax.evaluate` for this value function, and output,
            the number of the output that was explained where it has several.

        Raises:
          ValueError: `top` or `contexts` out of range, no value function, one with other features or with several
            outputs, or a value that is not finite.
        """
        masks_lib.check_whole("top", top, 1)
        masks_lib.check_whole("contexts", contexts, 2)
        evaluator = self.evaluator
        if value_fn is not None:
            value_fn = as_value_function(value_fn, self.n, "validate", several="output" in options)
            evaluator = Evaluator.checked(value_fn, **options)
        elif options:
            raise ValueError(
                f"{', '.join(options)} belong to value_fn=, which was not given; give it too or leave them out"
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
        # Everything else is frozen: the answer does not change by being tested, only what reports know of it.
        object.__setattr__(self, "validation", found)
        return found

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
        new = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix=temporary_prefix(target)))
        try:
            new.chmod(0o755)
            self.spectrum.save(new / "spectrum.npz")
            rows = np.argsort(self.ablations.held_out, kind="stable")  # a file has those held out last
            arrays: dict[str, Any] = {"masks": masks_lib.pack(self.masks[rows]), "values": self.values[rows]}
            if self.failed is not None:
                arrays["failed"] = masks_lib.pack(self.failed)
            if self.correction is not None:
                arrays |= self.correction.to_arrays()
            savez(new / "ablations.npz", arrays)
            content = {
                "format": _FORMAT,
                "held_out": int(self.ablations.held_out.sum()),
                **{
                    name: getattr(self, name)
                    for name in ("exact", "index", "max_order", "timings", "settings", "stored")
                },
                "details": self.details.to_json(),
                "noise": None if math.isnan(self.noise) else self.noise,
                "validation": None if self.validation is None else self.validation.to_json(),
                "names": list(self.names),
                "faithfulness": self.faithfulness.to_json(),
            }
            (new / "explanation.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
            if target.exists():
                old = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix=temporary_prefix(target)))
                os.replace(target, old)
                os.replace(new, target)
                shutil.rmtree(old)
            else:
                os.replace(new, target)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise

    @classmethod
    def load(cls, directory: str | os.PathLike[str], *, max_bytes: int | None = None) -> "Explanation":
        """Reads what `save` wrote.

        Args:
          directory: of `save`.
          max_bytes: of memory that this may take; None is 10 times the size of the files and 50 MiB, which is enough
            for all that this version writes.

        Raises:
          ValueError: the folder is not complete, damaged or of a newer format, or would take more memory.
        """
        with refusing(directory, "a folder of Explanation.save"):
            return _read(pathlib.Path(directory), max_bytes)


def _read(folder: pathlib.Path, max_bytes: int | None) -> Explanation:
    """What `Explanation.save` wrote, every part checked."""
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
        correction = Correction.from_arrays(file, n)
    allowance.take(masks.size // 8 + 64 * len(masks), "the comparison of its masks")
    if not len(masks) or len(masks_lib.deduplicate(masks)[0]) < len(masks):
        raise ValueError(f"its {len(masks)} masks must be distinct, and one or more")
    names, settings = content.texts("names", n), content.plain("settings")
    details = details_from_json(content.plain("details"), n)
    _check_settings(settings)
    held_out = np.arange(len(masks)) >= len(masks) - content.whole("held_out", 0, len(masks))
    found = Explanation(
        spectrum=spectrum,
        correction=correction,
        ablations=Ablations(masks=masks, values=values, held_out=held_out),
        faithfulness=Faithfulness.from_json(content.take("faithfulness")),
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
        validation=None if content.null("validation") else Validation.from_json(content.take("validation"), names),
    )
    content.end()
    if found.exact and (n >= 63 or len(masks) != 2**n or held_out.any()):
        raise ValueError(f"an exact answer of {n} features needs all 2^{n} masks and holds none out")
    return found


def _timings(content: dict[str, Any]) -> dict[str, float]:
    given = Record(content, "the timings")
    return {name: given.real(name) for name in content}


def _check_settings(settings: dict[str, Any]) -> None:
    """Raises ValueError where a setting that reports read is not what they expect."""
    given = Record(settings, "the settings")
    given.text("method")
    given.whole("budget", default=None)
    versions = given.take("versions", {})
    if not isinstance(versions, dict) or not all(isinstance(version, str) for version in versions.values()):
        raise ValueError("'versions' of the settings must be names and strings")
