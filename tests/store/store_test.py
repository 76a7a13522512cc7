import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from store import make_format2

import spex_jax
from spex_jax.core import masks as masks_lib
from spex_jax.store import Store, read, records, verify

FORMAT_1 = pathlib.Path(__file__).parent / "format1"
FORMAT_2 = pathlib.Path(__file__).parent / "format2"
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
        header_end = records.scan(content).records[0][0] - 16
        assert len(caught) == (length not in {0, header_end, *ends}), length
        assert all("ends in the middle of a record" in str(warning.message) for warning in caught)
        with Store(cut, **OPTIONS) as store:
            np.testing.assert_array_equal(store.lookup(masks)[1], values)


def of_row(found, content):
    """What is whole in the bytes of a store with n = 11."""
    packed, values = records.read_ablations(content, found, 11, found.header.outputs)
    return dict(zip(map(bytes, packed), values.tolist(), strict=True))


def check_flips(content, bits, lost):
    """Flips each bit: what is read is what was written, it is reported, and at most one record is lost."""
    whole = records.scan(content)
    written, largest = of_row(whole, content), max(stop - start for start, stop in whole.records)
    changed = bytearray(content)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
        try:
            found = records.scan(bytes(changed))
        except ValueError:
            assert lost(bit // 8), bit
        else:
            there = of_row(found, changed)
            assert there.items() <= written.items()
            missing = len(content) - sum(stop - start for start, stop in found.records)
            assert missing <= len(content) - sum(stop - start for start, stop in whole.records) + largest
            assert len(found.records) >= len(whole.records) - 1
            assert found.damage, bit  # and the end is no torn record
        changed[bit // 8] ^= 1 << bit % 8


def test_a_flipped_bit_anywhere_is_reported_and_costs_its_own_record(filled):
    content = filled[0].read_bytes()
    check_flips(content, range(8 * len(content)), lost=lambda place: False)


@pytest.mark.parametrize("name", ["scalar", "outputs"])
def test_a_flipped_bit_in_a_store_of_format_1_is_reported(name):
    content = (FORMAT_1 / f"{name}.ablations").read_bytes()
    header = range(21, records.scan(content).records[0][0] - 12)  # of which there is one
    check_flips(content, range(8 * len(content)), lost=header.__contains__)


@pytest.mark.parametrize("place", [3, 19, 20, 30, 200, 700, -200, -1], ids=str)
def test_a_store_with_a_flipped_bit_is_refused_and_repaired(place, filled, capsys):
    from spex_jax.store.__main__ import main

    path, masks, values = filled
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged: 1 places, the first at byte \d+; .*store repair"):
        Store(path, **OPTIONS)
    assert path.read_bytes() == content
    assert main(["repair", str(path)]) == 0
    assert verify(path) == []
    with Store(path, **OPTIONS) as store:
        known, found = store.lookup(masks)
        assert len(store) == known.sum() >= (26 if 0 <= place < 600 else 6)
        np.testing.assert_array_equal(found[known], values[known])
    assert "ablations kept" in capsys.readouterr().out


def test_both_headers_damaged(filled):
    path, _, _ = filled
    content = bytearray(path.read_bytes())
    first = records.scan(bytes(content)).records[0][0] - 16
    content[60] ^= 1
    content[first - 60] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="two damaged headers"):
        Store(path, **OPTIONS)
    assert path.read_bytes() == content


@pytest.mark.parametrize("version", [1, 2])
def test_a_hostile_file_is_read_in_time_that_grows_with_its_size(version, filled, monkeypatch):
    start = filled[0].read_bytes() if version == 2 else (FORMAT_1 / "scalar.ablations").read_bytes()
    false, size = b"", 16 * 1500
    while len(false) < size:  # records that all claim to go to the end, and fail there
        frame = struct.pack("<4sII", b"\xabABL", max(size - len(false) - 16, 0), 7)
        false += frame + (struct.pack("<I", zlib.crc32(frame)) if version == 2 else b"1234")
    summed, crc32 = [], zlib.crc32
    with monkeypatch.context() as patched:
        patched.setattr(zlib, "crc32", lambda data, *before: summed.append(len(data)) or crc32(data, *before))
        found = records.scan(start + false)
    assert sum(summed) < 8 * len(start + false)
    assert len(found.records) == len(records.scan(start).records)
    assert found.damage


def header_of(**changed):
    honest = {"format": 2, "identity": "a" * 64, "n": 11, "outputs": [], "names": [], "details": {}}
    return json.dumps({**honest, **changed}).encode()


@pytest.mark.parametrize(
    "header",
    [
        *(header_of(n=n) for n in (10**10, 0, -1, 1.5, True, "11", None)),
        *(header_of(outputs=outputs) for outputs in ([2**40], [2**20, 2**20], [-1], [1] * 40, "3", [1.0], None)),
        header_of(names=[1]),
        header_of(identity=5),
        header_of(details=[]),
        b"[1]",
        b"{",
        b"[" * 100_000,
        b"\xff",
    ],
    ids=str,
)
def test_headers_that_claim_what_cannot_be(header, path):
    begin = records.record(header, marker=b"\xabHDR")
    path.write_bytes(b"spex_jax ablations 2\n" + begin + begin + records.record(b"\1\0\0\0" + bytes(10)))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"has a header .*it was not written by spex_jax"):
        Store(path, **OPTIONS)
    assert tracemalloc.get_traced_memory()[1] < 2**21
    tracemalloc.stop()


