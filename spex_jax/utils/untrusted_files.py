"""Reads files from untrusted sources.

Whatever the bytes are, the result has the requested form, or a ValueError is raised; nothing is executed, and memory
stays in proportion to the file, because every size that a file claims is checked before it is allocated.
"""

import contextlib
import json
import math
import os
import re
import reprlib
import stat
import sys
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np

__all__ = ["Allowance", "Archive", "Record", "map_array", "read_json", "refusing", "savez"]

_FACTOR, _FLOOR = 10, 50 * 2**20  # bytes of memory that reading may take: per byte of the file, and in addition
_RESERVED = 6 * 2**20  # part of it, for buffers
_COMPRESSED = 2**20  # most bytes of arrays that may be compressed: they fit the allowance whatever they contain
_AT_ONCE = 2**20  # bytes per read
_HEADER = 10_000  # most bytes of an array's header; numpy refuses longer ones too
_DEPTH = 32  # most levels of nested lists and objects in content that is kept as it is
_NONE: Any = object()
_DESCR = re.compile(r"'descr'\s*:\s*'([<>|=]?[biufc](?:1|2|4|8|16))'")
_ORDER = re.compile(r"'fortran_order'\s*:\s*(True|False)")
_SHAPE = re.compile(r"'shape'\s*:\s*\(([0-9, ]*)\)")


@contextlib.contextmanager
def refusing(
    path: str | os.PathLike[str], kind: str, *, keep: tuple[type[Exception], ...] = (), advice: str = ""
) -> Iterator[None]:
    """Turns every error of reading a file into a ValueError that names the file and what it should be.

    All readers run in this context, so that a parser's own errors (BadZipFile, zlib.error, RecursionError, KeyError,
    the panics of parsers in Rust, ...) reach no caller.

    Args:
      path: the file or folder.
      kind: what it should be, for the message.
      keep: errors that are raised unchanged.
      advice: what to do, for the message.
    """
    try:
        yield
    except keep:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = str(error) or type(error).__name__
        raise ValueError(f"{os.fspath(path)!r} is not {kind}: {reason}{advice}") from error


class Allowance:
    """The memory that reading some files may take."""

    def __init__(self, paths: Sequence[str | os.PathLike[str]], most: int | None = None):
        """Sets the bytes that reading `paths` may take; None is 10 times their size and 50 MiB."""
        size = sum(os.stat(path).st_size for path in paths)  # noqa: PTH116  # Path would drop a slash at the end
        self._left = (_FACTOR * size + _FLOOR if most is None else int(most)) - _RESERVED

    def take(self, size: int, what: str) -> None:
        """Counts bytes that are about to be allocated.

        Raises:
          ValueError: more bytes than are left.
        """
        if size > self._left:
            raise ValueError(
                f"{what} would take {size:,} bytes of memory, more than a file of this size may take ({_FACTOR} "
                f"times its size and {_FLOOR >> 20} MiB); give max_bytes= if you trust its source"
            )
        self._left -= size


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Opens a regular file; a pipe or a device might never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
        raise ValueError("it is not a regular file")
    with open(path, "rb") as file:  # noqa: PTH123
        yield file


