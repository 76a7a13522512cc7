"""Pictures of examples, small enough to be part of a report."""

import base64
import io
from typing import Any

import numpy as np

from spex_jax.engine.details import Pictures
from spex_jax.lenses.training_parts.groups import Groups

__all__ = ["group_pictures", "to_uri"]

_OF_A_GROUP = 5
_SIDE = 96  # larger pictures are made smaller
_BYTES = 8 * 2**20  # for all pictures of a lens; beyond this, groups show fewer


def to_uri(picture: np.ndarray) -> str:
    """Returns a picture uint8 [H, W] or [H, W, 3] as the data URI of a PNG image."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError("pictures need Pillow: pip install 'spex-jax[data]'") from error
    image = Image.fromarray(picture)
    image.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _checked(given: Any, count: int, whose: str) -> np.ndarray:
    array = np.asarray(given)
    if array.ndim not in (3, 4) or len(array) != count or (array.ndim == 4 and array.shape[3] not in (1, 3)):
        raise ValueError(
            f"pictures of {whose} must be [{count}, H, W] or [{count}, H, W, 3], one for each, got {array.shape}"
        )
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):
            raise ValueError(f"pictures of floats must be within [0, 1], got {array.min():.4g} to {array.max():.4g}")
        array = np.round(255 * array).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"pictures must be uint8 or floats in [0, 1], got {array.dtype}")
    return array


def group_pictures(pictures: Any, groups: Groups, points: int) -> Pictures:
    """Makes small pictures of the first examples of each group, and of each test point.

    Raises:
      ValueError: `pictures` is not a pair, shapes or dtypes do not fit, or Pillow is not installed.
    """
    if not isinstance(pictures, tuple | list) or len(pictures) != 2:
        raise ValueError("pictures must be a pair: of the training examples, and of the test points")
    train = _checked(pictures[0], len(groups.labels), "training examples")
    test = _checked(pictures[1], points, "test points")
    size = min(train[0].size, 3 * _SIDE**2)
    shown = int(np.clip(_BYTES // (2 * size * len(groups)), 1, _OF_A_GROUP))
    order = np.argsort(groups.labels, kind="stable")
    starts = np.searchsorted(groups.labels[order], np.arange(len(groups)))
    ends = np.minimum(starts + np.minimum(groups.sizes, shown), len(order))
    units = (tuple(to_uri(train[i]) for i in order[start:end]) for start, end in zip(starts, ends, strict=True))
    return Pictures(tuple(units), tuple(map(to_uri, test)))
