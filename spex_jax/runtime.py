"""Start-up, flags and result files that all programs of the project share. The library itself does not import this.

All programs take the flags defined here: devices (--mesh, --multihost), --seed, --precision, the compilation cache and
a profile.
"""

import contextlib
import functools
import io
import json
import math
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jax
from absl import app, flags, logging

from spex_jax.utils.atomic_write import replacing
from spex_jax.utils.program_cache import default_folder, keep_programs
from spex_jax.utils.version import environment

__all__ = [
    "define_path",
    "first_process",
    "mesh",
    "provenance",
    "run_parts",
    "run_program",
    "save_result",
    "seed",
    "spare_memory_maps",
    "without_nan",
]

_SEED = flags.DEFINE_integer("seed", 0, "Seed of all random draws.", lower_bound=0, upper_bound=2**32 - 1)
_MESH = flags.DEFINE_string(
    "mesh",
    None,
    "Mesh of devices as axes and sizes, such as masks=4,model=2; one size may be -1, for all remaining devices. "
    "Batches are split over the axis masks. Default: all devices on that axis.",
)
_PRECISION = flags.DEFINE_enum(
    "precision",
    None,
    ["default", "high", "highest"],
    "Precision of matrix products that do not set their own. Default: JAX's default on the device.",
)
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    default_folder(),
    "Folder that keeps compiled programs, so that a second run need not compile; empty for no cache. Default: that of "
    "the environment variable SPEX_JAX_CACHE, or of the user's caches.",
)
_PROFILE = flags.DEFINE_string(
    "profile", None, "Folder for a trace of the run (jax.profiler), for TensorBoard or XProf."
)
_MULTIHOST = flags.DEFINE_bool(
    "multihost",
    False,
    "Join the other processes of the run first (jax.distributed). Slurm and Cloud TPU need no more; elsewhere "
    "also give --coordinator, --num_processes and --process.",
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "With --multihost: host:port of the first process.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --multihost: number of processes.", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process", None, "With --multihost: index of this process, from 0.", lower_bound=0)


_MOST_MAPS = 40_000


def seed() -> int:
    """Returns the value of --seed."""
    return int(_SEED.value)


class _Path(flags.ArgumentParser[str]):
    """Parses a path and expands ~ and $NAME, since no shell expands them in a flag file."""

    syntactic_help = "a path, in which ~ and $NAME are expanded"

    def parse(self, argument: str) -> str:
        path = os.path.expandvars(os.path.expanduser(argument))  # noqa: PTH111  # as given, and no error for ~unknown
        if unset := re.search(r"\$\{?(\w+)", path):
            raise ValueError(f"the environment variable {unset[1]} is not set")
        return path


def define_path(name: str, default: str | None, help: str) -> flags.FlagHolder[str]:
    """Defines a flag that is a path; ~ and environment variables in it are expanded, in flag files too."""
    return flags.DEFINE(_Path(), name, default, help)


def first_process() -> bool:
    """Returns whether this process is the one that writes files and prints results."""
    return jax.process_index() == 0


def mesh() -> jax.sharding.Mesh | None:
    """Returns the mesh that --mesh describes, or None without the flag, which stands for all devices.

    Raises:
      ValueError: --mesh is not a list of axes and sizes, or does not fit the number of devices.
    """
    if _MESH.value is None:
        return None
    axes: dict[str, int] = {}
    for part in _MESH.value.split(","):
        name, _, size = part.partition("=")
        if (
            not name.isidentifier()
            or name in axes
            or not size.removeprefix("-").isdigit()
            or int(size) < -1
            or int(size) == 0
        ):
            raise ValueError(f"--mesh={_MESH.value} is not a list of axes and sizes such as masks=4,model=2")
        axes[name] = int(size)
    devices = jax.devices()
    given = math.prod(size for size in axes.values() if size > 0)
    left = [name for name, size in axes.items() if size == -1]
    if len(left) > 1:
        raise ValueError(f"--mesh={_MESH.value} leaves the size of {len(left)} axes open; only one may be -1")
    if left:
        axes[left[0]] = len(devices) // given
    total = math.prod(axes.values())
    if total > len(devices) or total == 0 or (left and total != len(devices)):
        raise ValueError(
            f"--mesh={_MESH.value} does not fit: there are {len(devices)} devices"
            + (f", not a multiple of {given}" if left else f", and it needs {total}")
        )
    automatic = (jax.sharding.AxisType.Auto,) * len(axes)
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=automatic, devices=devices[:total])