class _Bounded:
    """A file that bounds each read, whatever sizes the directory of an archive claims."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > _AT_ONCE:
            raise ValueError(f"its directory claims {size:,} bytes")
        return self._file.read(size)


def _header(read: Any) -> tuple[np.dtype, tuple[int, ...], bool, int]:
    """Returns dtype, shape, whether the order is Fortran's, and where the data begin in numpy's array format.

    numpy's own reader evaluates the header as Python; this one takes plain numbers and nothing else.
    """
    start = read(8)
    if len(start) < 8 or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3):
        raise ValueError("an array does not begin as in numpy's format")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(read(width), "little")
    if length > _HEADER:
        raise ValueError(f"the header of an array claims {length:,} bytes")
    text = read(length).decode("latin-1")
    found = [re.findall(pattern, text) for pattern in (_DESCR, _ORDER, _SHAPE)]
    if any(len(each) != 1 for each in found):
        raise ValueError(f"the header of an array is not plain numbers: {reprlib.repr(text)}")
    sizes = [part.strip() for part in found[2][0].split(",")]
    if any(len(size) > 15 or (not size and place < max(1, len(sizes) - 1)) for place, size in enumerate(sizes[1:], 1)):
        raise ValueError(f"the header of an array has the shape {reprlib.repr(found[2][0])}")
    shape = tuple(int(size) for size in sizes if size)
    if len(shape) > 8 or any(size >= 2**48 for size in shape):
        raise ValueError(f"the header of an array has the shape {reprlib.repr(shape)}")
    return np.dtype(found[0][0]), shape, found[1][0] == "True", 8 + width + length


class Archive:
    """Reads arrays of an .npz file on request, each only if it has the expected form. A context manager."""

    def __init__(self, path: str | os.PathLike[str], allowance: Allowance):
        """Reads the directory of the archive.

        Raises:
          ValueError: it is damaged, or holds anything other than arrays.
        """
        with contextlib.ExitStack() as opening:
            self._zip = zipfile.ZipFile(_Bounded(opening.enter_context(_opened(path))))
            self._members: dict[str, zipfile.ZipInfo] = {}
            for member in self._zip.infolist():
                name = member.filename.removesuffix(".npy")
                plain = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not member.flag_bits & 1
                if name == member.filename or not plain or name in self._members:
                    raise ValueError(f"it holds {reprlib.repr(member.filename)}, which numpy.savez does not write")
                self._members[name] = member
            self._stack, self._allowance = opening.pop_all(), allowance
        self._unread = set(self._members)

    def __enter__(self) -> "Archive":
        """Returns the archive itself."""
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        """Closes the file; raises ValueError where no error occurred but some arrays were not read."""
        self._stack.close()
        if kind is None and self._unread:
            raise ValueError(f"it holds {', '.join(map(reprlib.repr, sorted(self._unread)))}, which is not known")

    def __contains__(self, name: str) -> bool:
        """Returns whether the archive has such an array."""
        return name in self._members

    @property
    def names(self) -> list[str]:
        """The names of all arrays."""
        return list(self._members)

    def array(self, name: str, kinds: str, shape: Sequence[int | None] | None) -> np.ndarray:
        """Reads an array.

        Args:
          name: its name.
          kinds: accepted kinds of dtypes: b, i, u, f.
          shape: the expected shape; None stands for any size, and for any shape.

        Raises:
          ValueError: it is missing, is damaged, has another form, or would take more memory than is allowed.
        """
        if name not in self._members:
            raise ValueError(f"it lacks {name!r}")
        self._unread.discard(name)
        member = self._members[name]
        with self._zip.open(member) as file:
            dtype, found, fortran, start = _header(file.read)
            fits = shape is None or (
                len(found) == len(shape) and all(b in (None, a) for a, b in zip(found, shape, strict=True))
            )
            if dtype.kind not in kinds or not fits:
                wanted = "" if shape is None else f"[{', '.join('any' if s is None else str(s) for s in shape)}]"
                what = {"f": "real numbers", "u": "bytes", "i": "whole numbers"}[kinds[-1]]
                raise ValueError(f"{name!r} must be {what} {wanted}, got {dtype} {list(found)}")
            size = math.prod(found) * dtype.itemsize
            if member.file_size != start + size:
                raise ValueError(f"{name!r} claims {size:,} bytes and has {member.file_size - start:,}")
            self._allowance.take(size, repr(name))
            data = np.empty(size, np.uint8)
            done = 0
            while done < size:
                part = file.read(min(_AT_ONCE, size - done))
                if not part:
                    raise ValueError(f"{name!r} ends early")
                data[done : done + len(part)] = np.frombuffer(part, np.uint8)
                done += len(part)
            if file.read(1):  # this also compares the checksum of an array without data
                raise ValueError(f"{name!r} is longer than it claims")
        return data.view(dtype).reshape(found, order="F" if fortran else "C")

    def floats(self, name: str, shape: Sequence[int | None] | None) -> np.ndarray:
        """Reads finite real numbers, float64 of this shape (None: any size)."""
        found = self.array(name, "iuf", shape)
        self._allowance.take(found.size * (8 if found.dtype != np.float64 else 1), repr(name))
        found = found.astype(np.float64, copy=False)
        if not np.isfinite(found).all():
            raise ValueError(f"{name!r} holds {int((~np.isfinite(found)).sum())} numbers that are not finite")
        return found

    def whole(self, name: str, least: int, most: int = 2**48) -> int:
        """Reads one whole number."""
        found = int(self.array(name, "ui", ()))
        if not least <= found <= most:
            raise ValueError(f"{name!r} must be a whole number from {least} to {most}, got {found}")
        return found

    def masks(self, name: str, n: int) -> np.ndarray:
        """Reads masks of n features that are stored as bits: bool [M, n], read-only."""
        width = -(-n // 8)
        packed = self.array(name, "u", (None, width))
        if packed.dtype != np.uint8:
            raise ValueError(f"{name!r} must be bytes, got {packed.dtype}")
        if n % 8 and (packed[:, -1] & (0xFF >> n % 8)).any():
            raise ValueError(f"{name!r} has bits past its {n} features")
        rows = len(packed)
        self._allowance.take((rows + 1) * n, f"{name!r}, {rows:,} masks of {n:,} features,")
        masks, step = np.empty((rows, n), np.bool_), max(1, _AT_ONCE // n)
        for first in range(0, rows, step):
            masks[first : first + step] = np.unpackbits(packed[first : first + step], axis=1, count=n)
        masks.flags.writeable = False
        return masks


def savez(file: Any, arrays: Mapping[str, np.ndarray | None]) -> None:
    """Writes the arrays that are not None as an .npz file that `Archive` reads.

    Large ones are not compressed: masks that are mostly 0 shrink a thousandfold, and could not be told from an archive
    that was made to fill the memory.
    """
    known: dict[str, Any] = {name: array for name, array in arrays.items() if array is not None}
    small = sum(array.nbytes for array in known.values()) <= _COMPRESSED
    (np.savez_compressed if small else np.savez)(file, **known)


def map_array(path: str | os.PathLike[str]) -> np.memmap:
    """Maps the array of an .npy file into memory without reading it.

    Raises:
      ValueError: the file is not an array of plain numbers, or has another size than its header claims.
    """
    with _opened(path) as file:
        dtype, shape, fortran, start = _header(file.read)
        size, there = math.prod(shape) * dtype.itemsize, os.fstat(file.fileno()).st_size - start
        if size != there or not size:
            raise ValueError(f"its header claims {size:,} bytes, but {there:,} are there")
        return np.memmap(file, dtype, "r", start, shape, "F" if fortran else "C")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        again = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {reprlib.repr(again)} occurs twice in an object")
    return found


def read_json(path: str | os.PathLike[str], allowance: Allowance | None = None) -> Any:
    """Reads a JSON file in UTF-8.

    Raises:
      ValueError: it is not JSON, has a name twice, or would take more memory than is allowed.
    """
    allowance = Allowance([path]) if allowance is None else allowance
    with _opened(path) as file:
        data = file.read(os.fstat(file.fileno()).st_size)
    # The most that objects of each kind take, and the text twice: as a whole, and as strings, in which one wide
    # character widens all others.
    objects = 240 * data.count(b"{") + 96 * data.count(b":") + 104 * data.count(b"[") + 40 * data.count(b",")
    wide = 4 if re.search(rb"[\xf0-\xff]", data) else 2 if re.search(rb"[\xc4-\xff]", data) else 1
    strings = 4 if rb"\u" in data else wide
    allowance.take(objects + 32 * data.count(b'"') + (wide + strings) * len(data), "its content")
    text = data.decode("utf-8")
    del data
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except RecursionError as error:
        raise ValueError("its lists and objects are nested too deeply") from error


class Record:
    """Reads the fields of a JSON object one by one, each checked; a field with a default may be absent."""

    def __init__(self, content: Any, what: str = "it"):
        """Takes the content, which should be an object, and its name in messages."""
        if not isinstance(content, dict):
            raise ValueError(f"{what} must be an object, got {reprlib.repr(content)}")
        self._content, self._what = dict(content), what

    def take(self, name: str, default: Any = _NONE) -> Any:
        """Takes a field as it is."""
        if name not in self._content:
            if default is _NONE:
                raise ValueError(f"{self._what} lacks {name!r}")
            return default
        return self._content.pop(name)

    def _refuse(self, name: str, expected: str, given: Any) -> ValueError:
        return ValueError(f"{name!r} of {self._what} must be {expected}, got {reprlib.repr(given)}")

    def null(self, name: str) -> bool:
        """Returns whether a field is null or absent; it is then taken."""
        return self._content.get(name) is None and self._content.pop(name, None) is None

    def whole(self, name: str, least: int = 0, most: int = 2**53, default: Any = _NONE) -> Any:
        """Takes a whole number from least to most."""
        given = self.take(name, default)
        if given is default:
            return given
        if type(given) is not int or not least <= given <= most:
            raise self._refuse(name, f"a whole number from {least} to {most}", given)
        return given

    def real(self, name: str, none: float | None = None, default: Any = _NONE) -> Any:
        """Takes a finite number; null stands for `none` where that is given."""
        given = self.take(name, default)
        if given is default:
            return given
        if given is None and none is not None:
            return none
        if type(given) not in (int, float) or not abs(given) <= sys.float_info.max:
            raise self._refuse(name, "a finite number", given)
        return float(given)

    def flag(self, name: str, default: Any = _NONE) -> Any:
        """Takes true or false."""
        given = self.take(name, default)
        if type(given) is not bool and given is not default:
            raise self._refuse(name, "true or false", given)
        return given

    def text(self, name: str, among: Collection[str] | None = None) -> str:
        """Takes a string, one of `among` where that is given."""
        given = self.take(name)
        if not isinstance(given, str) or (among is not None and given not in among):
            raise self._refuse(name, "a string" if among is None else f"one of {', '.join(among)}", given)
        return given

    def texts(self, name: str, count: int | None = None) -> tuple[str, ...]:
        """Takes a list of strings, `count` of them where that is given."""
        given = self.take(name)
        if not isinstance(given, list) or (count is not None and len(given) != count):
            raise self._refuse(name, f"{'' if count is None else count} strings", given)
        if set(map(type, given)) - {str}:
            raise self._refuse(name, "strings", given)
        return tuple(given)

    def reals(self, name: str, count: int) -> np.ndarray:
        """Takes a list of finite numbers, float64 [count]."""
        given = self.take(name)
        if not isinstance(given, list) or len(given) != count or set(map(type, given)) - {int, float}:
            raise self._refuse(name, f"{count} numbers", given)
        found = np.array(given, np.float64)
        if not np.isfinite(found).all():
            raise self._refuse(name, "finite numbers", found[~np.isfinite(found)].tolist())
        return found

    def plain(self, name: str) -> dict[str, Any]:
        """Takes an object with any fields, nested no deeper than all writers and readers of JSON allow."""
        given = self.take(name)
        if not isinstance(given, dict):
            raise self._refuse(name, "an object", given)
        level: list[Any] = [given]
        for _ in range(_DEPTH):
            inner = (list(one.values()) if isinstance(one, dict) else one for one in level)
            level = [one for values in inner for one in values if isinstance(one, dict | list)]
        if level:
            raise ValueError(f"{name!r} of {self._what} is nested more than {_DEPTH} times")
        return given

    def end(self) -> None:
        """Raises ValueError where fields are left that were not taken."""
        if self._content:
            raise ValueError(f"{self._what} has {', '.join(map(reprlib.repr, self._content))}, which is not known")
