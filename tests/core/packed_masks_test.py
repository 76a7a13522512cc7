import numpy as np
import pytest

from spex_jax import PackedMasks
from spex_jax.core import packed_masks as packed_lib


def forms(masks):
    """The same masks as packed bits, as 0 and 1, and as bool."""
    return {"bits": np.packbits(masks, axis=1), "uint8": masks.astype(np.uint8), "bool": masks}


@pytest.mark.parametrize("form", ["bits", "uint8", "bool"])
@pytest.mark.parametrize("n", [2, 8, 21])
def test_gives_back_what_was_stored(form, n, rng, tmp_path, monkeypatch):
    monkeypatch.setattr(packed_lib, "_BLOCK_BYTES", 60)  # several blocks, the last of them short
    masks = rng.integers(0, 2, (50, n)).astype(bool)
    np.save(tmp_path / "table.npy", forms(masks)[form])
    table = PackedMasks.open(tmp_path / "table.npy", None if form == "bool" else n)
    assert isinstance(table.bits, np.memmap)
    assert table.is_packed == (form == "bits")
    assert (len(table), table.shape, table.n) == (50, (50, n), n)
    np.testing.assert_array_equal(table.rows(slice(None)), masks)
    np.testing.assert_array_equal(table.rows(slice(7, 9)), masks[7:9])
    assert table.rows(slice(0, 1)).dtype == bool
    wanted = rng.permutation(n)[: n // 2 + 1]
    np.testing.assert_array_equal(table.columns(wanted), masks[:, wanted])
    chosen = np.array([3, 1, 49, 20, 21, 22, 23])
    np.testing.assert_array_equal(table.columns(wanted, chosen), masks[chosen][:, wanted])
    assert table.columns([]).shape == (50, 0)
    np.testing.assert_array_equal(table.packed_rows(slice(3, 40)), np.packbits(masks[3:40], axis=1))
    np.testing.assert_array_equal(table.packed_rows(chosen, 0, 1), np.packbits(masks[chosen], axis=1)[:, :1])
    assert f"M=50 n={n}" in repr(table)


def test_one_feature_is_bool():
    assert PackedMasks(np.ones((3, 1), bool)).n == 1
    with pytest.raises(ValueError, match="n = 1 may be packed or not; give a bool array"):
        PackedMasks(np.ones((3, 1), np.uint8), 1)


@pytest.mark.parametrize(
    ("bits", "n", "message"),
    [
        (np.zeros((4, 3), np.uint8), None, r"got uint8 \[4, 3\] without n; give n, which is 3 .* and 17 to 24 where"),
        (np.zeros((4, 3), np.uint8), 25, r"25 features have 4 bytes .* got uint8 \[4, 3\]; give the n"),
        (np.zeros((4, 3), np.uint8), 16, "16 features have 2 bytes"),
        (np.zeros((4, 3), bool), 20, "leave n out, or pack the table"),
        (np.zeros((4, 0), bool), None, "at least one"),
        (np.zeros((4, 3), np.float32), 3, r"got float32 \(4, 3\); convert with np.packbits"),
        (np.zeros(4, np.uint8), 3, r"got uint8 \(4,\)"),
        ([[True]], 1, "got list"),
        (np.zeros((4, 3), np.uint8), 0, "n must be a whole number of at least 1, got 0"),
        (np.zeros((4, 3), np.uint8), 20.0, "n must be a whole number"),
        (np.full((4, 3), 2, np.uint8), 3, "must hold 0 and 1 only, got 2 in row 0"),
    ],
)
def test_refuses_what_is_no_table(bits, n, message):
    with pytest.raises(ValueError, match=message):
        PackedMasks(bits, n)


def test_bits_past_n_are_an_error_in_any_block(monkeypatch):
    monkeypatch.setattr(packed_lib, "_BLOCK_BYTES", 60)
    bits = np.zeros((50, 3), np.uint8)
    bits[40, -1] = 0b00010000
    assert PackedMasks(bits, 20).n == 20  # that bit is the last feature
    with pytest.raises(ValueError, match="bits past n = 19 must be 0, got 0b00010000 as the last byte of row 40"):
        PackedMasks(bits, 19)


def test_features_that_are_not_there():
    table = PackedMasks(np.zeros((4, 3), bool))
    with pytest.raises(ValueError, match="from 0 to 2, got 0 to 3"):
        table.columns([0, 3])
    with pytest.raises(ValueError, match="got -1 to 0"):
        table.columns([-1, 0])
    with pytest.raises(ValueError, match="whole numbers"):
        table.columns(np.zeros(2))


def test_files_that_are_no_table(tmp_path):
    path = tmp_path / "table.npy"
    with pytest.raises(ValueError, match=r"table.npy.* is not a \.npy file"):
        PackedMasks.open(path, 3)
    path.write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"table.npy.* write one with np.save"):
        PackedMasks.open(path, 3)
    np.save(path, np.array([None]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"is not a \.npy file"):
        PackedMasks.open(path, 3)
    np.save(path, np.zeros((4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"table.npy': a uint8 table needs its number of features"):
        PackedMasks.open(path)
