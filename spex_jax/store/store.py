"""One store: the evaluated ablations of one value function, on disk and in memory."""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import mmap
import os
import pathlib
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.store import records
from spex_jax.store.header import Header
from spex_jax.utils.version import environment

__all__ = [
    "SUFFIX",
    "Contents",
    "Store",
    "as_path",
    "key_identity",
    "locate",
    "naming",
    "open_locked",
    "read",
    "verify",
]

SUFFIX = ".ablations"


def key_identity(key: str, n: int, outputs: tuple[int, ...]) -> str:
    """Returns the identity of a value function that the user names."""
    sizes = tuple(int(size) for size in outputs)
    return hashlib.sha256(repr(("key", key, int(n), sizes)).encode("utf-8", "surrogatepass")).hexdigest()


def locate(path: str | os.PathLike[str], identity: str) -> pathlib.Path:
    """Returns the file of a value function: `path`, or the file of its identity in `path` where that is a folder."""
    given = as_path(path)
    ends = os.fspath(path).endswith(os.sep)
    with naming(given):
        return given / f"{identity[:32]}{SUFFIX}" if ends or given.is_dir() else given


def as_path(path: Any) -> pathlib.Path:
    """Returns the path of a store or of a folder of stores, with "~" expanded.

    Raises:
      ValueError: it is not a path, is empty, or names the home folder of an unknown user.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise ValueError(f"store must be a path, got {path!r}; give a string or a pathlib.Path")
    if not os.fspath(path) or "\0" in os.fspath(path):
        problem = "an empty one; leave it out for no store" if not os.fspath(path) else "one with a null character"
        raise ValueError(f"store must be a path, got {problem}")
    try:
        os.fsencode(path)
        return pathlib.Path(path).expanduser()
    except (RuntimeError, UnicodeEncodeError) as error:
        raise ValueError(
            f"store {os.fspath(path)!r} is not a path on this system ({error}); give the whole path"
        ) from error


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
    """Turns an OSError about a path that cannot be used into a ValueError that names the path."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"cannot write the store {str(path)!r}: {error.strerror}; give a path in a folder that can be written"
        ) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """The contents of a file; see `records.Scan` for header, damage and end.

    Attributes:
      packed: uint8 [M, ceil(n / 8)], packed masks in the order of their evaluation.
      values: float64 [M, *outputs].
      version: the format.
      size: number of bytes of the file.
    """

    header: Header | None
    packed: np.ndarray
    values: np.ndarray
    damage: tuple[records.Damage, ...]
    end: int
    version: int
    size: int

    @property
    def n(self) -> int:
        """The number of features."""
        return self.header.n if self.header else 0

    @property
    def torn(self) -> int:
        """The number of bytes of an unfinished last record."""
        return self.size - self.end


def _contents(descriptor: int) -> Contents:
    size = os.fstat(descriptor).st_size
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) if size else contextlib.nullcontext(b"") as data:
        found = records.scan(data)
        n, outputs = (found.header.n, found.header.outputs) if found.header else (1, ())
        packed, values = records.read_ablations(data, found, n, outputs)
    return Contents(
        header=found.header,
        packed=packed,
        values=values,
        damage=found.damage,
        end=found.end,
        version=found.version,
        size=size,
    )


def read(path: str | os.PathLike[str]) -> Contents:
    """Reads a file without changing or locking it; another process may be writing.

    Raises:
      ValueError: it cannot be read, or is not a store.
    """
    try:
        if not pathlib.Path(path).is_file() and pathlib.Path(path).exists():
            raise ValueError("is not a regular file")
        with open(path, "rb") as file:  # noqa: PTH123  # Path would drop a slash at the end
            return _contents(file.fileno())
    except (OSError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)!r} {error}" if isinstance(error, ValueError) else str(error)) from error


def verify(path: str | os.PathLike[str]) -> list[str]:
    """Returns the faults of a file, one sentence each; none for an intact file.

    Raises:
      ValueError: it cannot be read, or is not a store.
    """
    found = read(path)
    wrong = [f"bytes {part.start} to {part.stop} are damaged" for part in found.damage]
    if found.header is None:
        wrong.append("the header is incomplete")
    elif found.torn:
        wrong.append(f"the last record, {found.torn} bytes from byte {found.end} on, is incomplete")
    return wrong


def open_locked(path: pathlib.Path) -> int:
    """Opens the file, created where it does not exist, and locks it against other processes until it is closed.

    Raises:
      ValueError: it cannot be written, or is in use.
    """
    while True:
        with naming(path):
            if path.exists() and not path.is_file():
                raise ValueError(f"cannot use {str(path)!r} as a store: it is not a regular file")
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise ValueError(f"cannot lock the store {str(path)!r}: {error.strerror}") from error
            raise ValueError(
                f"the store {str(path)!r} is in use by another run; wait until it ends, or give another path"
            ) from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        os.close(file)  # a repair replaced the file between opening and locking