def test_records_that_claim_what_cannot_be(filled):
    path, _, _ = filled
    content = path.read_bytes()
    for payload in (b"", b"\1", b"\xff\xff\xff\xff", b"\xff\xff\xff\xff" + bytes(100)):
        path.write_bytes(content + records.record(payload))
        assert verify(path) == [f"bytes {len(content)} to {len(content) + 16 + len(payload)} are damaged"]


def scalar(masks):
    return masks @ np.arange(11.0) / 7 - (masks[:, 0] & masks[:, 3])


def several(masks):
    return np.stack([scalar(masks), -scalar(masks), masks.sum(axis=1) / 3], axis=1)


@pytest.mark.parametrize("name", ["scalar", "torn", "outputs"])
def test_a_store_of_format_1_is_read_and_continued(name, tmp_path):
    path = tmp_path / f"{name}.ablations"
    shutil.copy(FORMAT_1 / path.name, path)
    before, masks = path.read_bytes(), masks_lib.all_masks(11)[::37]
    held = {"scalar": 24, "torn": 26, "outputs": 20}[name]
    assert len(read(path).values) == held
    known = masks_lib.unpack(read(path).packed, 11)
    fn = several if name == "outputs" else scalar
    np.testing.assert_array_equal(read(path).values, fn(known))
    asked = []

    def told(masks):
        asked.extend(map(bytes, masks))
        return fn(masks)

    value_fn = spex_jax.ValueFunction(
        told, 11, outputs=(3,) if name == "outputs" else (), identity="several" if name == "outputs" else "scalar"
    )
    every = np.concatenate([known, masks])
    with pytest.warns(UserWarning, match="56 bytes are dropped") if name == "torn" else contextlib.nullcontext():
        np.testing.assert_array_equal(spex_jax.evaluate(value_fn, every, store=path, progress=False), fn(every))
    assert not {bytes(mask) for mask in known} & set(asked)
    assert verify(path) == []
    assert path.read_bytes().startswith(before[: len(before) - (56 if name == "torn" else 0)])
    assert len(read(path).values) == held + len(asked)


def test_a_store_of_a_lens_that_was_named_otherwise_is_refused(tiny, tmp_path):
    path = tmp_path / "text.ablations"
    shutil.copy(FORMAT_1 / path.name, path)
    lens, before = spex_jax.lenses.text(*tiny, "A dull film ."), path.read_bytes()
    with pytest.raises(
        ValueError, match=r"another value function .* an earlier version of spex_jax wrote it, which named"
    ):
        spex_jax.evaluate(lens, np.ones((1, 3), bool), store=path)
    assert path.read_bytes() == before
    assert len(read(path).values) == 8


@pytest.mark.parametrize("name", ["words", "heads"])
def test_a_store_of_a_lens_outlives_moves_of_its_modules(name, tmp_path):
    path = tmp_path / f"{name}.ablations"
    shutil.copy(FORMAT_2 / path.name, path)
    before, value_fn = path.read_bytes(), make_format2.lenses()[name]
    every = masks_lib.all_masks(value_fn.n)
    held = spex_jax.evaluate(value_fn, every, store=path, progress=False)
    assert path.read_bytes() == before  # nothing was evaluated again
    np.testing.assert_allclose(held, spex_jax.evaluate(value_fn, every, progress=False), atol=1e-5)


@pytest.mark.parametrize("other", [{"n": 4}, {"n": 20}, {"outputs": (1,)}, {"outputs": (2, 3)}], ids=str)
def test_another_shape_under_the_same_identity_is_refused(other, filled):
    path, _, _ = filled
    path.write_bytes(path.read_bytes() + b"\xabABL")  # the beginning of a record, which would be cut off
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"n = 11 features with values of shape \(\), but this value function has n"):
        Store(path, **{**OPTIONS, **other})
    assert path.read_bytes() == before


