"""Times of calls that take turns, so that noise of a shared machine affects all of them alike."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def in_turns(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Returns the seconds of each call: medians over rounds in which they take turns, after a first call of each."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    found = {name: float(np.median(spent)) for name, spent in seconds.items()}
    for name, spent in found.items():
        print(f"{name:32} {spent:10.2f} s", flush=True)
    return found