class Store:
    """The ablations of one value function, open for writing. A context manager; closing releases the lock.

    Once `append` has returned, its ablations stay in the file whatever happens to the process (SIGKILL included). They
    are not safe against a loss of power: nothing waits for the disk.

    Attributes:
      path: the file.
      n, outputs: as in the value function.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        identity: str,
        n: int,
        outputs: tuple[int, ...] = (),
        names: tuple[str, ...] = (),
        details: dict[str, Any] | None = None,
    ):
        """Opens a store, or creates it.

        Args:
          path: a file, or a folder that holds one file for each identity.
          identity: names the value function; functions share it only if they are the same.
          n: number of features.
          outputs: shape of one value.
          names: names of the features, for readers of the file.
          details: JSON-like information, for readers of the file.

        Raises:
          ValueError: the file cannot be written, is in use, is not a store, is damaged, or belongs to another value
            function.
        """
        self.path, self.n, self.outputs = locate(path, identity), int(n), tuple(int(size) for size in outputs)
        made = environment()
        header = Header(
            identity=identity,
            n=self.n,
            outputs=self.outputs,
            names=tuple(names),
            details=details or {},
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            versions=made["versions"],
            device=made["device"],
        )
        self._file = open_locked(self.path)
        try:
            self._load(header)
        except BaseException:
            self.close()
            raise

    def _load(self, header: Header) -> None:
        try:
            found = _contents(self._file)
        except ValueError as error:
            raise ValueError(f"{str(self.path)!r} {error}") from error
        if found.damage:
            raise ValueError(
                f"the store {str(self.path)!r} is damaged: {len(found.damage)} places, the first at byte "
                f"{found.damage[0].start}; {len(found.values)} ablations are intact. "
                f"Keep them with: python -m spex_jax.store repair {self.path}"
            )
        theirs = found.header
        if theirs is not None and theirs.identity != header.identity:
            earlier = ", or an earlier version of spex_jax wrote it, which named functions differently"
            raise ValueError(
                f"the store {str(self.path)!r} holds ablations of another value function (n = {theirs.n}, identity "
                f"{theirs.identity[:12]}) than this one (n = {self.n}, identity {header.identity[:12]}): model, "
                f"input, settings or dtype differ{earlier if found.version < records.FORMAT else ''}. Give another "
                "path, or a folder, which holds one file for each"
            )
        if theirs is not None and (theirs.n, theirs.outputs) != (self.n, self.outputs):
            raise ValueError(
                f"the store {str(self.path)!r} holds ablations of n = {theirs.n} features with values of shape "
                f"{theirs.outputs}, but this value function has n = {self.n} and {self.outputs}, and the same "
                f"identity {header.identity[:12]}. Give another path, and another store_key or identity"
            )
        if found.torn:
            os.ftruncate(self._file, found.end)
            warnings.warn(
                f"the store {str(self.path)!r} ends in the middle of a record, as after a killed run: its last "
                f"{found.torn} bytes are dropped, {len(found.values)} ablations are kept",
                stacklevel=4,
            )
        self._end = found.end
        self._packed = [found.packed if theirs else np.zeros((0, -(-self.n // 8)), np.uint8)]
        self._values = [found.values if theirs else np.zeros((0, *self.outputs))]
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None
        self._version = found.version if theirs else records.FORMAT  # a file is continued in its own format
        if theirs is None:
            self._write(records.first_bytes(header))

    def __enter__(self) -> "Store":
        """Returns the store itself."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Closes the store."""
        self.close()

    def __len__(self) -> int:
        """Returns the number of ablations."""
        return sum(map(len, self._values))

    def close(self) -> None:
        """Closes the file and releases its lock; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)  # never half a record, also after Ctrl-C
            if isinstance(error, OSError):
                raise OSError(
                    error.errno,
                    f"cannot write to the store {str(self.path)!r}: {error.strerror}. Its {len(self)} ablations are "
                    "intact; make room and run the same call again to continue there",
                ) from error
            raise
        self._end += len(data)

    def append(self, masks: np.ndarray, values: np.ndarray) -> None:
        """Writes ablations; they are safe when this returns.

        Args:
          masks: bool [M, n].
          values: float64 [M, *outputs], finite.

        Raises:
          OSError: the file cannot be written, for example because the disk is full. It is left as it was.
        """
        if not len(masks):
            return
        packed = masks_lib.pack(masks)
        self._write(records.record(records.ablations(packed, values), self._version))
        self._packed.append(packed)
        self._values.append(np.array(values, np.float64))
        self._sorted = None

    def lookup(self, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns which masks bool [M, n] are stored, bool [M], and their values float64 [M, *outputs], else 0."""
        if len(self._packed) > 1:
            self._packed, self._values = [np.concatenate(self._packed)], [np.concatenate(self._values)]
        packed, values = self._packed[0], self._values[0]
        found = np.zeros((len(masks), *self.outputs))
        if not len(packed) or not len(masks):
            return np.zeros(len(masks), np.bool_), found
        if self._sorted is None:
            hashes = masks_lib.hashes(packed)
            order = np.argsort(hashes, kind="stable")
            self._sorted = hashes[order], order
        hashes, order = self._sorted
        asked = masks_lib.pack(masks)
        place = np.minimum(np.searchsorted(hashes, masks_lib.hashes(asked)), len(hashes) - 1)
        row = order[place]
        known = (packed[row] == asked).all(axis=1)  # masks with one hash are evaluated again, never confused
        found[known] = values[row[known]]
        return known, found
