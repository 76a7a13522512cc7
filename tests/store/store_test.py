import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest

from spex_jax import masks as masks_lib
from spex_jax.store import Store, read, records, verify

OPTIONS = {"identity": "a" * 64, "n": 11}


def table(count, n=11, outputs=(), seed=0):
    rng = np.random.default_rng(seed)
    return masks_lib.uniform(n, count, rng), rng.normal(size=(count, *outputs))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "f.ablations"


@pytest.fixture
def filled(path):
    """A store of three records: 5, 1 and 20 ablations."""
    masks, values = table(26)
    with Store(path, **OPTIONS) as store:
        for rows in (slice(0, 5), slice(5, 6), slice(6, 26)):
            store.append(masks[rows], values[rows])
    return path, masks, values


@pytest.mark.parametrize("n", [1, 8, 11, 64, 200])
@pytest.mark.parametrize("outputs", [(), (3,), (2, 2)])
def test_what_goes_in_comes_out(n, outputs, path):
    masks, values = table(min(100, 2**n), n, outputs)
    half = len(masks) // 2
    for rows in (slice(0, half), slice(half, None)):
        with Store(path, identity="f", n=n, outputs=outputs) as store:
            store.append(masks[rows], values[rows])
            known, found = store.lookup(masks[::-1])
            np.testing.assert_array_equal(known[::-1], np.arange(len(masks)) < (rows.stop or len(masks)))
            np.testing.assert_array_equal(found[known], values[::-1][known])
            assert not found[~known].any()
    assert len(store) == len(masks)
    assert verify(path) == []
    assert store.lookup(masks[:0])[1].shape == (0, *outputs)


def test_the_first_value_of_a_mask_counts(path):
    masks, values = table(4)
    with Store(path, **OPTIONS) as store:
        store.append(masks, values)
        store.append(masks, values + 1)
        np.testing.assert_array_equal(store.lookup(masks)[1], values)


def test_a_folder_holds_one_file_for_each_identity(tmp_path):
    masks, values = table(4)
    for identity in ("a", "b"):
        with Store(f"{tmp_path}/new/", identity=identity * 64, n=11) as store:
            assert len(store) == 0
            store.append(masks, values)
    with Store(tmp_path / "new", identity="a" * 64, n=11) as store:
        assert len(store) == 4
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [
        "a" * 32 + ".ablations",
        "b" * 32 + ".ablations",
    ]


def test_a_file_cut_at_any_byte_keeps_its_whole_records(filled, tmp_path):
    path, masks, values = filled
    content = path.read_bytes()
    ends = [stop for _, stop in records.scan(content).records]
    cut = tmp_path / "cut"
    for length in range(len(content)):
        cut.write_bytes(content[:length])
        whole = max([count for end, count in zip(ends, (5, 6, 26), strict=True) if end <= length], default=0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with Store(cut, **OPTIONS) as store:
                known, found = store.lookup(masks)
                assert known.sum() == len(store) == whole
                np.testing.assert_array_equal(found[known], values[known])
                store.append(masks[~known], values[~known])
        header_end = ends[0] - (ends[0] - records.scan(content[: ends[0]]).records[0][0]) - 12
        assert len(caught) == (length not in {0, header_end, *ends}), length
        assert all("ended in the middle of a record" in str(warning.message) for warning in caught)
        with Store(cut, **OPTIONS) as store:
            np.testing.assert_array_equal(store.lookup(masks)[1], values)


def test_a_changed_byte_is_never_read_as_a_value(filled, tmp_path):
    path, masks, values = filled
    content = bytearray(path.read_bytes())
    last = records.scan(bytes(content)).records[-1][0] - 12  # where the last record begins
    damaged = tmp_path / "damaged"
    for position in range(0, len(content), 3):
        content[position] ^= 0x55
        damaged.write_bytes(content)
        content[position] ^= 0x55
        if position >= last:  # as after a torn write: the last record is dropped
            with pytest.warns(UserWarning, match="ended in the middle"):
                store = Store(damaged, **OPTIONS)
            with store:
                known, found = store.lookup(masks)
            assert known.sum() == 6
            np.testing.assert_array_equal(found[known], values[known])
            continue
        with pytest.raises(ValueError, match=r"damaged|is not a store|newer version"):
            Store(damaged, **OPTIONS)


def test_a_damaged_middle_says_how_to_keep_the_rest(filled):
    path, _, _ = filled
    content = bytearray(path.read_bytes())
    start, stop = records.scan(bytes(content)).records[1]
    content[stop - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"first at byte {start - 12}; 25 ablations are whole.*store repair"):
        Store(path, **OPTIONS)
    assert verify(path) == [f"bytes {start - 12} to {stop} are damaged"]


def test_a_store_of_another_value_function(filled):
    path, _, _ = filled
    with pytest.raises(ValueError, match=r"another value function \(n = 11, identity aaaaaaaaaaaa\) than this one"):
        Store(path, identity="b" * 64, n=11)
    assert verify(path) == []


def test_a_store_of_a_newer_version(filled):
    path, _, _ = filled
    path.write_bytes(path.read_bytes().replace(b"ablations 1\n", b"ablations 2\n", 1))
    with pytest.raises(ValueError, match=r"newer version of spex_jax \(format 2, this version reads up to 1\)"):
        Store(path, **OPTIONS)


@pytest.mark.parametrize(
    "content", [b"# my thesis\n", b"x", b"spex_jax is fine\n", b"\0" * 100, b"spex_jax ablations x\n"]
)
def test_what_is_no_store_is_left_alone(content, path):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is not a store|newer version"):
        Store(path, **OPTIONS)
    assert path.read_bytes() == content


def test_two_stores_in_one_file_are_refused(filled, tmp_path):
    path, _, _ = filled
    joined = tmp_path / "joined"
    joined.write_bytes(path.read_bytes() * 2)
    with pytest.raises(ValueError, match="holds two stores, one behind the other"):
        Store(joined, **OPTIONS)


def test_a_record_of_another_shape_is_damage(filled):
    path, _, _ = filled
    content = path.read_bytes()
    path.write_bytes(content + records.record(b"\1\0\0\0xyz") + records.record(b"\0\0\0\0"))
    assert verify(path) == [f"bytes {len(content)} to {len(content) + 19} are damaged"]


def test_paths_from_home_and_empty_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with Store("~/deep/f.ablations", **OPTIONS) as store:
        assert store.path == tmp_path / "deep" / "f.ablations"
    with pytest.raises(ValueError, match="got an empty one"):
        Store("", **OPTIONS)


def test_two_processes_cannot_write_at_once(filled):
    path, _, _ = filled
    program = (
        "import sys; from spex_jax.store import Store\n"
        "try: Store(sys.argv[1], identity='a' * 64, n=11)\n"
        "except ValueError as error: print(error)\n"
        "else: print('opened')"
    )

    def other():
        return subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True).stdout

    with Store(path, **OPTIONS):
        with pytest.raises(ValueError, match="in use by another run"):  # nor can one process twice
            Store(path, **OPTIONS)
        assert "in use by another run; wait until it ends" in other()
        assert len(read(path).values) == 26  # looking is free
    assert other() == "opened\n"


