"""Figures with matplotlib, which the extra `plot` installs."""

from typing import Any

__all__ = ["plot"]

_LABEL_WIDTH = 40
_RAISES, _LOWERS = "#2b7bba", "#d95f2b"  # safe for colour-blind readers, and the same as on the page


def plot(explanation: Any, top: int = 15) -> Any:
    """Draws the strongest interactions as bars, with standard errors where they are known.

    Args:
      explanation: a `spex_jax.Explanation`.
      top: number of bars.

    Returns:
      A `matplotlib.figure.Figure`, made without touching pyplot's state.

    Raises:
      ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plot needs matplotlib: pip install 'spex-jax[plot]'") from error
    interactions = explanation.interactions()
    rows = interactions.top(top)[::-1]
    errors = interactions.std_errors
    figure = Figure(figsize=(7, 1.2 + 0.3 * max(len(rows), 1)), layout="constrained")
    axes = figure.subplots()
    axes.barh(
        range(len(rows)),
        [value for _, value in rows],
        xerr=None if errors is None else [errors[key] for key, _ in rows],
        color=[_RAISES if value > 0 else _LOWERS for _, value in rows],
    )
    # matplotlib would read a pair of dollar signs in a name as mathematics.
    labels = [interactions.label(key, _LABEL_WIDTH).replace("$", r"\$") for key, _ in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(explanation.index)
    axes.set_title(str(explanation.faithfulness) if not explanation.exact else "exact", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
