"""Writes whole files: a reader sees the old content or the new, never a part."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import IO, Any

__all__ = ["replacing", "temporary_prefix"]


def temporary_prefix(target: pathlib.Path) -> str:
    """Returns the prefix of temporary files beside `target`, cut so that their names stay within the system's limit."""
    return f".{target.name[:40]}."


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Opens a temporary file beside `path`, which replaces it when the block ends without an error."""
    target = pathlib.Path(path)
    if not target.parent.is_dir():
        raise ValueError(
            f"cannot write {str(target)!r}: the folder {str(target.parent)!r} does not exist; create it first"
        )
    if target.is_dir():
        raise ValueError(f"cannot write {str(target)!r}: it is a folder; give the path of a file")
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=temporary_prefix(target))
    temporary = pathlib.Path(name)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp creates files that only their owner can read
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
