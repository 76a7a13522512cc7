"""Digests of values without parts: numbers, strings, data types and the bytes of arrays."""

import hashlib
import struct
from typing import Any

import numpy as np

__all__ = ["ATOMS", "combined", "is_number", "of_array", "of_atom", "of_dtype"]

ATOMS = (bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented))
_KINDS = "biufcmMSU"  # kinds of dtypes whose bytes are their values


def combined(kind: str, *parts: bytes | str) -> bytes:
    """Digests several parts, so that no other parts give the same digest."""
    content = hashlib.sha256()
    for part in (kind, *parts):
        given = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        content.update(struct.pack("<Q", len(given)))
        content.update(given)
    return content.digest()


def of_atom(value: Any) -> bytes:
    """Digests one of the ATOMS."""
    name = type(value).__name__
    if isinstance(value, bool):
        return combined(name, "1" if value else "0")
    if isinstance(value, int):
        return combined(name, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))
    if isinstance(value, float):
        return combined(name, struct.pack("<d", value))
    if isinstance(value, complex):
        return combined(name, struct.pack("<dd", value.real, value.imag))
    return combined(name, value) if isinstance(value, str | bytes) else combined(name)


def of_dtype(dtype: np.dtype) -> bytes:
    """Digests a data type, with its byte order."""
    return combined("dtype", dtype.str, dtype.name)


def of_array(leaf: Any) -> bytes:
    """Digests an array's dtype, shape and bytes."""
    array = np.asarray(leaf)
    content = hashlib.sha256(of_dtype(array.dtype) + struct.pack(f"<{array.ndim}q", *array.shape))
    content.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return content.digest()


def is_number(dtype: np.dtype) -> bool:
    """Returns whether an array's bytes are its values: no objects, no pointers to strings, no records."""
    return dtype.kind in _KINDS or dtype.type.__module__ == "ml_dtypes"
