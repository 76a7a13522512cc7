"""Spectrum: a sparse Walsh-Fourier expansion of a value function, the result of every method."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.core.indices import Index
from spex_jax.core.interactions import Interactions, convert
from spex_jax.core.walsh import subset_characters, walsh_hadamard
from spex_jax.utils.atomic_write import replacing
from spex_jax.utils.untrusted_files import Allowance, Archive, refusing, savez

__all__ = ["Spectrum", "exact_spectrum", "read_spectrum"]

_CHUNK_BYTES = 2**25  # size of the parities that are unpacked at a time when a spectrum is evaluated
_FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """f(x) = sum_k coefficients[k] * (-1)^(<support[k], x>), x in {0,1}^n, 1 = kept.

    Attributes:
      support: bool [K, n], distinct rows, usually with the empty set () among them.
      coefficients: float64 [K].
      variances: float64 [K] or None; the variance of each coefficient.
      covariance_factor: float64 [K, R] or None. The covariance of the coefficients is then
        diag(variances - sum(covariance_factor**2, axis=1)) + covariance_factor @ covariance_factor.T; without it,
        diag(variances).
    """

    support: np.ndarray
    coefficients: np.ndarray
    variances: np.ndarray | None = None
    covariance_factor: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Checks shapes and values, and turns the arrays into read-only numpy arrays."""
        support = masks_lib.check_masks(self.support)
        terms = len(support)
        if len(masks_lib.deduplicate(support)[0]) != terms:
            raise ValueError("support has rows that are equal; add up their coefficients and give each set once")
        own = support.flags.owndata and not support.flags.writeable  # nobody else can change it
        arrays: dict[str, np.ndarray | None] = {"support": support if own else support.copy()}
        for name in ("coefficients", "variances", "covariance_factor"):
            given = getattr(self, name)
            array = None if given is None else masks_lib.check_reals(name, given)
            shape = (terms, *array.shape[1:2]) if name == "covariance_factor" and array is not None else (terms,)
            if array is not None and (array.shape != shape or not np.isfinite(array).all()):
                raise ValueError(
                    f"{name} must be finite and of shape {shape}, one for each row of support, got {array.shape}"
                )
            arrays[name] = array
        if arrays["variances"] is not None and (arrays["variances"] < 0).any():
            raise ValueError(f"variances must not be negative, the smallest is {arrays['variances'].min()}")
        if arrays["variances"] is None and arrays["covariance_factor"] is not None:
            raise ValueError("covariance_factor needs variances, the variance of each coefficient; give both")
        for name, array in arrays.items():
            if array is not None:
                array.flags.writeable = False
            object.__setattr__(self, name, array)

    @property
    def n(self) -> int:
        """The number of features."""
        return int(self.support.shape[1])

    def __len__(self) -> int:
        """Returns the number of terms, () included."""
        return len(self.support)

    def __repr__(self) -> str:
        """Shows the number of features, the number of terms and the degree."""
        return f"<Spectrum n={self.n} terms={len(self)} degree={int(self.support.sum(axis=1).max(initial=0))}>"

    def __call__(self, masks: Any) -> np.ndarray:
        """Evaluates the spectrum at masks.

        Args:
          masks: bool [M, n].

        Returns:
          float64 [M].
        """
        masks = masks_lib.check_masks(masks, self.n)
        # Parities of 8 masks at a time: a term is the XOR of the packed columns of its features.
        columns = np.packbits(np.pad(masks, ((0, 0), (0, 1))).T, axis=1)
        degrees = self.support.sum(axis=1)
        odd = np.zeros(len(masks))
        chunk = max(1, _CHUNK_BYTES // (8 * max(1, columns.shape[1])))
        for degree in np.unique(degrees[degrees > 0]):
            rows = np.flatnonzero(degrees == degree)
            features = np.nonzero(self.support[rows])[1].reshape(len(rows), degree)
            for start in range(0, len(rows), chunk):
                part = slice(start, start + chunk)
                parity = columns[features[part, 0]]
                for feature in features[part, 1:].T:
                    parity ^= columns[feature]
                bits = np.unpackbits(parity, axis=1, count=len(masks))
                odd += self.coefficients[rows[part]] @ bits
        return np.asarray(self.coefficients.sum() - 2 * odd)

    def truncate(self, k: int) -> "Spectrum":
        """Returns the k terms of the largest energy; () is always among them where the spectrum has it."""
        if k < 1:
            raise ValueError(f"a spectrum keeps at least one term, got k = {k}")
        size = np.where(self.support.any(axis=1), np.abs(self.coefficients), np.inf)
        return self.take(np.argsort(-size, kind="stable")[:k])

    def take(self, rows: np.ndarray) -> "Spectrum":
        """Returns the spectrum of the terms in these rows, in this order."""
        optional = [None if array is None else array[rows] for array in (self.variances, self.covariance_factor)]
        return Spectrum(self.support[rows], self.coefficients[rows], *optional)

    def coefficients_at(self, support: np.ndarray) -> np.ndarray:
        """Returns coefficients float64 [K] of the sets in support bool [K, n]; 0 where there is no such term."""
        known = dict(zip(map(bytes, self.support), self.coefficients, strict=True))
        return np.array([known.get(bytes(row), 0.0) for row in support])

    def through(self, masks: Any, values: Any) -> "Spectrum":
        """Returns the nearest spectrum on the same sets that takes given values at a few masks.

        The nearest has the least mean square difference over uniform masks (Parseval), so that the coefficients move by
        A^T (A A^T)^-1 (values - f(masks)) with A the characters at the masks. Where the coefficients have variances,
        the move is one more direction of uncertainty: the spectrum was wrong there by that much.

        Args:
          masks: bool [E, n], few and distinct.
          values: float [E].

        Raises:
          ValueError: the shapes are wrong, or these sets cannot take these values at these masks.
        """
        masks = masks_lib.check_masks(masks, self.n)
        values = masks_lib.check_values(values, masks)
        characters = subset_characters(masks, self.support).astype(np.float64)
        missing = values - characters @ self.coefficients
        weights = np.linalg.lstsq(characters @ characters.T, missing, rcond=1e-9)[0]
        move = characters.T @ weights
        if not np.allclose(characters @ move, missing, rtol=1e-6, atol=1e-9 * float(np.abs(values).max(initial=0.0))):
            raise ValueError(
                f"the {len(self)} sets of this spectrum cannot take {len(values)} given values at these masks; add "
                "sets of other parities, such as () and the single features"
            )
        if self.variances is None:
            return Spectrum(self.support, self.coefficients + move)
        factor = np.zeros((len(self), 0)) if self.covariance_factor is None else self.covariance_factor
        return Spectrum(
            self.support,
            self.coefficients + move,
            self.variances + np.square(move),
            np.concatenate([factor, move[:, None]], axis=1),
        )

    def energy_by_degree(self) -> np.ndarray:
        """Returns the sum of squared coefficients of each degree, float64 [n + 1]; the degrees from 1 on sum to the
        variance on uniform masks.
        """
        return np.bincount(self.support.sum(axis=1), self.coefficients**2, self.n + 1)

    def __add__(self, other: "Spectrum") -> "Spectrum":
        """Returns the spectrum of the sum of two functions; it has no variances, since both may depend on the same
        data.
        """
        if self.n != other.n:
            raise ValueError(f"spectra of {self.n} and {other.n} features cannot be added")
        support = np.concatenate([self.support, other.support])
        first, inverse = masks_lib.deduplicate(support)
        coefficients = np.bincount(inverse, np.concatenate([self.coefficients, other.coefficients]), len(first))
        return Spectrum(support[first], coefficients)

    def __mul__(self, factor: float) -> "Spectrum":
        """Returns the spectrum of factor * f."""
        return Spectrum(
            self.support,
            self.coefficients * factor,
            None if self.variances is None else self.variances * factor**2,
            None if self.covariance_factor is None else self.covariance_factor * factor,
        )

    __rmul__ = __mul__

    def interactions(
        self, index: str | Index = "FSII", max_order: int = 2, names: Sequence[str] | None = None
    ) -> Interactions:
        """Returns the interaction values; see `spex_jax.core.interactions.convert`."""
        return convert(
            self.support,
            self.coefficients,
            index=index,
            max_order=max_order,
            names=names,
            variances=self.variances,
            covariance_factor=self.covariance_factor,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one .npz file at exactly this path, completely or not at all."""
        arrays = {
            "format": np.array(_FORMAT),
            "n": np.array(self.n),
            "support": masks_lib.pack(self.support),
            "coefficients": self.coefficients,
            "variances": self.variances,
            "covariance_factor": self.covariance_factor,
        }
        with replacing(path) as file:
            savez(file, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, max_bytes: int | None = None) -> "Spectrum":
        """Reads what `save` wrote.

        Args:
          path: path of the file.
          max_bytes: bytes of memory that reading may take; None allows 10 times the size of the file plus 50 MiB, which
            is enough for every file that this version writes.

        Raises:
          ValueError: the file is damaged, of another kind or of a newer format, or would take more memory.
        """
        with refusing(path, "a file of Spectrum.save"):
            return read_spectrum(path, Allowance([path], max_bytes))


def read_spectrum(path: str | os.PathLike[str], allowance: Allowance) -> Spectrum:
    """Reads a file of `Spectrum.save` within the memory allowed; see `untrusted_files.refusing` for errors."""
    with Archive(path, allowance) as file:
        if (format_ := file.whole("format", 1)) > _FORMAT:
            raise ValueError(f"written by a newer version (format {format_}); update spex_jax")
        support = file.masks("support", file.whole("n", 1))
        terms = len(support)
        allowance.take(support.size // 8 + 64 * terms, "the comparison of its terms")
        coefficients = file.floats("coefficients", (terms,))
        variances = file.floats("variances", (terms,)) if "variances" in file else None
        factor = file.floats("covariance_factor", (terms, None)) if "covariance_factor" in file else None
    return Spectrum(support, coefficients, variances, factor)


def exact_spectrum(masks: np.ndarray, values: np.ndarray) -> Spectrum:
    """Returns the spectrum of a function known at all masks, by one fast transform, without terms below rounding error.

    Args:
      masks: bool [2^n, n], all masks, in any order.
      values: float64 [2^n].
    """
    n = masks.shape[1]
    if len(masks) != 2**n or len(masks_lib.deduplicate(masks)[0]) != 2**n:
        raise ValueError(f"an exact spectrum needs all 2^{n} = {2**n} masks once, got {len(masks)}")
    table = np.empty(2**n)
    table[masks @ (1 << np.arange(n))] = values
    coefficients = walsh_hadamard(table) / 2**n
    keep = np.abs(coefficients) > 4 * np.finfo(np.float64).eps * n * np.abs(table).max()
    keep[0] = True
    return Spectrum(masks_lib.all_masks(n)[keep], coefficients[keep])