def _start() -> None:
    """Joins the other processes, applies the flags, and prints which devices are used."""
    if _MULTIHOST.value:
        jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS.value)
    elif not (_COORDINATOR.value is None and _NUM_PROCESSES.value is None and _PROCESS.value is None):
        raise ValueError("--coordinator, --num_processes and --process need --multihost; give it too")
    if _PROFILE.value:
        pathlib.Path(_PROFILE.value).mkdir(parents=True, exist_ok=True)  # fail now, not at the end
    if _PRECISION.value is not None:
        jax.config.update("jax_default_matmul_precision", _PRECISION.value)
    _keep_programs()
    if first_process():
        chosen, kind = mesh(), jax.devices()[0].device_kind
        axes = f", mesh {dict(chosen.shape)}" if chosen is not None else ""
        count, processes = jax.device_count(), jax.process_count()
        print(
            f"devices: {count} x {kind} ({jax.default_backend()}){axes}, {processes} process"
            + ("es" if processes > 1 else ""),
            file=sys.stderr,
            flush=True,
        )


def _keep_programs() -> None:
    """Turns the compilation cache on, or goes without it where the default folder cannot be written."""
    try:
        keep_programs(_CACHE.value)
    except OSError as error:
        if not _CACHE.present:
            return
        raise ValueError(
            f"cannot write to --compilation_cache={_CACHE.value}: {error.strerror}; give another folder, or none"
        ) from error


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(f"{error} (--help lists the flags)")


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr, flush=True)
    if jax.distributed.is_initialized():
        os._exit(2)  # an orderly exit waits for the other processes, which wait for this one
    sys.exit(2)


def _with_notes(message: str, error: BaseException) -> str:
    return "; ".join([message, *getattr(error, "__notes__", [])])


def run_program(main: Callable[[], None], *, cold: bool = False) -> None:
    """Parses the absl flags, applies the flags of this module and runs `main`.

    With `cold` the compilation cache is off unless its flag is given, for programs that measure compilation.

    Errors that the user can fix (a wrong flag, a ValueError, a missing package, a folder that cannot be written) end
    in one line on stderr and exit code 2, without a traceback; Ctrl-C ends in one line and exit code 130.
    """

    if cold:
        flags.set_default(_CACHE, "")

    def guarded(argv: list[str]) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a character that the terminal lacks must not end the run
        _revision()  # read and cached now: the checkout may change while the program runs
        logging.set_verbosity(logging.WARNING)  # jax logs every missing backend at level INFO
        if len(argv) > 1:
            _fail(f"unexpected argument {argv[1]!r}; values are given by flags (--help lists them)")
        try:
            _start()
            with jax.profiler.trace(_PROFILE.value) if _PROFILE.value else contextlib.nullcontext():
                main()
        except BrokenPipeError:  # the reader of a pipe, such as head, has closed it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except (ValueError, ImportError, OSError) as error:
            _fail(_with_notes(str(error), error))
        except KeyboardInterrupt as error:
            print(_with_notes("interrupted", error), file=sys.stderr, flush=True)
            os._exit(130)  # an orderly exit during a compilation makes its threads crash with a segmentation fault

    app.run(guarded, flags_parser=_parse)


@functools.cache
def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    folder = pathlib.Path(__file__).parent
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def run_parts(parts: Mapping[str, Callable[[], Any]], chosen: Sequence[str], out: str) -> None:
    """Runs the chosen parts of a program; after each, prints its result and writes the results so far to `out`.

    Raises:
      ValueError: a chosen part is unknown.
    """
    if unknown := sorted(set(chosen) - set(parts)):
        raise ValueError(f"unknown parts {unknown}; expected some of {', '.join(parts)}")
    result = {}
    for name in chosen:
        result[name] = parts[name]()
        spare_memory_maps()
        print(name, result[name], flush=True)
        save_result(out, result)


def spare_memory_maps() -> None:
    """Drops the compiled programs of this process when its memory maps come near the limit of Linux.

    A compiled program takes a handful of maps, a large one on a CPU a hundred; beyond 65,530, the default of
    vm.max_map_count, XLA's compiler ends in a segmentation fault. A dropped program is compiled again when it is next
    needed, or read from the compilation cache.
    """
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MOST_MAPS:
        jax.clear_caches()


def without_nan(result: Any) -> Any:
    """Returns the result with None, JSON's null, for undefined numbers, such as the R2 of constant values."""
    if isinstance(result, Mapping):
        return {name: without_nan(value) for name, value in result.items()}
    if isinstance(result, list):
        return [without_nan(value) for value in result]
    return None if isinstance(result, float) and not math.isfinite(result) else result


def provenance() -> dict[str, Any]:
    """Returns what a result was computed with: the revision, versions and device."""
    return {"revision": _revision(), **environment()}


def save_result(path: str | pathlib.Path, result: dict[str, Any]) -> None:
    """Writes a result as JSON, with the revision, versions and device that it was computed with.

    In a run of several processes only the first writes.
    """
    if not first_process():
        return
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, "w") as file:
        json.dump({**provenance(), **result}, file, indent=1, allow_nan=False)
        file.write("\n")
