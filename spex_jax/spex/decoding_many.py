"""Decodes many sets of values at once, each as `decode` does, in less time."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.core.spectrum import Spectrum
from spex_jax.spex.decoder import Peeling, decode, finish, in_order, peeling, standardise, tried
from spex_jax.spex.designs import Design, check_design
from spex_jax.spex.peeling import peel_together
from spex_jax.utils.jax_settings import in_float32
from spex_jax.utils.threads import cores, each

__all__ = ["decode_many"]

_BYTES = 2**30  # memory of the searches that run at once


def decode_many(design: Design | Sequence[Design], values: Any, *, refit: bool = True) -> list[Spectrum]:
    """Decodes many sets of values, as `decode(design[b], values[b], refit=refit)` for every b, but faster.

    On a CPU whole decodings run side by side, one on each core, with the program of `decode`: the spectra are those of
    `decode` to the last bit. On an accelerator the search of all designs of one shape (n, degree, bins and uniform
    masks) is one program, vmapped over them. It finds the sets of `decode`, except where a set is within rounding of
    its threshold. The least squares on all ablations run in numpy in either case.

    Args:
      design: one design; or B of them.
      values: [M, T], T outputs at the masks of the one design; or B arrays [M_b].
      refit: as in `decode`.

    Returns:
      T or B spectra, in this order.

    Raises:
      ValueError: values that do not belong to their design or are not finite (a note names the design or the output),
        no designs, or lists of different lengths.
    """
    designs, given = _pairs(design, values)
    checked = []
    for b, (each_design, each_values) in enumerate(zip(designs, given, strict=True)):
        try:
            checked.append(check_design(each_design, each_values))
        except ValueError as error:
            error.add_note(f"in design {b} of {len(designs)}" if isinstance(design, Sequence) else f"in output {b}")
            raise
    if jax.default_backend() == "cpu":
        at_once = min(cores(), _at_once(max(designs, key=lambda one: one.rows.size)))
        return each(lambda b: decode(designs[b], checked[b], refit=refit), range(len(designs)), at_once)
    return _vmapped(designs, checked, refit)


def _pairs(design: Design | Sequence[Design], values: Any) -> tuple[Sequence[Design], Sequence[Any]]:
    if isinstance(design, Design):
        values = np.asarray(values)
        if values.ndim != 2 or len(values) != len(design.masks):
            raise ValueError(
                f"values of T outputs of one design must have shape ({len(design.masks)}, T), got {values.shape}; give "
                "one column for each output, or lists of designs and values"
            )
        design, values = [design] * values.shape[1], list(values.T)
    elif not isinstance(design, Sequence) or isinstance(design, str):
        raise ValueError(f"expected a Design of spex_jax.spex.design or a list of them, got {type(design).__name__}")
    if len(design) != len(values):
        raise ValueError(
            f"there must be values for every design, got {len(design)} designs and {len(values)} arrays of values"
        )
    if not len(design):
        raise ValueError("decode_many needs at least one design, got none; give one or more, with their values")
    return design, values


def _at_once(design: Design) -> int:
    """Returns how many searches of this size fit into the memory bound."""
    _, delays, bins = design.rows.shape
    uniform = len(design.masks) - int(design.rows.max()) - 1
    terms = 6 * bins
    words = len(tried(design.n, design.plan.t)) or 32 * min(max(256, 2 * bins), 2048)
    # The known sets with their views, the products of bins, and the sets tried or the words of the flips.
    known = 2 * terms * (design.n + delays + min(uniform, 4096))
    elements = known + 9 * min(bins, 1024) ** 2 + 4 * words * delays + 2 * design.rows.size
    return max(1, int(_BYTES // (4 * elements)))


@in_float32()
def _vmapped(designs: Sequence[Design], values: Sequence[np.ndarray], refit: bool) -> list[Spectrum]:
    """Decodes with the searches of all designs of one shape in one program; the refits follow one by one."""
    prepared = [standardise(*pair) for pair in zip(designs, values, strict=True)]
    groups: dict[Any, list[tuple[int, Peeling]]] = {}
    for b, ready in enumerate(prepared):
        if not isinstance(ready, Spectrum):
            given = peeling(designs[b], ready[0])
            shape = tuple(array.shape for array in given.arrays)
            groups.setdefault((given.code, given.most_terms, shape), []).append((b, given))
    found = {b: ready for b, ready in enumerate(prepared) if isinstance(ready, Spectrum)}
    for (code, most_terms, _), members in groups.items():
        most = _at_once(designs[members[0][0]])
        size = min(most, 2 ** (-(-len(members) // -(-len(members) // most)) - 1).bit_length())
        for start in range(0, len(members), size):
            part = members[start : start + size]
            padded = [given.arrays for _, given in part] + [part[0][1].arrays] * (size - len(part))
            arrays = [*map(np.stack, zip(*padded, strict=True)), part[0][1].every]
            together = peel_together(*map(jnp.asarray, arrays), code=code, most_terms=most_terms)
            sets, coefficients = jax.device_get(together)
            for row, (b, _) in enumerate(part):
                ready = prepared[b]
                assert not isinstance(ready, Spectrum)
                found[b] = finish(designs[b], *ready, in_order(sets[row], coefficients[row]), refit=refit)
    return [found[b] for b in range(len(designs))]
