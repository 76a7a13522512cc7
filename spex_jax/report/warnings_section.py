"""The sentences that reports print where an answer should not be trusted: low R2, noise, failed masks."""

import math
from typing import Any

import numpy as np

from spex_jax.core.indices import find_index
from spex_jax.engine.details import ValueNoise
from spex_jax.report.view import ROUNDING, Ranked, counted
from spex_jax.report.wording import plural

__all__ = ["correction_note", "seed_noise", "trust_warnings"]

_LOW = 0.5  # an R2 up to here calls for advice
_MISSED = 0.05  # largest error at a known value without a warning, in standard deviations of the values


def trust_warnings(explanation: Any, shown: Ranked) -> list[str]:
    """Returns the warnings that hold for an explanation of which a report shows these interactions."""
    found = (
        _failures(explanation),
        _low_score(explanation),
        _missed_ends(explanation),
        _noise_warning(explanation, shown),
    )
    return [warning for warning in found if warning]


def _noise_warning(explanation: Any, shown: Ranked) -> str:
    """Returns a warning where values change on reevaluation by over a tenth of the smallest effect shown, else ''."""
    largest = max((abs(value) for _, value in shown), default=0.0)
    smallest = min((abs(value) for _, value in shown if abs(value) > ROUNDING * largest), default=np.inf)
    if not explanation.noise > 0.1 * smallest:
        return ""
    return (
        f"Values changed by up to {explanation.noise:.3g} when they were evaluated again in another batch, more than a "
        f"tenth of the smallest effect shown ({smallest:.3g}): see spex_jax.check_batch_invariance."
    )


def _low_score(explanation: Any) -> str:
    """Returns a warning with advice where the spectrum may explain less than half of the variance, else ''."""
    score, settings, details = explanation.faithfulness, explanation.settings, explanation.details
    if explanation.exact or math.isnan(score.r2) or score.low > _LOW:
        return ""
    count = f"R2 {score.r2:.2f} is low" if score.r2 < _LOW else f"the interval of R2 includes {_LOW}"
    method, n, budget = settings.get("method"), explanation.n, len(explanation.masks)
    advice = [] if method in (None, "proxyspex", "spex") else ["method='proxyspex', which is not a surrogate"]
    everything = n < 63 and 2**n <= 8 * budget
    more = f"budget={2**n}, all masks" if everything else f"budget={4 * budget}, four times as many ablations"
    advice.append(more)
    advice.append(f"fewer and larger units than {n} {plural(details.units)}")
    if details.removal is not None:
        advice.append(f"another removal than {details.removal!r}")
    return (
        f"{count[:1].upper()}{count[1:]}: the spectrum and its interactions may explain less than half of the variance "
        f"of the values. Try {'; '.join(advice[:-1])}; or {advice[-1]}."
    )


def _missed_ends(explanation: Any) -> str:
    """Returns a warning where the spectrum misses the value at the full or the empty mask, else ''."""
    masks, values, missed = explanation.masks, explanation.values, []
    for kept, words in ((True, "kept"), (False, "removed")):
        rows = np.flatnonzero((masks == kept).all(axis=1))
        if len(rows):
            value, predicted = float(values[rows[0]]), float(explanation.spectrum(masks[rows[:1]])[0])
            if abs(value - predicted) > _MISSED * float(np.std(values)):
                missed.append(
                    f"with everything {words} the value is {value:.4g}, but the spectrum predicts {predicted:.4g}"
                )
    return f"{missed[0][:1].upper()}{'; '.join(missed)[1:]}." if missed else ""


def correction_note(explanation: Any) -> str:
    """Returns a note where the interactions are corrected for what the spectrum misses, else ''."""
    if explanation.correction is None or not find_index(explanation.index).shapley_type:
        return ""
    return (
        f"{explanation.index} comes from the spectrum, corrected for what it misses at the evaluated masks; R2 and "
        "predicted values come from the spectrum alone"
    )


def seed_noise(explanation: Any) -> str:
    """Returns a note on how values change with the seed, where that was measured, else ''."""
    noise: ValueNoise | None = explanation.details.seed_noise
    if noise is None:
        return ""
    mean = "" if noise.seeds == 1 else f"; each value is the mean of {noise.seeds} trainings"
    return (
        f"Other seeds change a value by {noise.deviation:.3g} (standard deviation{mean}) and reproduce "
        f"{100 * (1 - noise.share):.0f}% of the variance over masks; a mean over more seeds would raise this share."
    )


def _failures(explanation: Any) -> str:
    """Returns a warning about masks without a finite value, else ''."""
    failed = 0 if explanation.failed is None else len(explanation.failed)
    if not failed:
        return ""
    return f"{counted(failed, 'mask')} gave no finite value and {'is' if failed == 1 else 'are'} left out."
