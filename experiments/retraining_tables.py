"""Interactions among training examples from retrainings that others computed, read from disk in parts."""

import pathlib
from collections.abc import Sequence

import numpy as np

from spex_jax import PackedMasks, proxyspex
from spex_jax.analysis.metrics import faithfulness, lds
from spex_jax.runtime import save_result, seed, without_nan


def explain_tables(masks: str, margins: str, features: int | None, points: Sequence[str], out: pathlib.Path) -> None:
    """Fits each of the points on all retrainings but the last tenth, prints its strongest examples and pairs, and saves
    its interactions.

    Args:
      masks: .npy of bool [M, n] or packed bits.
      margins: .npy of values [M, T] or [M].
      features: n, where the masks are packed.
      points: columns of the margins.
      out: folder.

    Raises:
      ValueError: a file cannot be read or does not fit, or a column does not exist.
    """
    table = PackedMasks.open(pathlib.Path(masks).expanduser(), features)
    try:
        values = np.load(pathlib.Path(margins).expanduser(), mmap_mode="r", allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise ValueError(f"cannot read --margins {margins!r}: {error}") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        raise ValueError(f"--margins {margins!r} must be a .npy of real numbers")
    if values.ndim not in (1, 2) or len(values) != len(table):
        raise ValueError(f"--margins must have a row for each of the {len(table)} masks, got shape {values.shape}")
    columns = values[:, None] if values.ndim == 1 else values
    chosen = []
    for point in points:
        if not (point.isascii() and point.isdigit()) or int(point) >= columns.shape[1]:
            raise ValueError(f"--points must be columns of --margins from 0 to {columns.shape[1] - 1}, got {point!r}")
        chosen.append(int(point))
    held = max(50, len(table) // 10)
    if len(table) < 2 * held:
        raise ValueError(f"{len(table)} retrainings are too few: {held} are held out, and as many are needed to fit")
    fitted, tested = PackedMasks(table.bits[:-held], table.n), table.rows(slice(len(table) - held, None))
    scores = []
    for number in chosen:
        column = np.asarray(columns[:, number], np.float64)
        if not np.isfinite(column).all():
            raise ValueError(
                f"column {number} of --margins has {(~np.isfinite(column)).sum()} values that are not finite"
            )
        spectrum = proxyspex.fit(fitted, column[:-held], proxy="linear", max_degree=2, seed=seed())
        predicted = spectrum(tested)
        score, rank = faithfulness(column[-held:], predicted, seed=seed()), lds(column[-held:], predicted)
        interactions = spectrum.interactions("FBII", max_order=2)
        print(f"\npoint {number}: {score}, rank correlation {rank.mean:.3f} on {held} held-out retrainings")
        for order, kind in ((1, "examples"), (2, "pairs of examples")):
            print(f"strongest {kind} (FBII):")
            for key, value in interactions.top(10, order=order):
                print(f"  {value:+.4g}  {' + '.join(map(str, key))}")
        interactions.save(out / f"interactions_{number}.json")
        scores.append({"point": number, "r2": score.r2, "lds": rank.mean, "terms": len(spectrum)})
    save_result(out / "tables.json", {"retrainings": len(table), "examples": table.n, "points": without_nan(scores)})
    print(f"\ninteractions: {out}/interactions_*.json")