def test_a_full_disk_leaves_the_store_whole(path):
    masks, values = table(400)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with Store(path, **OPTIONS) as store:
            store.append(masks[:100], values[:100])
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 1000, before[1]))
            with pytest.raises(OSError, match=r"cannot write to the store .* Its 100 ablations are whole; make room"):
                store.append(masks[100:], values[100:])
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            assert verify(path) == []
            store.append(masks[100:], values[100:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    with Store(path, **OPTIONS) as store:
        np.testing.assert_array_equal(store.lookup(masks)[1], values)


@pytest.mark.parametrize("place", ["/dev/full", "/proc/nowhere/f.ablations"])
def test_a_place_that_cannot_be_written(place):
    with pytest.raises(ValueError, match=r"no regular file|cannot write the store"):
        Store(place, **OPTIONS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="Permission denied; give a path in a folder that can be written"):
        Store(tmp_path / "f.ablations", **OPTIONS)


def test_an_interrupted_write_leaves_no_half_record(path, monkeypatch):
    masks, values = table(40)
    with Store(path, **OPTIONS) as store:
        store.append(masks[:10], values[:10])
        write = os.write

        def interrupted(file, data):
            write(file, bytes(data)[: len(data) // 2])
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.append(masks[10:], values[10:])
        monkeypatch.undo()
        assert verify(path) == []
        store.append(masks[10:], values[10:])
    assert len(read(path).values) == 40


def test_hashes_that_meet_are_told_apart(path, monkeypatch):
    masks, values = table(50)
    monkeypatch.setattr("spex_jax.masks.hashes", lambda packed: np.zeros(len(packed), np.uint64))
    with Store(path, **OPTIONS) as store:
        store.append(masks[:25], values[:25])
        known, found = store.lookup(masks)
    assert not known[25:].any()
    np.testing.assert_array_equal(found[known], values[known])


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "spex_jax.store", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_the_command_without_a_process_of_its_own(filled, capsys, monkeypatch, tmp_path):
    from spex_jax.store.__main__ import main

    path, masks, values = filled
    assert main(["info", str(path)]) == 0
    assert "26 ablations of n = 11 features" in capsys.readouterr().out
    assert main(["verify", str(path.parent)]) == 0
    assert "whole, 26 ablations" in capsys.readouterr().out
    assert main(["export", str(path)]) == 0
    with np.load(str(path) + ".npz") as found:
        np.testing.assert_array_equal(found["masks"], masks)
        np.testing.assert_array_equal(found["values"], values)
        assert str(found["identity"]) == "a" * 64
    assert main(["export", str(path), f"--out={path}"]) == 2
    assert "must end in .npz; a store is never written over" in capsys.readouterr().err
    assert main(["repair", str(path)]) == 0
    assert "nothing to repair" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "nothing")]) == 2
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["info", str(tmp_path / "empty")]) == 2
    assert "holds no store" in capsys.readouterr().err
    shutil.copy(path, path.with_name("g.ablations"))
    assert main(["export", str(tmp_path), "--out=x.npz"]) == 2
    assert "--out takes one store" in capsys.readouterr().err


def test_repair_keeps_what_is_whole(filled):
    path, masks, values = filled
    content = bytearray(path.read_bytes())
    content[records.scan(bytes(content)).records[0][1] - 1] ^= 1
    path.write_bytes(content)
    found = run("verify", path)
    assert found.returncode == 1
    assert "are damaged" in found.stdout
    assert found.stderr == ""
    found = run("repair", path)
    assert found.returncode == 0
    assert "21 ablations kept" in found.stdout
    assert pathlib.Path(f"{path}.damaged").read_bytes() == content
    with Store(path, **OPTIONS) as store:
        known, kept = store.lookup(masks)
    np.testing.assert_array_equal(np.flatnonzero(known), np.arange(5, 26))
    np.testing.assert_array_equal(kept[known], values[known])
