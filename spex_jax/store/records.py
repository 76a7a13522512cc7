"""The bytes of a store: a line that names the format, a header, and checksummed records of ablations.

    spex_jax ablations 1\\n   record(JSON header)   record(ablations)   record(ablations)   ...

A record is a marker, the length of its payload, a CRC-32 of length and payload, and the payload; numbers are
little-endian. The payload of ablations is their count, the packed masks and the values as float64. A record is written
by one append, so that a process that dies leaves whole records and at most the beginning of one.
"""

import dataclasses
import json
import math
import struct
import zlib
from typing import Any

import numpy as np

__all__ = ["FORMAT", "Damage", "Scan", "ablations", "first_bytes", "read_ablations", "record", "scan"]

FORMAT = 1
_NAME = b"spex_jax ablations "
_MARKER = b"\xabABL"
_FRAME = struct.Struct("<4sII")


@dataclasses.dataclass(frozen=True)
class Damage:
    """Bytes [start, stop) that belong to no record, though records come after them."""

    start: int
    stop: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
    """What is in a file.

    Attributes:
      header: the JSON header; None where the file ends before its end.
      records: start and stop of the payload of every whole record of ablations.
      damage: what is broken between them.
      end: where the last whole record ends; what comes after it is the beginning of a record that was never finished.
    """

    header: dict[str, Any] | None
    records: tuple[tuple[int, int], ...]
    damage: tuple[Damage, ...]
    end: int


def record(payload: bytes) -> bytes:
    """The bytes of one record."""
    length = struct.pack("<I", len(payload))
    return _FRAME.pack(_MARKER, len(payload), zlib.crc32(payload, zlib.crc32(length))) + payload


def first_bytes(header: dict[str, Any]) -> bytes:
    """What a new file begins with."""
    return _NAME + b"%d\n" % FORMAT + record(json.dumps(header, default=str).encode())


def ablations(packed: np.ndarray, values: np.ndarray) -> bytes:
    """The payload of packed masks uint8 [M, ceil(n / 8)] and values float64 [M, *outputs]."""
    return struct.pack("<I", len(packed)) + packed.tobytes() + values.astype("<f8").tobytes()


def read_ablations(payload: bytes, width: int, outputs: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of `ablations` for masks of `width` bytes."""
    (count,) = struct.unpack_from("<I", payload)
    packed = np.frombuffer(payload, np.uint8, count * width, 4).reshape(count, width)
    values = np.frombuffer(payload, "<f8", -1, 4 + count * width).reshape(count, *outputs)
    return packed, values.astype(np.float64)


def _payload_at(data: Any, offset: int) -> tuple[int, int] | None:
    """Start and stop of the payload of the record at an offset; None where there is no whole one."""
    start = offset + _FRAME.size
    if start > len(data):
        return None
    marker, length, checksum = _FRAME.unpack_from(data, offset)
    stop = start + length
    if marker != _MARKER or stop > len(data):
        return None
    found = zlib.crc32(data[start:stop], zlib.crc32(struct.pack("<I", length)))
    return (start, stop) if found == checksum else None


def _next_record(data: Any, offset: int) -> int | None:
    """Where the next whole record begins."""
    while (offset := data.find(_MARKER, offset)) >= 0:
        if _payload_at(data, offset) is not None:
            return offset
        offset += 1
    return None


def scan(data: Any) -> Scan:
    """Reads a file, bytes or mmap.

    Raises:
      ValueError: it is no store, one of a newer format, or its header is damaged. The message is the end of a sentence
        that begins with the file.
    """
    line_end = data.find(b"\n", 0, len(_NAME) + 20)
    line = bytes(data[: len(_NAME) + 20] if line_end < 0 else data[:line_end])
    if not line.startswith(_NAME) and not (line_end < 0 and _NAME.startswith(line)):
        raise ValueError("is not a store of ablations; give the path of a store, or one that does not exist yet")
    if line_end < 0:
        return Scan(header=None, records=(), damage=(), end=0)
    number = line[len(_NAME) :]
    if not number.isdigit() or int(number) > FORMAT:
        raise ValueError(
            f"was written by a newer version of spex_jax (format {number.decode(errors='replace')}, "
            f"this version reads up to {FORMAT}); update spex_jax"
        )
    first = _payload_at(data, line_end + 1)
    if first is None:
        if _next_record(data, line_end + 1) is not None:
            raise ValueError("has a damaged header, so that nothing says what its ablations belong to")
        return Scan(header=None, records=(), damage=(), end=0)
    header = json.loads(bytes(data[slice(*first)]))
    row = -(-header["n"] // 8) + 8 * math.prod(header["outputs"])
    records, damage, offset = [], [], first[1]
    while offset < len(data):
        found = _payload_at(data, offset)
        if found is None:
            if data[offset : offset + len(_NAME)] == _NAME:
                raise ValueError("holds two stores, one behind the other; a store can only be continued by a run")
            following = _next_record(data, offset + 1)
            if following is None:
                break
            damage.append(Damage(offset, following))
            offset = following
        else:
            (count,) = struct.unpack_from("<I", data, found[0])
            if found[1] - found[0] != 4 + count * row:
                damage.append(Damage(offset, found[1]))
            else:
                records.append(found)
            offset = found[1]
    return Scan(header=header, records=tuple(records), damage=tuple(damage), end=offset)
