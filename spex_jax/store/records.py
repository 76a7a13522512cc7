"""The bytes of a store: a line that names the format, the header twice, and checksummed records of ablations.

    spex_jax ablations 2\\n   record(JSON header)   record(JSON header)   record(ablations)   record(ablations)   ...

A record is a frame and a payload. The frame is a marker, the length of the payload, a CRC-32 of length and payload, and
a CRC-32 of the frame before it; numbers are little-endian. The payload of ablations is their count, the packed masks
and the values as float64. A record is written by one append, so that a process that dies leaves whole records and at
most the beginning of one: a record of full length that fails its checksum was changed afterwards, and is damage.

Format 1, which is still read and continued, has one header and frames without a checksum of their own.
"""

import dataclasses
import struct
import zlib
from typing import Any

import numpy as np

from spex_jax.store.header import Header

__all__ = ["FORMAT", "Damage", "Scan", "ablations", "first_bytes", "read_ablations", "record", "scan"]

FORMAT = 2
_NAME = b"spex_jax ablations "
_LINE = len(_NAME) + 2
_ABLATIONS = b"\xabABL"
_HEADERS = {1: _ABLATIONS, 2: b"\xabHDR"}
_FRAMES = {1: struct.Struct("<4sII"), 2: struct.Struct("<4sIII")}
# How often a file may be reread in the search for whole records: false markers are rare in an honest file.
_READINGS = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Damage:
    """Bytes [start, stop) that belong to no whole record."""

    start: int
    stop: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
    """The contents of a file.

    Attributes:
      header: None where the file ends within it.
      records: start and stop of the payload of every whole record of ablations.
      damage: the damaged parts.
      version: the format of the file, 0 without a header.
      end: where the last record or damage ends; an unfinished record may follow.
    """

    header: Header | None
    records: tuple[tuple[int, int], ...]
    damage: tuple[Damage, ...]
    version: int
    end: int


_NOTHING = Scan(header=None, records=(), damage=(), version=0, end=0)


def _checksum(payload: Any) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<I", len(payload))))


def record(payload: bytes, version: int = FORMAT, marker: bytes = _ABLATIONS) -> bytes:
    """Returns the bytes of one record in a format."""
    frame = struct.pack("<4sII", marker, len(payload), _checksum(payload))
    return frame + (struct.pack("<I", zlib.crc32(frame)) if version > 1 else b"") + payload


def _line(version: int) -> bytes:
    return _NAME + b"%d\n" % version


def first_bytes(header: Header) -> bytes:
    """Returns the bytes with which a new file begins."""
    return _line(FORMAT) + 2 * record(header.to_json(FORMAT), marker=_HEADERS[FORMAT])


def ablations(packed: np.ndarray, values: np.ndarray) -> bytes:
    """Returns the payload of packed masks uint8 [M, ceil(n / 8)] and values float64 [M, *outputs]."""
    return struct.pack("<I", len(packed)) + packed.tobytes() + values.astype("<f8").tobytes()


