"""The image lens: which patches of a picture act together in a classifier's decision."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.engine.details import PatchesDetails
from spex_jax.engine.value_function import DeviceOptions, ValueFunction, as_pytree
from spex_jax.lenses.probes import Remedy, check_rows, logits_of, with_remedies
from spex_jax.lenses.values import check_value, choose_classes, watched
from spex_jax.utils.jax_settings import own_settings

__all__ = ["REMOVALS", "patches"]

REMOVALS = ("mean", "zero", "blur")
_CHANNELS = (1, 3, 4)  # of grey, colour and transparent pictures
_BLUR = 0.1  # standard deviation of the blur, as a part of the shorter side


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["apply", "image", "replacement", "segment", "target", "contrast"],
    meta_fields=["value"],
)
@dataclasses.dataclass(frozen=True)
class _MaskedImage:
    """Maps masks [B, n] to values [B]; a pytree, so that all pictures of one size share a program.

    `image` and `replacement` are [H, W, C], `segment` int32 [H, W], `target` and `contrast` int32 [].
    """

    identity_name: ClassVar[str] = "spex_jax.MaskedImage"

    apply: Callable[[jax.Array], jax.Array]
    image: jax.Array
    replacement: jax.Array
    segment: jax.Array
    target: jax.Array
    contrast: jax.Array
    value: str

    def logits(self, masks: jax.Array) -> jax.Array:
        """Returns the class logits [B, C] of the picture with the removed patches replaced; masks of floats say how far
        each is kept.
        """
        kept = masks[:, jnp.maximum(self.segment, 0)]  # [B, H, W]
        if jnp.issubdtype(masks.dtype, jnp.floating):
            share = jnp.where(self.segment < 0, 1.0, kept)[..., None]
            return self.apply(share * self.image + (1 - share) * self.replacement)
        return self.apply(jnp.where(((self.segment < 0) | kept)[..., None], self.image, self.replacement))

    def __call__(self, masks: jax.Array) -> jax.Array:
        """Returns the values float32 [B]."""
        return watched(self.logits(masks), self.value, self.target, self.contrast)


@jax.jit
def _logits(fn: _MaskedImage, masks: jax.Array) -> jax.Array:
    return fn.logits(masks)


def _probed(fn: _MaskedImage, n: int) -> np.ndarray:
    """Returns the logits float32 [1, C] of the whole picture, after checks of the model.

    Raises:
      ValueError: the outputs are not logits [B, C], or those of a picture depend on others in its batch.
    """
    height, width, channels = fn.image.shape
    one, first = "it takes one picture and not several", "with channels first"
    remedies = [
        Remedy((jax.ShapeDtypeStruct(shape, np.float32),), advice)
        for shape, advice in (
            ((height, width, channels), f"{one}: give jax.vmap(apply_fn)"),
            (
                (channels, height, width),
                f"{one}, {first}: give lambda x: jax.vmap(apply_fn)(x.transpose(0, 3, 1, 2))",
            ),
            (
                (1, channels, height, width),
                f"it takes pictures {first}: give lambda x: apply_fn(x.transpose(0, 3, 1, 2))",
            ),
        )
    ]
    kept = np.ones((2, n), np.bool_)
    found = with_remedies(lambda: _logits(fn, kept), fn.apply, remedies, "apply_fn")
    twice = np.asarray(logits_of(found, "apply_fn", "logits of shape [B, classes]", 2), np.float32)
    if twice.ndim != 2 or twice.shape[0] != 2:
        raise ValueError(f"apply_fn must give logits of shape [B, classes]; for two pictures it gave {twice.shape}")
    kept[1] = False
    check_rows(twice, np.asarray(_logits(fn, kept), np.float32), "apply_fn")
    return twice[:1]


def _segments(shape: tuple[int, int], grid: Any, segments: Any) -> tuple[np.ndarray, list[str], tuple[int, int] | None]:
    """Returns the patch of every pixel int32 [H, W] (-1: always kept), names, and rows and columns of a grid."""
    if segments is not None:
        given = np.asarray(segments)
        if given.shape != shape or not np.issubdtype(given.dtype, np.integer):
            raise ValueError(
                f"segments must be whole numbers of shape {shape}, one for each pixel (below 0: always kept), "
                f"got {given.dtype} {given.shape}"
            )
        present = np.unique(given[given >= 0])
        if not len(present):
            raise ValueError("segments must hold a number of at least 0; otherwise all pixels are always kept")
        numbered = np.where(given >= 0, np.searchsorted(present, given), -1).astype(np.int32)
        return numbered, [f"segment {number}" for number in present], None
    sides = np.asarray(grid) if isinstance(grid, tuple | list | np.ndarray) else np.array([grid, grid])
    if sides.shape != (2,) or sides.dtype.kind not in "iu" or not (sides >= 1).all() or not (sides <= shape).all():
        raise ValueError(
            f"grid must be rows and columns, whole numbers from (1, 1) to {shape}, or one number for both; got {grid!r}"
        )
    rows, columns = map(int, sides)
    row = np.arange(shape[0]) * rows // shape[0]
    column = np.arange(shape[1]) * columns // shape[1]
    names = [f"row {i}, column {j}" for i in range(rows) for j in range(columns)]
    segment = (row[:, None] * columns + column[None, :]).astype(np.int32)
    return segment, names, (rows, columns)


def _centres(segment: np.ndarray, count: int) -> np.ndarray | None:
    """Returns the mean row and column of the pixels of each patch, float64 [n, 2]; None where all are in one place."""
    inside = segment >= 0
    sums = [np.bincount(segment[inside], where, count) for where in np.nonzero(inside)]
    centres = np.stack(sums, axis=1) / np.bincount(segment[inside], minlength=count)[:, None]
    return None if (centres == centres[0]).all() else centres


def _replacement(image: np.ndarray, removal: Any) -> tuple[np.ndarray, str]:
    if isinstance(removal, str):
        if removal not in REMOVALS:
            raise ValueError(
                f"unknown removal {removal!r}; expected one of {', '.join(REMOVALS)}, a colour or a picture"
            )
        if removal == "zero":
            return np.zeros_like(image), removal
        if removal == "mean":
            return np.broadcast_to(image.mean(axis=(0, 1)), image.shape).astype(image.dtype), removal
        from scipy import ndimage

        deviation = _BLUR * min(image.shape[:2])
        return ndimage.gaussian_filter(image, (deviation, deviation, 0), mode="nearest"), removal
    given = np.asarray(removal, image.dtype)
    if given.shape not in ((image.shape[2],), image.shape):
        raise ValueError(
            f"removal must be a colour of shape ({image.shape[2]},) or a picture {image.shape}, got {given.shape}"
        )
    return np.broadcast_to(given, image.shape), "colour" if given.ndim == 1 else "picture"


@own_settings()
def patches(
    apply_fn: Any,
    image: Any,
    *,
    grid: int | tuple[int, int] = (8, 8),
    segments: Any = None,
    removal: Any = "mean",
    value: str = "margin",
    target: int | str | None = None,
    contrast: int | str | None = None,
) -> ValueFunction:
    """Returns a value function for a picture: its patches are kept or replaced, a classifier gives the value.

    Args:
      apply_fn: a pure JAX function, images float [B, H, W, C] -> class logits [B, classes]; for a model that wants
        channels first, one that transposes. One that is a registered pytree shares its compiled program between
        pictures and identifies itself in a store.
      image: float [H, W, C], as the model takes it (normalised, for example).
      grid: rows and columns of patches, as equal as the sides allow; one number for both.
      segments: whole numbers [H, W] in place of a grid: the patch of each pixel, below 0 for pixels that are always
        kept.
      removal: what a removed patch becomes: "mean", the picture's mean colour; "zero"; "blur", the picture blurred by a
        tenth of its shorter side; a colour [C], such as the mean of a data set; or a picture [H, W, C].
      value: for the target class, see `lenses.text`.
      target: a class number, or a name in `apply_fn.class_names`; None is the class predicted for the whole picture.
      contrast: the class that "logit_diff" subtracts; for that value only.

    Raises:
      ValueError: an option is unknown, shapes do not fit, or the picture is not finite.
    """
    check_value(value, contrast)
    if not callable(apply_fn):
        raise ValueError(f"apply_fn must be callable (images -> logits), got {type(apply_fn).__name__}")
    array = np.asarray(image)
    if array.ndim != 3 or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"image must be floats of shape [H, W, C], scaled as the model wants them, got {array.dtype} {array.shape}"
        )
    if segments is None and array.shape[0] in _CHANNELS and min(array.shape[1:]) > max(_CHANNELS):
        raise ValueError(
            f"image has shape {array.shape}, which looks like channels first [C, H, W]; give image.transpose(1, 2, 0), "
            "and where the model wants channels first an apply_fn that transposes back. For a picture that is really "
            f"{array.shape[0]} pixels high give segments="
        )
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError("image has pixels that are not finite")
    segment, names, sides = _segments(array.shape[:2], grid, segments)
    replacement, described = _replacement(array, removal)
    fn = _MaskedImage(
        apply=as_pytree(apply_fn),
        image=jnp.asarray(array),
        replacement=jnp.asarray(replacement),
        segment=jnp.asarray(segment),
        target=jnp.asarray(0, jnp.int32),
        contrast=jnp.asarray(0, jnp.int32),
        value=value,
    )
    full = _probed(fn, len(names))
    classes = choose_classes(apply_fn, full[0], value, target, contrast)
    chosen, against = (jnp.asarray(number, jnp.int32) for number in classes[:2])
    fn = dataclasses.replace(fn, target=chosen, contrast=against)
    return ValueFunction(
        fn,
        len(names),
        names=names,
        on_device=True,
        device=DeviceOptions(relaxed=True),
        details=PatchesDetails(
            units="segment" if sides is None else "patch",
            removal=described,
            value=value,
            target=classes.target_name,
            contrast=classes.contrast_name,
            grid=sides,
            pixels=math.prod(array.shape[:2]),
        ),
        coordinates=_centres(segment, len(names)),
    )
