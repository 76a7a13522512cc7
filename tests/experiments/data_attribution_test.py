import gzip
import json
import struct

import numpy as np
import pytest
from absl import flags

import spex_jax


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("data_attribution")


@pytest.fixture
def run(program, tmp_path):
    """Runs the program with flags, and puts them back."""
    before = {name: flags.FLAGS[name].value for name in flags.FLAGS}

    def call(**given):
        for name, value in {"out": str(tmp_path / "out"), **given}.items():
            flags.FLAGS[name].value = value
        program.main()
        return tmp_path / "out"

    yield call
    for name, value in before.items():
        flags.FLAGS[name].value = value


def write_mnist(folder, rng, count=120):
    """Pictures of 4 x 4 in the format of MNIST: the class is the brightest column."""
    y = rng.integers(0, 4, count).astype(np.uint8)
    x = rng.integers(0, 60, (count, 4, 4), dtype=np.uint8)
    x[np.arange(count), :, y] += 150
    with gzip.open(folder / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(struct.pack(">4i", 2051, count, 4, 4) + x.tobytes())
    with gzip.open(folder / "train-labels-idx1-ubyte.gz", "wb") as file:
        file.write(struct.pack(">2i", 2049, count) + y.tobytes())
    return x, y


@pytest.mark.slow
def test_retrains_scores_and_writes_pages(run, rng, tmp_path, capsys):
    write_mnist(tmp_path, rng)
    out = run(
        data_dir=str(tmp_path), train=80, test=2, groups=8, budget=130, epochs=2, batch=20, networks=["mlp"],
        proxy="walsh_gp", refine=1,
    )  # fmt: skip
    printed = capsys.readouterr().out
    result = json.loads((out / "mlp" / "lds.json").read_text())
    methods = {row["method"] for row in result["rows"]}
    assert {
        "proxyspex",
        "proxyspex, first order",
        "lasso (datamodels)",
        "banzhaf",
        "shapley",
        "leave one out",
    } <= methods
    best = max(row["lds"] for row in result["rows"] if row["method"] == "proxyspex")
    assert best > 0.5
    assert "Training examples as pictures" in (out / "mlp" / "point_1.html").read_text()
    assert (out / "mlp" / "point_0_refined.html").exists()
    assert "divided further" in printed
    assert "variance over masks reproduced" in printed


def test_tables_of_others(run, rng, tmp_path, capsys):
    masks = rng.random((700, 40)) < 0.5
    signs = 1 - 2.0 * masks
    values = np.stack([3 * signs[:, 4] * signs[:, 9] + signs[:, 2], signs[:, 1]], axis=1)
    np.save(tmp_path / "masks.npy", np.packbits(masks, axis=1))
    np.save(tmp_path / "margins.npy", values.astype(np.float32))
    files = {"masks": str(tmp_path / "masks.npy"), "margins": str(tmp_path / "margins.npy")}
    out = run(features=40, points=["0"], **files)
    found = spex_jax.Interactions.load(out / "interactions_0.json")
    assert found.top(1, order=2)[0][0] == (4, 9)
    assert "point 0: R2" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--points must be columns"):
        run(features=40, points=["2"], **files)
    with pytest.raises(ValueError, match="belong together"):
        run(masks=files["masks"], margins=None)


def test_reads_mnist_and_cifar(program, rng, tmp_path):
    x, y = write_mnist(tmp_path, rng)
    images = program.image_data
    name, found, labels = images._from_folder(tmp_path)
    assert (name, found.shape) == ("mnist", (120, 4, 4, 1))
    np.testing.assert_allclose(found[..., 0] * 255, x, atol=1e-4)
    np.testing.assert_array_equal(labels, y)
    (tmp_path / "cifar").mkdir()
    np.savez(tmp_path / "cifar" / "cifar10.npz", images=np.zeros((3, 8, 8, 3), np.uint8), labels=np.arange(3))
    assert images._from_folder(tmp_path / "cifar")[1].shape == (3, 8, 8, 3)
    with pytest.raises(ValueError, match="neither MNIST"):
        images._from_folder(tmp_path / "nothing")


@pytest.mark.parametrize("folder", ["mnist_t10k", "cifar10"])
def test_reads_the_real_files(folder, program, data_folder):
    _, x, y = program.image_data._from_folder(data_folder / folder)
    assert len(x) == len(y)
    assert x.min() >= 0
    assert x.max() <= 1
    assert set(np.unique(y)) == set(range(10))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"networks": ["vit"]}, "unknown networks vit"),
        ({"train": 5000}, "digits has 1797"),
        ({"budgets": ["100", "many"]}, "--budgets must be whole numbers"),
        ({"data_dir": "/nonexistent"}, "neither MNIST"),
        ({"masks": "/nonexistent.npy", "margins": "/nonexistent.npy"}, "nonexistent"),
    ],
)
def test_refuses(given, message, run):
    with pytest.raises(ValueError, match=message):
        run(**given)
