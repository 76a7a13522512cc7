"""Files that nobody vouches for: every loader answers, or raises ValueError or OSError, in memory of the file's size.

SPEX_JAX_FUZZ_CASES=20000 draws more cases than the 2,000 of every run.
"""

import collections
import os
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from damage import damaged
from originals import write_all

import spex_jax
from spex_jax import Explanation, Interactions, PackedMasks, Spectrum

CASES = int(os.environ.get("SPEX_JAX_FUZZ_CASES", "2000"))
BLOCKS = 10
OF_MODELS = 40  # of the cases of a block one in so many: tokenizers take their time
LOADERS = {
    "spectrum.npz": Spectrum.load,
    "interactions.json": Interactions.load,
    "explanation": Explanation.load,
    "explanation of a network": Explanation.load,
    "table.npy": lambda path: PackedMasks.open(path, 19),
    "model": spex_jax.models.load,
}


def files_of(path):
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def look_at(loaded):
    """What loads can be shown."""
    if isinstance(loaded, Explanation):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # numbers of any size
            str(loaded)
            loaded._repr_html_()
    elif isinstance(loaded, Interactions | Spectrum):
        str(loaded)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    write_all(folder)
    for name, load in LOADERS.items():
        look_at(load(folder / name))
    return folder


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_file_escapes(block, originals, tmp_path):
    rng = np.random.default_rng(block)
    light, seen = [name for name in LOADERS if name != "model"], collections.Counter()
    for case in range(CASES // BLOCKS):
        name = "model" if case % OF_MODELS == 0 else light[int(rng.integers(len(light)))]
        path = originals / name
        files = [file for file in files_of(path) if file.suffix in (".npz", ".npy", ".json", ".safetensors")]
        file = files[int(rng.integers(len(files)))]
        before = {each: each.read_bytes() for each in files_of(originals)}
        hostile = damaged(before[file], file.suffix, rng)
        file.write_bytes(hostile)
        size = sum(each.stat().st_size for each in files_of(path))
        where = f"block {block}, case {case}: {file.relative_to(originals)}"
        tracemalloc.start()
        try:
            loaded = LOADERS[name](path)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            look_at(loaded)
            seen["loaded"] += 1
        except (ValueError, OSError) as error:
            peak = tracemalloc.get_traced_memory()[1]
            seen[type(error).__name__] += 1
        except BaseException as error:
            (tmp_path / file.name).write_bytes(hostile)
            error.add_note(f"{where}, kept as {tmp_path / file.name}")
            raise
        finally:
            tracemalloc.stop()
        if name != "model":  # of which transformers reads a part
            assert peak < 10 * size + 50 * 2**20, where
        assert {each: each.read_bytes() for each in files_of(originals)} == {**before, file: hostile}, where
        file.write_bytes(before[file])
    assert min(seen["loaded"], seen["ValueError"]) >= CASES // BLOCKS // 50, seen  # both happen


def hostile_archive(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, (header, data) in members.items():
            text = str(header).encode() + b"\n"
            file.writestr(f"{name}.npy", b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + data)


def member(descr, shape, data=b""):
    return {"descr": descr, "fortran_order": False, "shape": shape}, data


def number(value):
    return member("<i8", (), int(value).to_bytes(8, "little", signed=True))


@pytest.mark.parametrize(
    "members",
    [
        {"n": number(10**10), "support": member("|u1", (0, 10**10 // 8))},
        {"n": number(10**10), "support": member("|u1", (1, 10**10 // 8))},
        {"n": number(8), "support": member("|u1", (2**34, 1)), "coefficients": member("<f8", (2**34,))},
        {"n": number(8), "support": member("|u1", (2**28, 1), bytes(2**28))},
        {"n": number(2**27), "support": member("|u1", (1, 2**24), bytes(2**24))},
        {"n": number(-1), "support": member("|u1", (1, 0))},
        {"n": member("<f8", (), np.float64(1.5).tobytes()), "support": member("|u1", (1, 1), b"\0")},
        {"n": member("|b1", (), b"\1"), "support": member("|u1", (1, 1), b"\0")},
    ],
    ids=["n without terms", "n", "16 GiB", "a bomb", "a bomb of one term", "negative", "a fraction", "a bool"],
)
def test_claims_of_sizes_are_not_believed(members, tmp_path):
    path = tmp_path / "spectrum.npz"
    rest = {"format": number(1), "coefficients": member("<f8", (1,), bytes(8))}
    hostile_archive(path, {**rest, **members})
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"spectrum.npz' is not a file of Spectrum.save"):
        Spectrum.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * path.stat().st_size + 50 * 2**20
