"""The sections of a page on how far to trust it: the faithfulness, the energy by degree and the settings."""

import math
from typing import Any

import numpy as np

from spex_jax.report.view import ROWS, View, bars, constant, counted, escape
from spex_jax.report.warnings_section import correction_note, seed_noise, trust_warnings
from spex_jax.report.wording import plural

__all__ = ["show_energy", "show_score", "show_settings"]

_DEGREES = 8  # bars of energy; higher degrees share the last bar


def show_score(view: View) -> str:
    """Shows R2 with its interval, or why there is none, followed by notes and warnings."""
    e = view.explanation
    score, tested = e.faithfulness, e.ablations.tested_count
    ablations = counted(len(e.masks), "ablation")
    if e.exact:
        title = "Exact"
        text = "Every mask was evaluated, so the spectrum equals the function: no mask is left to test it on, and "
        text = f"{ablations}. {text}R<sup>2</sup> is not defined."
    elif math.isnan(score.r2):
        title = "R<sup>2</sup> not defined"
        text = f"{ablations}, {tested:,} of them held out. "
        text += "All values are the same: there is no variance to explain."
        if not constant(e):
            text = text.replace("All values", "The held-out values")
    else:
        title = f"R<sup>2</sup> {score.r2:.3f} <small>95% interval {score.low:.3f} to {score.high:.3f}</small>"
        text = "Share of the variance of the model's values that the spectrum explains, on "
        text += f"{counted(tested, 'held-out mask')} of {ablations}." if tested else "all masks."
    if e.near_full.masks:
        text += f" Where 1 to 4 {plural(view.noun)} are removed, close to what was read, it is "
        text += (
            f"{e.near_full.score.r2:.3f} ({e.near_full.score.low:.3f} to {e.near_full.score.high:.3f}), measured on "
        )
        text += f"{counted(e.near_full.masks, 'mask')} by fits that did not see them."
    scale = "" if math.isnan(score.r2) else _score_scale(score)
    seeds = f'<p class="sx-note">{escape(noise)}</p>' if (noise := seed_noise(e)) else ""
    if note := correction_note(e):
        seeds += f'<p class="sx-note">{escape(note)}.</p>'
    warnings = trust_warnings(e, view.ranked[:ROWS])
    shown = "".join(f'<p class="sx-note"><strong>{escape(warning)}</strong></p>' for warning in warnings)
    return f'<p class="sx-big">{title}</p>{scale}<p class="sx-note">{text}</p>{seeds}{shown}'


def _score_scale(score: Any) -> str:
    """Draws the estimate and its interval on a line to 1, from 0 or from the lower end where that is negative."""
    low: float = min(0.0, score.r2, score.low)

    def x(value: float) -> float:
        return 10 + 380 * (value - low) / (1 - low)

    marks = "".join(
        f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="16" y2="24" stroke="var(--muted)"/>'
        f'<text x="{x(tick):.1f}" y="40" text-anchor="middle">{tick:.2g}</text>'
        for tick in sorted({low, 0.0, 0.5, 1.0} if low == 0 or -2 < low < -0.3 else {low, 1.0})
    )
    return (
        f'<svg viewBox="0 0 400 44" role="img" aria-label="R2 {score.r2:.3f} on a scale to 1">'
        f'<line x1="10" x2="390" y1="16" y2="16" stroke="var(--muted)"/>{marks}'
        f'<rect x="{x(score.low):.1f}" y="11" width="{max(x(score.high) - x(score.low), 1):.1f}" height="10" rx="3" '
        f'fill="rgb(var(--pos) / 0.35)"/><circle cx="{x(score.r2):.1f}" cy="16" r="6" fill="rgb(var(--pos))"/></svg>'
    )


def show_energy(view: View) -> str:
    """Draws the shares of the energy by degree, from degree 1 on, as bars."""
    energy = np.trim_zeros(view.explanation.spectrum.energy_by_degree()[1:], "b")
    if not len(energy):
        return '<p class="sx-note sx-below">There is none: the spectrum is a constant.</p>'
    shares = (energy / energy.sum()).tolist()
    labels = [str(degree) for degree in range(1, len(shares) + 1)]
    if len(shares) > _DEGREES:
        shares, labels = shares[: _DEGREES - 1], [*labels[: _DEGREES - 1], f"{_DEGREES} and more"]
        shares.append(1 - sum(shares))
    nouns = escape(plural(view.noun))
    text = f"Share of the spectrum's variance over random masks that comes from terms of 1, 2, 3, ... {nouns}."
    return f'{bars(zip(labels, shares, strict=True))}<p class="sx-note">{text}</p>'


def show_settings(view: View) -> str:
    """Lists the method, budget, timings and versions, where they are known."""
    e, given = view.explanation, dict(view.explanation.settings)
    versions, budget = given.pop("versions", {}), given.pop("budget", None)
    entries = {
        "method": given.pop("method", None),
        "index": f"{e.index}, sets of up to {view.interactions.max_order}",
        "budget": None if budget is None else f"at most {counted(budget, 'ablation')}, including held-out masks",
        "seed": given.pop("seed", None),
        "device": given.pop("device", None),
        "timings": ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in e.timings.items()),
        "options": ", ".join(f"{name} {value}" for name, value in given.items()),
        "spectrum": counted(len(e.spectrum), "term"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>"
        for name, value in entries.items()
        if value not in (None, "")
    )
