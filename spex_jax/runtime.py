"""What every program of the project does the same way; for programs only, the library does not import it."""

import functools
import io
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from absl import app, flags, logging

from spex_jax.files import replacing
from spex_jax.version import environment

__all__ = ["run_program", "save_result"]


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(f"{error} (--help lists the flags)")


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def run_program(main: Callable[[], None]) -> None:
    """Parses the absl flags and runs `main`.

    What the user can mend (a wrong flag, a ValueError, a missing package, a folder that cannot be written) is one line
    on stderr and exit code 2, not a traceback; Ctrl-C is one line and exit code 130.
    """

    def guarded(argv: list[str]) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal that cannot show a text must not lose its explanation
        _revision()  # that of the start: the folder may change while the program runs
        logging.set_verbosity(logging.WARNING)  # jax reports every backend that is not there as information
        if len(argv) > 1:
            _fail(f"unexpected argument {argv[1]!r}; values go into flags (--help lists them)")
        try:
            main()
        except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except (ValueError, ImportError, OSError) as error:
            _fail(str(error))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr, flush=True)
            os._exit(130)  # an orderly exit in the middle of a compilation ends in a segmentation fault of its threads

    app.run(guarded, flags_parser=_parse)


@functools.cache
def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    folder = pathlib.Path(__file__).parent
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def save_result(path: str | pathlib.Path, result: dict[str, Any]) -> None:
    """Writes the JSON of an experiment: its numbers with the revision, versions and device that made them."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, "w") as file:
        json.dump({"revision": _revision(), **environment(), **result}, file, indent=1, allow_nan=False)
        file.write("\n")
