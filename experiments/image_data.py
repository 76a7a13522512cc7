"""Small pictures to train on: scikit-learn's digits, MNIST in its own files, CIFAR-10 as an archive of arrays."""

import dataclasses
import gzip
import pathlib

import numpy as np
from absl import flags

_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder with MNIST (*images*ubyte.gz and *labels*ubyte.gz) or CIFAR-10 (*.npz with images and labels). Default: "
    "scikit-learn's digits.",
)
_TRAIN = flags.DEFINE_integer("train", 600, "Training examples.", lower_bound=2)
_TEST = flags.DEFINE_integer("test", 6, "Test points, whose values are explained.", lower_bound=1)
_MNIST_MAGIC = {"images": (2051, 16), "labels": (2049, 8)}


@dataclasses.dataclass(frozen=True)
class Images:
    """Pictures float32 [N, H, W, C] in [0, 1] and classes int32 [N], for training and test; `name` of the data set."""

    name: str
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def _digits() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError(
            "the digits come with scikit-learn: pip install 'spex-jax[data]', or give --data_dir"
        ) from error
    found = load_digits()
    return (found.images / 16.0).astype(np.float32)[..., None], found.target


def _mnist_array(path: pathlib.Path, kind: str) -> np.ndarray:
    magic, start = _MNIST_MAGIC[kind]
    with gzip.open(path) as file:
        content = file.read()
    found, count = np.frombuffer(content, ">i4", 2)
    data = np.frombuffer(content, np.uint8, offset=start)
    if found != magic or len(data) % max(count, 1):
        raise ValueError(f"{str(path)!r} is not a file of MNIST {kind} (magic number {found}, expected {magic})")
    return data.reshape(count, -1)


def _from_folder(folder: pathlib.Path) -> tuple[str, np.ndarray, np.ndarray]:
    pictures, labels = (sorted(folder.glob(f"*{kind}*ubyte.gz")) for kind in ("images", "labels"))
    if pictures and labels:
        x, y = _mnist_array(pictures[0], "images"), _mnist_array(labels[0], "labels")[:, 0]
        side = round(x.shape[1] ** 0.5)
        return "mnist", (x / 255.0).astype(np.float32).reshape(-1, side, side, 1), y
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as archive:
            if {"images", "labels"} <= set(archive.files):
                return path.stem, (archive["images"] / 255.0).astype(np.float32), archive["labels"]
    raise ValueError(
        f"--data_dir {str(folder)!r} holds neither MNIST (*images*ubyte.gz, *labels*ubyte.gz) nor an .npz with images "
        "and labels"
    )


def load_images(seed: int) -> Images:
    """Loads the data that the flags select, in a random order by seed; test points are the last ones.

    Raises:
      ValueError: the data cannot be read, or has too few examples.
    """
    if _DATA_DIR.value is None:
        name, (x, y) = "digits", _digits()
    else:
        name, x, y = _from_folder(pathlib.Path(_DATA_DIR.value).expanduser())
    train, test = _TRAIN.value, _TEST.value
    if train + test > len(x):
        raise ValueError(f"--train and --test need {train + test} examples; {name} has {len(x)}")
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = x[order], np.asarray(y)[order].astype(np.int32)
    return Images(name, x[:train], y[:train], x[-test:], y[-test:])
