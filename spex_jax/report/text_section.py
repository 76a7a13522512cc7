"""The report for the terminal."""

from typing import Any

from spex_jax.engine.details import Details
from spex_jax.report.view import counted
from spex_jax.report.warnings_section import correction_note, seed_noise, trust_warnings

__all__ = ["to_text"]

_SHOWN = (
    "proxy",
    "residual_of",
    "bins",
    "degree",
    "sampling",
    "acquisition",
    "focus",
    "relevance",
    "prior",
    "stopped",
)  # settings that the line of the method shows


def to_text(explanation: Any, top: int = 10) -> str:
    """Returns the ranked interactions, the faithfulness, warnings and settings as plain text.

    Args:
      explanation: a `spex_jax.Explanation`.
      top: number of rows of the table.
    """
    interactions, settings = explanation.interactions(), explanation.settings
    details: Details = explanation.details
    lines = []
    if details.text is not None:
        kept = explanation.values[explanation.masks.all(axis=1)]
        value = f", {kept[0]:+.4f} for the whole text" if len(kept) else ""
        lines.append(
            f"{details.value} of {details.target!r}{value}; "
            f"{counted(explanation.n, details.units)}, removal {details.removal!r}"
        )
        lines += [f"left out by the chat template: {part}" for part in details.left_out]
    if details.test_point is not None:
        target = "" if details.target is None else f" of class {details.target}"
        explained = f"{details.value} of test point {details.test_point}{target}"
        lines.append(f"{explained}; {counted(explanation.n, details.units)}")
    lines.append(interactions.table(top))
    if explanation.validation is not None:
        lines.append(str(explanation.validation))
    ablations = f"{len(explanation.masks)} ablations"
    ablations += f" ({explanation.stored} from the store)" if explanation.stored else ""
    if explanation.exact:
        lines.append(f"exact: all {ablations} were evaluated")
    elif tested := explanation.ablations.tested_count:
        lines.append(f"{explanation.faithfulness} on {tested} held-out masks of {ablations}")
    else:
        lines.append(f"{explanation.faithfulness} on all {ablations}, every possible mask")
    if explanation.near_full.masks:
        lines.append(str(explanation.near_full))
    if corrected := correction_note(explanation):
        lines.append(corrected)
    if noise := seed_noise(explanation):
        lines.append(noise)
    lines.extend(f"warning: {warning}" for warning in trust_warnings(explanation, interactions.top(top)))
    seconds = ", ".join(f"{phase} {spent:.1f} s" for phase, spent in explanation.timings.items())
    parts = [settings["method"], *(f"{name} {settings[name]}" for name in _SHOWN if name in settings)]
    how = "all masks" if explanation.exact else ", ".join(parts)
    lines.append(f"{how}, {len(explanation.spectrum)} terms; {seconds}")
    return "\n".join(lines)
