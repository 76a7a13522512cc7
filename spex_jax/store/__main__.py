"""Inspects stores of ablations: python -m spex_jax.store info|verify|repair|export PATH."""

import argparse
import os
import pathlib
import sys

import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.store import records
from spex_jax.store.store import SUFFIX, Contents, open_locked, read, verify
from spex_jax.utils.atomic_write import replacing

_ROWS = 65_536  # rows in each record of a repaired store


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the stores of a folder, or the path itself where it is a file."""
    if not path.is_dir():
        return [path]
    found = sorted(path.glob(f"*{SUFFIX}"))
    if not found:
        raise ValueError(f"the folder {str(path)!r} holds no store (*{SUFFIX})")
    return found


def _info(path: pathlib.Path) -> None:
    found = read(path)
    if found.header is None:
        print(f"{path}: empty, its header is incomplete")
        return
    header = found.header
    distinct = len(masks_lib.deduplicate(masks_lib.unpack(found.packed, found.n))[0])
    print(f"{path}: {distinct} ablations of n = {found.n} features, {found.size} bytes")
    print(f"  identity {header.identity}")
    print(f"  made {header.created} with spex_jax {header.versions.get('spex_jax')} on {header.device}")
    for name, value in header.details.items():
        print(f"  {name}: {str(value)[:100]}")
    if len(found.values):
        print(f"  values from {found.values.min():.6g} to {found.values.max():.6g}, mean {found.values.mean():.6g}")


def _verify(path: pathlib.Path) -> bool:
    wrong = verify(path)
    print(f"{path}: {'; '.join(wrong) or f'intact, {len(read(path).values)} ablations'}")
    return not wrong


def _repair(path: pathlib.Path) -> None:
    """Replaces a damaged file by one with its intact records; the old one stays beside it as PATH.damaged.

    Of a link, the file that it leads to is repaired.
    """
    path = pathlib.Path(os.path.realpath(path))
    found = read(path)
    if not verify(path):
        print(f"{path}: intact, nothing to repair")
        return
    if found.header is None:
        raise ValueError(f"{str(path)!r} holds no intact records; delete it")
    kept = path.with_name(path.name + ".damaged")
    if kept.exists():
        raise ValueError(f"{str(kept)!r}, where the damaged file would go, exists; move it away first")
    file = open_locked(path)
    try:
        os.link(path, kept)
        with replacing(path) as repaired:
            repaired.write(records.first_bytes(found.header))
            for start in range(0, len(found.values), _ROWS):
                rows = slice(start, start + _ROWS)
                repaired.write(records.record(records.ablations(found.packed[rows], found.values[rows])))
    finally:
        os.close(file)
    print(f"{path}: {len(found.values)} ablations kept; the damaged file is {kept}")


def _export(path: pathlib.Path, out: pathlib.Path | None) -> None:
    found: Contents = read(path)
    if found.header is None:
        raise ValueError(f"{str(path)!r} holds no ablations")
    target = path.with_name(path.name + ".npz") if out is None else out
    if target.suffix != ".npz":
        raise ValueError(f"--out={target} must end in .npz; a store is never overwritten")
    with replacing(target) as file:
        np.savez_compressed(
            file,
            masks=masks_lib.unpack(found.packed, found.n),
            values=found.values,
            names=np.array(found.header.names, np.str_),
            identity=found.header.identity,
        )
    print(f"{target}: masks {(len(found.values), found.n)}, values {found.values.shape}, names, identity")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns 0 for success, 1 for a store that is not intact, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -m spex_jax.store", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in {
        "info": "shows what a store holds",
        "verify": "checks every byte; exit code 1 for a store that is not intact",
        "repair": "keeps the intact records of a damaged store",
        "export": "writes masks and values as .npz",
    }.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("path", type=pathlib.Path, help="a store, or a folder of stores")
        if name == "export":
            command.add_argument("--out", type=pathlib.Path, help="file to write (default: PATH.npz)")
    given = parser.parse_args(arguments)
    try:
        files = _files(given.path)
        if given.command == "export" and given.out is not None and len(files) > 1:
            raise ValueError(f"--out takes one store, but {str(given.path)!r} holds {len(files)}; leave it out")
        whole = True
        for path in files:
            if given.command == "info":
                _info(path)
            elif given.command == "verify":
                whole &= _verify(path)
            elif given.command == "repair":
                _repair(path)
            else:
                _export(path, given.out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
