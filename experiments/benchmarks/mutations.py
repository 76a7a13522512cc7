"""Checks that the tests catch faults: makes wrong changes in the mathematical files, one at a time, and runs the tests
that should fail.

The changes are listed in mutation_table.py. Each is made in a temporary copy of the package and its tests, never in the
checkout; it is killed where a test fails there (or does not end), and survives where all of them pass.

  python experiments/benchmarks/mutations.py --out=experiments/benchmarks/results/mutations.json
  python experiments/benchmarks/mutations.py --only=spex/peeling,store --unchanged=false

Expected: 12 minutes on one CPU core beside other programs, 5 of them for the tests without a change.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags
from mutation_table import MUTATIONS, Mutation

from spex_jax.runtime import run_program, save_result

_ONLY = flags.DEFINE_list("only", [], "Numbers of mutations, or parts of their files' paths. Default: all mutations.")
_UNCHANGED = flags.DEFINE_bool("unchanged", True, "Run the tests without a change first: they must pass.")
_OUT = flags.DEFINE_string("out", "results/mutations.json", "File for the result.")

_CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
_SECONDS = 240  # limit for the tests of one mutation, so that a loop that does not end is caught too


def changed(mutation: Mutation, text: str) -> str:
    """Returns the text of a file with the change in it.

    Raises:
      ValueError: the text to replace does not stand there exactly once.
    """
    found = text.count(mutation.old)
    if found != 1:
        raise ValueError(
            f"{mutation.file} has the text {mutation.old!r} {found} times, expected once; adapt mutation_table.py to "
            "the code"
        )
    return text.replace(mutation.old, mutation.new)


def chosen() -> list[tuple[int, Mutation]]:
    """Returns the mutations of --only with their numbers, from 1.

    Raises:
      ValueError: a mutation of the table, chosen or not, does not fit the code; or none is chosen.
    """
    for mutation in MUTATIONS:
        changed(mutation, (_CHECKOUT / mutation.file).read_text())
    wanted = [
        (number, mutation)
        for number, mutation in enumerate(MUTATIONS, 1)
        if not _ONLY.value or any(part == str(number) or part in mutation.file for part in _ONLY.value)
    ]
    if not wanted:
        raise ValueError(
            f"--only={','.join(_ONLY.value)} matches no mutation of the table; give numbers or parts of files' paths"
        )
    return wanted


def copied(folder: pathlib.Path) -> None:
    """Copies the files that the tests need from the checkout into a folder."""
    for name in ("spex_jax", "tests"):
        shutil.copytree(_CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(_CHECKOUT / "pyproject.toml", folder)


def failing(tests: tuple[str, ...], folder: pathlib.Path) -> str | None:
    """Returns the first test that fails in a copy, or None where all pass.

    Raises:
      ValueError: pytest could not run the tests, for example because a file that the table names is gone.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no end within {_SECONDS} s"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"ended by signal {-done.returncode}"
    failed = [
        line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED tests/", "ERROR tests/"))
    ]
    if done.returncode != 1 or not failed:
        raise ValueError(f"{' '.join(command)} did not run its tests:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return failed[0].split(" ", 1)[1]


def check_unchanged(mutations: list[tuple[int, Mutation]], folder: pathlib.Path) -> None:
    """Raises ValueError where tests fail without a change, since failing with one would then prove nothing."""
    for tests in dict.fromkeys(mutation.tests for _, mutation in mutations):
        if found := failing(tests, folder):
            raise ValueError(f"{found} fails without any change; fix it first")
        print("passes unchanged:", " ".join(tests), flush=True)


def run_mutation(number: int, mutation: Mutation, folder: pathlib.Path) -> dict[str, Any]:
    """Makes the change in the copy, runs its tests, and undoes it."""
    path, start = folder / mutation.file, time.perf_counter()
    text = path.read_text()
    path.write_text(changed(mutation, text))
    try:
        found = failing(mutation.tests, folder)
    finally:
        path.write_text(text)
    seconds = round(time.perf_counter() - start, 1)
    print(f"{number} {mutation.file}, {mutation.what}: {found or 'SURVIVED'} ({seconds} s)", flush=True)
    return {
        "number": number,
        "file": mutation.file,
        "what": mutation.what,
        "killed": found is not None,
        "by": found,
        "seconds": seconds,
    }


def main() -> None:
    """Runs the mutations and writes the result after each of them."""
    wanted, rows = chosen(), []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        copied(folder)
        if _UNCHANGED.value:
            check_unchanged(wanted, folder)
        for number, mutation in wanted:
            rows.append(run_mutation(number, mutation, folder))
            survivors = [row["what"] for row in rows if not row["killed"]]
            counts = {"mutations": len(rows), "killed": len(rows) - len(survivors)}
            save_result(_OUT.value, {**counts, "survivors": survivors, "rows": rows})
    print(f"{counts['killed']} of {counts['mutations']} killed; survivors: {survivors or 'none'}", flush=True)


if __name__ == "__main__":
    run_program(main)
