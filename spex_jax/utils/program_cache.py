"""Keeps compiled programs in a folder of the user, so that a second process need not compile them again.

JAX's persistent compilation cache does the work; here are its folder, its bound and its switch. It is on by default
wherever the package is imported, unless the program has chosen a cache of its own (`jax_compilation_cache_dir`). The
environment variable SPEX_JAX_CACHE names another folder; set to nothing it switches the cache off.
"""

import hashlib
import os
import pathlib
import platform
import tempfile

import jax

__all__ = ["VARIABLE", "default_folder", "keep_by_default", "keep_programs"]

VARIABLE = "SPEX_JAX_CACHE"
_MOST_BYTES = 2**27  # a program takes 10 to 200 kB, and JAX looks at every file before it adds one
_LEAST_SECONDS = 0.05  # of compilation; what compiles sooner is not worth a file


def default_folder() -> str:
    """Returns the folder of SPEX_JAX_CACHE, or that of the user's caches; empty for none."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return os.environ.get(VARIABLE, str(pathlib.Path(caches) / "spex_jax"))


def _processor() -> str:
    """Returns a short name of this kind of processor: programs for a CPU use what it alone may have, and home folders
    are shared between machines.
    """
    information, found = pathlib.Path("/proc/cpuinfo"), platform.processor()
    if information.exists():
        with information.open(encoding="utf-8", errors="replace") as lines:
            found = next((line for line in lines if line.startswith(("flags", "Features"))), found)
    return f"{platform.machine()}-{hashlib.sha256(found.encode()).hexdigest()[:8]}"


def keep_programs(folder: str) -> None:
    """Turns the cache on in a folder, or off where it is empty.

    Several processes may share a folder: JAX locks it for each entry. The entries that were used least recently make
    room for new ones beyond 128 MiB.

    Args:
      folder: a path, in which ~ is expanded. Programs lie in a subfolder for each kind of processor.

    Raises:
      OSError: the folder cannot be written.
    """
    if not folder:
        jax.config.update("jax_compilation_cache_dir", None)
        return
    path = pathlib.Path(folder).expanduser() / _processor()
    path.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path).close()
    _tidy(path)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _tidy(folder: pathlib.Path) -> None:
    """Removes what a killed process left, entries without a time of use: JAX would add nothing beside them."""
    names = {entry.name for entry in os.scandir(folder)}
    for name in names:
        if name.endswith("-cache") and f"{name.removesuffix('-cache')}-atime" not in names:
            (folder / name).unlink(missing_ok=True)


def keep_by_default() -> None:
    """Turns the cache on in the default folder, where nothing has been chosen and the folder can be written."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        try:
            keep_programs(default_folder())
        except OSError:
            return