def test_repair_of_a_link_repairs_what_it_leads_to(filled, tmp_path, capsys):
    from spex_jax.store.__main__ import main

    path, _, _ = filled
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "link.ablations"
    link.symlink_to(path)
    assert main(["repair", str(link)]) == 0
    assert link.is_symlink()
    assert verify(path) == verify(link) == []
    assert len(read(path).values) == 6
    assert path.with_name("f.ablations.damaged").read_bytes() == content
    assert "6 ablations kept" in capsys.readouterr().out


def test_paths_that_cannot_be_stores(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path, message in {
        tmp_path / ("x" * 300): "File name too long; give a path",
        tmp_path / "file" / "store": "exists; give a path",
        f"{tmp_path / 'file'}/": r"exists|Not a directory",
        "~nobody-of-this-name/store": "not a path on this system",
        "a\0b": "null character",
        "\ud800": "not a path on this system",
        b"bytes": "must be a path",
        5: "must be a path",
    }.items():
        with pytest.raises(ValueError, match=message):
            Store(path, **OPTIONS)
        if not isinstance(path, int | bytes):
            with pytest.raises(ValueError, match=r"."):
                read(path)
    with pytest.raises(ValueError, match="File name too long"):
        spex_jax.explain_many([], store=tmp_path / ("x" * 300))


def test_a_damaged_middle_says_how_to_keep_the_rest(filled):
    path, _, _ = filled
    content = bytearray(path.read_bytes())
    start, stop = records.scan(bytes(content)).records[1]
    content[stop - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"first at byte {start - 16}; 25 ablations are intact.*store repair"):
        Store(path, **OPTIONS)
    assert verify(path) == [f"bytes {start - 16} to {stop} are damaged"]


def test_a_store_of_another_value_function(filled):
    path, _, _ = filled
    with pytest.raises(ValueError, match=r"another value function \(n = 11, identity aaaaaaaaaaaa\) than this one"):
        Store(path, identity="b" * 64, n=11)
    assert verify(path) == []


def test_a_store_of_a_newer_version(filled):
    path, _, _ = filled
    path.write_bytes(
        path.read_bytes().replace(b"ablations 2\n", b"ablations 3\n", 1).replace(b'"format": 2', b'"format": 3')
    )
    with pytest.raises(ValueError, match=r"newer version of spex_jax \(format 3, this version reads up to 2\)"):
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
    with pytest.raises(ValueError, match="holds two stores, one after the other"):
        Store(joined, **OPTIONS)


def test_a_record_of_another_shape_is_damage(filled):
    path, _, _ = filled
    content = path.read_bytes()
    path.write_bytes(content + records.record(b"\1\0\0\0xyz") + records.record(b"\0\0\0\0"))
    assert verify(path) == [f"bytes {len(content)} to {len(content) + 23} are damaged"]


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
            with pytest.raises(OSError, match=r"cannot write to the store .* Its 100 ablations are intact; make room"):
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
    with pytest.raises(ValueError, match=r"not a regular file|cannot write the store"):
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


def test_what_is_appended_after_a_look_is_found(path):
    masks, values = table(30)
    with Store(path, **OPTIONS) as store:
        for start in range(0, 30, 10):
            store.append(masks[start : start + 10], values[start : start + 10])
            known, found = store.lookup(masks)
            np.testing.assert_array_equal(known, np.arange(30) < start + 10)
            np.testing.assert_array_equal(found[known], values[known])


def test_values_are_the_stores_own(path):
    masks, values = table(10)
    given = values.copy()
    with Store(path, **OPTIONS) as store:
        store.append(masks, given)
        given[:] = 0
        np.testing.assert_array_equal(store.lookup(masks)[1], values)


def test_the_bytes_of_a_record_are_the_format():
    """Written out by hand: a checksum of something else would be read by this version and by no other."""
    payload = records.ablations(np.array([[5], [1]], np.uint8), np.array([1.0, -2.0]))
    assert payload == struct.pack("<I2B2d", 2, 5, 1, 1.0, -2.0)
    length = struct.pack("<I", len(payload))
    frame = b"\xabABL" + length + struct.pack("<I", zlib.crc32(length + payload))
    assert records.record(payload) == frame + struct.pack("<I", zlib.crc32(frame)) + payload
    assert records.record(payload, 1) == frame + payload


def test_hashes_that_meet_are_told_apart(path, monkeypatch):
    masks, values = table(50)
    monkeypatch.setattr("spex_jax.core.masks.hashes", lambda packed: np.zeros(len(packed), np.uint64))
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
    assert "intact, 26 ablations" in capsys.readouterr().out
    assert main(["export", str(path)]) == 0
    with np.load(str(path) + ".npz") as found:
        np.testing.assert_array_equal(found["masks"], masks)
        np.testing.assert_array_equal(found["values"], values)
        assert str(found["identity"]) == "a" * 64
    assert main(["export", str(path), f"--out={path}"]) == 2
    assert "must end in .npz; a store is never overwritten" in capsys.readouterr().err
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