def read_ablations(data: Any, found: Scan, n: int, outputs: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns packed masks uint8 [M, ceil(n / 8)] and values float64 [M, *outputs] of all records."""
    width = -(-n // 8)
    row = width + 8 * int(np.prod(outputs, dtype=np.int64))
    total = sum((stop - start - 4) // row for start, stop in found.records)
    packed, values = np.empty((total, width), np.uint8), np.empty((total, *outputs))
    done = 0
    for start, stop in found.records:
        payload = data[start:stop]
        rows = slice(done, done + (stop - start - 4) // row)
        done = rows.stop
        count = rows.stop - rows.start
        packed[rows] = np.frombuffer(payload, np.uint8, count * width, 4).reshape(count, width)
        values[rows] = np.frombuffer(payload, "<f8", -1, 4 + count * width).reshape(count, *outputs)
    return packed, values


class _Reader:
    """Finds the records of one format in a file."""

    def __init__(self, data: Any, version: int):
        """Takes the file as bytes or an mmap."""
        self.data, self.version, self.frame = data, version, _FRAMES[version]
        self._left = _READINGS * len(data)

    def _framed(self, offset: int, marker: bytes) -> tuple[int, int, int] | None:
        """Returns start, stop and checksum of the payload, read from the frame at an offset; None without a frame."""
        start = offset + self.frame.size
        if start > len(self.data):
            return None
        found, length, checksum, *own = self.frame.unpack_from(self.data, offset)
        if found != marker or (own and own[0] != zlib.crc32(self.data[offset : start - 4])):
            return None
        return start, start + length, checksum

    def payload(self, offset: int, marker: bytes = _ABLATIONS) -> tuple[int, int] | None:
        """Returns start and stop of the payload of the whole record at an offset, else None."""
        framed = self._framed(offset, marker)
        if framed is None or framed[1] > len(self.data) or self._left < 0:
            return None
        start, stop, checksum = framed
        self._left -= stop - start
        return (start, stop) if _checksum(self.data[start:stop]) == checksum else None

    def following(self, offset: int, marker: bytes = _ABLATIONS) -> int | None:
        """Returns where the next whole record begins, else None."""
        while self._left >= 0 and (offset := self.data.find(marker, offset)) >= 0:
            if self.payload(offset, marker) is not None:
                return offset
            offset += 1
        return None

    def unfinished(self, offset: int, marker: bytes = _ABLATIONS) -> bool:
        """Returns whether the file ends within the record at an offset, as after a killed run."""
        there = len(self.data) - offset
        if there < self.frame.size:
            return marker.startswith(self.data[offset : offset + len(marker)])
        framed = self._framed(offset, marker)
        if framed is None or framed[1] <= len(self.data):
            return False
        # A whole record whose length field was changed still fits its checksum (format 1).
        return self.version > 1 or _checksum(self.data[framed[0] :]) != framed[2]


def _begins(data: Any) -> tuple[int, bool]:
    """Returns the format of a file, and whether its first line is whole; format 0 where the line is incomplete.

    Raises:
      ValueError: it is not a store, or one of a newer format.
    """
    line = bytes(data[:_LINE])
    for version in _FRAMES:
        if line == _line(version):
            return version, True
    if len(data) < _LINE and any(_line(version).startswith(line) for version in _FRAMES):
        return 0, True
    for version in sorted(_FRAMES, reverse=True):  # the line was changed, the header was not
        found = _Reader(data, version).payload(_LINE, _HEADERS[version])
        if found is not None and Header.version_of(bytes(data[slice(*found)])) == version:
            return version, False
    number, end, _ = bytes(data[len(_NAME) : _LINE + 20]).partition(b"\n")
    if line.startswith(_NAME) and end and number.isdigit() and int(number) > FORMAT:
        raise ValueError(
            f"was written by a newer version of spex_jax (format {number.decode()}, this version reads up to "
            f"{FORMAT}); update spex_jax"
        )
    raise ValueError("is not a store of ablations; give the path of a store, or a path that does not exist yet")


def _headers(reader: _Reader) -> tuple[tuple[int, int] | None, list[Damage], int]:
    """Returns the payload of a whole header, what is damaged, and where the ablations begin.

    The payload is None where the file ends within the headers.

    Raises:
      ValueError: no header is whole.
    """
    data, marker = reader.data, _HEADERS[reader.version]
    first = reader.payload(_LINE, marker)
    if first is None and reader.unfinished(_LINE, marker) and reader.following(_LINE + 1) is None:
        return None, [], 0
    if reader.version == 1:
        if first is None:
            raise ValueError("has a damaged header, so that the value function of its ablations is unknown")
        return first, [], first[1]
    if first is None:
        second = reader.following(_LINE, marker)
        if second is None:
            raise ValueError("has two damaged headers, so that the value function of its ablations is unknown")
        found = reader.payload(second, marker)
        assert found is not None
        return found, [Damage(_LINE, second)], found[1]
    end = 2 * first[1] - _LINE
    copy, whole = data[first[1] : end], data[_LINE : first[1]]
    if copy == whole:
        return first, [], end
    if len(data) < end and whole.startswith(copy):
        return None, [], 0
    return first, [Damage(first[1], min(end, len(data)))], min(end, len(data))


def scan(data: Any) -> Scan:
    """Reads a file, bytes or mmap, in time proportional to its size.

    Raises:
      ValueError: it is not a store, has a newer format, or its header is damaged. The message is the end of a sentence
        that begins with the file.
    """
    version, whole = _begins(data)
    if not version:
        return _NOTHING
    reader = _Reader(data, version)
    place, damage, offset = _headers(reader)
    if place is None:
        return _NOTHING
    if not whole:
        damage.insert(0, Damage(0, _LINE))
    header = Header.from_json(bytes(data[slice(*place)]))
    row = -(-header.n // 8) + 8 * int(np.prod(header.outputs, dtype=np.int64))
    records: list[tuple[int, int]] = []
    while offset < len(data):
        found = reader.payload(offset)
        if found is None:
            if data[offset : offset + len(_NAME)] == _NAME:
                raise ValueError("holds two stores, one after the other; only a run can continue a store")
            following = reader.following(offset + 1)
            if following is None:
                if reader.unfinished(offset):
                    break
                following = len(data)
            damage.append(Damage(offset, following))
            offset = following
        else:
            count = struct.unpack_from("<I", data, found[0])[0] if found[1] - found[0] >= 4 else -1
            if found[1] - found[0] != 4 + count * row:
                damage.append(Damage(offset, found[1]))
            elif count:
                records.append(found)
            offset = found[1]
    return Scan(header=header, records=tuple(records), damage=tuple(damage), version=version, end=offset)
