"""Shows the progress of a run: a bar on a terminal or in a notebook, a line a minute in a log."""

import sys
import threading
import time
import warnings
from typing import Any

from tqdm import TqdmWarning

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TqdmWarning)  # a notebook without ipywidgets gets the bar as text
    from tqdm.auto import tqdm

__all__ = ["Progress"]

_MINUTE = 60.0


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})


class Progress:
    """Shows rate and time left for `total` ablations, of which `stored` are already known. A context manager."""

    def __init__(
        self, total: int | None, *, stored: int = 0, shown: bool = True, what: str = "ablations", unit: str = "mask"
    ):
        """Shows nothing where `shown` is false or nothing is left to evaluate; a total of None is unknown."""
        self._total, self._done, self._stored, self._what, self._unit = total, stored, stored, what, unit
        shown = shown and sys.stderr is not None and (total is None or stored < total)
        bar = shown and (_in_notebook() or sys.stderr.isatty())
        self._bar: Any = tqdm(total=total, initial=stored, unit=unit, desc=what, leave=False) if bar else None
        self._stop = threading.Event()
        self._start = self._last = time.monotonic()
        self._thread = threading.Thread(target=self._lines, daemon=True) if shown and not bar else None
        if self._thread is not None:
            self._thread.start()

    def __enter__(self) -> "Progress":
        """Shows the bar."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Removes the bar."""
        self._stop.set()
        if self._bar is not None:
            self._bar.close()
        if self._thread is not None:
            self._thread.join()

    def update(self, count: int) -> None:
        """Counts `count` more ablations as done."""
        self._done += count
        self._last = time.monotonic()
        if self._bar is not None:
            self._bar.update(count)

    def _lines(self) -> None:
        while not self._stop.wait(_MINUTE):
            now = time.monotonic()
            text = tqdm.format_meter(
                self._done, self._total, now - self._start, unit=self._unit, initial=self._stored, ncols=0
            )
            waited = f", no result for {now - self._last:.0f} s" if now - self._last > _MINUTE else ""
            print(f"{self._what}: {text}{waited}", file=sys.stderr, flush=True)
