"""Pictures of results: lines over a budget, and bars. They need the extra "plot"; without it none is drawn."""

import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from spex_jax.runtime import first_process

_OURS = "C3"  # the main method stands out; the others take turns through the rest of the palette
_OTHERS = ("C0", "C1", "C2", "C4", "C5", "C6", "C7", "C8", "C9")

Line = Sequence[tuple[float, float | None]]


def _pyplot() -> Any:
    """Returns matplotlib's pyplot without a screen, or None where it is not installed or another process draws."""
    if not first_process():
        return None
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: no picture (pip install 'spex-jax[plot]')")
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw_lines(
    path: str | pathlib.Path,
    panels: Mapping[str, Mapping[str, Line]],
    *,
    x: str,
    y: str,
    main: str = "auto",
    log_x: bool = True,
    lowest: float | None = None,
    limits: tuple[float, float] | None = None,
    columns: int = 4,
    log_y: Collection[str] = (),
) -> None:
    """Draws a panel for each mapping from names to points (x, y); points whose y is None are left out.

    `main` is drawn above the others and wider. `lowest` cuts the y axis, so that one bad method does not hide the rest;
    `limits` are those of the y axis of every panel; the panels named by `log_y` have a logarithmic one.
    """
    pyplot = _pyplot()
    if pyplot is None or not panels:
        return
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(4.2 * columns + 1.6, 3.4 * rows), squeeze=False, layout="constrained"
    )
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    others = [name for name in names if name != main]
    colours = {name: _OTHERS[place % len(_OTHERS)] for place, name in enumerate(others)} | {main: _OURS}
    styles = {name: ("-", "--", ":")[place // len(_OTHERS) % 3] for place, name in enumerate(others)} | {main: "-"}
    handles = {}
    for axis, (title, panel) in zip(axes.flat, panels.items(), strict=False):
        for name, line in panel.items():
            points = [(a, b) for a, b in line if b is not None]
            if points:
                (handles[name],) = axis.plot(
                    *zip(*points, strict=True),
                    color=colours[name],
                    linestyle=styles[name],
                    linewidth=2.6 if name == main else 1.3,
                    marker="o",
                    markersize=5 if name == main else 3.5,
                    zorder=3 if name == main else 2,
                )
        if log_x:
            axis.set_xscale("log", base=2)
            ticks = sorted({point[0] for line in panel.values() for point in line})
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.minorticks_off()
        if title in log_y:
            axis.set_yscale("log")
        if limits is not None:
            axis.set_ylim(*limits)
        elif lowest is not None and axis.get_ylim()[0] < lowest:
            highest = max((b for line in panel.values() for _, b in line if b is not None), default=lowest)
            axis.set_ylim(lowest, max(highest, lowest) + 0.05 * max(highest - lowest, 0.1))
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.set_xlabel(x, fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel(y, fontsize=9)
    for axis in list(axes.flat)[len(panels) :]:
        axis.remove()
    shown = [name for name in names if name in handles]
    figure.legend([handles[name] for name in shown], shown, loc="outside right center", fontsize=8, frameon=False)
    _save(pyplot, figure, path)


def draw_bars(
    path: str | pathlib.Path,
    panels: Mapping[str, Mapping[str, Sequence[float | None]]],
    groups: Sequence[str],
    *,
    y: str,
    main: str = "auto",
    log_y: bool = False,
) -> None:
    """Draws a panel for each mapping from names to one bar for each group; a bar of None is left out."""
    pyplot = _pyplot()
    if pyplot is None or not panels:
        return
    figure, axes = pyplot.subplots(
        1,
        len(panels),
        figsize=(max(4.5, 1.1 * len(groups)) * len(panels) + 1.6, 3.6),
        squeeze=False,
        layout="constrained",
    )
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    others = [name for name in names if name != main]
    colours = {name: _OTHERS[place % len(_OTHERS)] for place, name in enumerate(others)} | {main: _OURS}
    width = 0.8 / len(names)
    for axis, (title, panel) in zip(axes[0], panels.items(), strict=True):
        for place, name in enumerate(names):
            bars = [(at, value) for at, value in enumerate(panel.get(name, ())) if value is not None]
            if bars:
                at, heights = zip(*bars, strict=True)
                axis.bar(
                    [left + (place - (len(names) - 1) / 2) * width for left in at],
                    heights,
                    width,
                    color=colours[name],
                    label=name if axis is axes[0][0] else None,
                )
        axis.set_xticks(range(len(groups)), groups, fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.25, linewidth=0.6, axis="y")
        axis.set_axisbelow(True)
        if log_y:
            axis.set_yscale("log")
    axes[0][0].set_ylabel(y, fontsize=9)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    _save(pyplot, figure, path)


def _save(pyplot: Any, figure: Any, path: str | pathlib.Path) -> None:
    path = pathlib.Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    print(f"picture: {path}")
