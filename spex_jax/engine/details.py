"""Typed records in which a lens describes its input for reports, and their conversion from and to JSON.

In shapes, n is the number of units, the features of a value function.
"""

import contextlib
import dataclasses
import itertools
import math
import re
import reprlib
import types
import typing
from typing import Any

__all__ = [
    "ComponentsDetails",
    "Details",
    "JointDetails",
    "OutputDetails",
    "PatchesDetails",
    "Pictures",
    "PlainDetails",
    "TabularDetails",
    "TextDetails",
    "TrainingDetails",
    "ValueNoise",
    "details_from_json",
    "plain_details",
]

Scalar = str | int | float | bool | None
Label = Scalar | list[Scalar]

_EXPECTED = {  # for error messages: what each field that reports show must be
    "units": "a string",
    "removal": "a string or number",
    "value": "a string or number",
    "target": "a string, a number or a list of them",
    "contrast": "a string, a number or a list of them",
    "text": "a string",
    "spans": "{n} pairs (start, end) of numbers",
    "left_out": "a list of strings",
    "prompts": "a whole number",
    "layers": "{n} lists of numbers, or of names, of layers",
    "columns": "{n} strings",
    "test_point": "a number or a name",
    "pictures": "'units', {n} lists, and 'tests', a list, of data:image URIs of PNG, JPEG, GIF or WebP",
    "seed_noise": "numbers 'deviation', 'share' and 'seeds'",
}
_OF_EACH_UNIT = ("layers", "columns", "sizes")
_PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]*={0,2}")


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures as data:image URIs of PNG, JPEG, GIF or WebP.

    Attributes:
      units: n tuples, the first examples of each unit.
      tests: one for each test point.
    """

    units: tuple[tuple[str, ...], ...]
    tests: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ValueNoise:
    """Measures how much a value depends on the seeds of its trainings.

    Attributes:
      deviation: standard deviation over other seeds, in units of the value.
      share: the part in [0, 1] of the variance over masks that other seeds do not reproduce.
      seeds: number of trainings that a value averages.
    """

    deviation: float
    share: float
    seeds: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputDetails:
    """Describes one output of a value; see `Details`."""

    test_point: int
    target: Scalar = None
    seed_noise: ValueNoise | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Details:
    """Describes an input for reports. A lens fills in what it knows; its own subclass adds further fields.

    Attributes:
      units: what one unit is called, in the singular.
      removal: how a unit is removed.
      value: the number that is explained, such as "logprob" or "margin".
      target: the class or answer that the value scores; None where there is none.
      contrast: the class or answer whose score the value subtracts.
      text: the explained text; None where the input is not text.
      spans: n pairs (start, end) of characters of the text; empty without a text.
      left_out: what the chat template leaves out of the messages, one sentence for each part.
      prompts: the number of prompts that the value averages.
      layers: n tuples, the numbers or names of the layers in which each unit lies.
      columns: n names of the units within their layers.
      test_point: the number or name of the test point that the value belongs to.
      pictures: pictures of the units and the test points.
      seed_noise: how much the value depends on the seed, where that was measured.
    """

    units: str = "feature"
    removal: Scalar = None
    value: Scalar = "value"
    target: Label = None
    contrast: Label = None
    text: str | None = None
    spans: tuple[tuple[int, int], ...] = ()
    left_out: tuple[str, ...] = ()
    prompts: int | None = None
    layers: tuple[tuple[int | str, ...], ...] | None = None
    columns: tuple[str, ...] | None = None
    test_point: Scalar = None
    pictures: Pictures | None = None
    seed_noise: ValueNoise | None = None

    def of_output(self, output: int, n: int) -> "Details":
        """Returns the details of output number `output` of a value function of n features."""
        return self

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object that `details_from_json` reads; fields at their defaults are left out."""
        return dict(_written(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextDetails(Details):
    """Describes an input of the text lens: `text`, `spans`, `target` and `contrast` are always set.

    Attributes:
      own_target: whether the target is the model's own answer, because none was given.
    """

    text: str = dataclasses.field()
    spans: tuple[tuple[int, int], ...] = dataclasses.field()
    target: Label = dataclasses.field()
    contrast: Label = dataclasses.field()
    own_target: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchesDetails(Details):
    """Describes an input of the patches lens: `target` and `contrast` are always set.

    Attributes:
      grid: rows and columns of patches; None where the segments were given.
      pixels: number of pixels of the picture.
    """

    target: Label = dataclasses.field()
    contrast: Label = dataclasses.field()
    grid: tuple[int, int] | None = None
    pixels: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TabularDetails(Details):
    """Describes an input of the tabular lens: `target`, the column of the predictions, is always set.

    Attributes:
      background: number of background rows.
    """

    target: Label = dataclasses.field()
    background: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComponentsDetails(Details):
    """Describes an input of the components lens: `prompts`, `layers` and `columns` are always set.

    Attributes:
      own_target: whether the target is the model's own answer, because none was given.
    """

    prompts: int = dataclasses.field()
    layers: tuple[tuple[int | str, ...], ...] = dataclasses.field()
    columns: tuple[str, ...] = dataclasses.field()
    own_target: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingDetails(Details):
    """Describes an input of the training data lens.

    Attributes:
      seeds: number of trainings that a value averages.
      examples: number of training examples.
      test_points: number of test points.
      sizes: n numbers of examples, one for each group; None where each example is a unit.
      outputs: one record for each test point where each has a value of its own; empty otherwise.
    """

    seeds: int
    examples: int
    test_points: int
    sizes: tuple[int, ...] | None = None
    outputs: tuple[OutputDetails, ...] = ()

    def of_output(self, output: int, n: int) -> Details:
        """Returns the details of one test point where each has a value of its own, else all of them."""
        if not self.outputs:
            return self
        one = self.outputs[output]
        return dataclasses.replace(
            self, outputs=(), test_point=one.test_point, target=one.target, seed_noise=one.seed_noise
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointDetails(Details):
    """Describes an input of two lenses that share one mask.

    Attributes:
      lenses: the details of both.
      lens_sizes: number of units of each lens, in the order of the mask.
    """

    lenses: tuple[Details, ...]
    lens_sizes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlainDetails(Details):
    """Describes an input of a user's own value function: the fields that reports know, and the rest as given.

    Attributes:
      more: fields that no report shows. "outputs" is a list with a dictionary for each output of a value, whose fields
        take precedence for that output.
    """

    more: dict[str, Any] = dataclasses.field(default_factory=dict)

    def of_output(self, output: int, n: int) -> Details:
        """Returns the details of one output, with the fields that "outputs" gives it.

        Raises:
          ValueError: see `plain_details`.
        """
        content = self.to_json()
        outputs = content.pop("outputs", None)
        return plain_details({**content, **outputs[output]}, n) if outputs else self

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object as `Details.to_json` does, with everything that was given."""
        content = _written(self)
        return {**content.pop("more", {}), **content}


def _written(record: Any) -> Any:
    """Converts a record, a tuple or a plain value to JSON's types."""
    if isinstance(record, tuple):
        return [_written(one) for one in record]
    if not dataclasses.is_dataclass(record):
        return record
    found = {field.name: (getattr(record, field.name), field.default) for field in dataclasses.fields(record)}
    return {
        name: value.to_json() if isinstance(value, Details) else _written(value)
        for name, (value, default) in found.items()
        if default is dataclasses.MISSING or value != default
    }


def plain_details(content: Any, n: int) -> PlainDetails:
    """Reads a user's dictionary. Fields that reports do not show may hold anything.

    Args:
      content: the details of a `ValueFunction` or of a file.
      n: number of features.

    Raises:
      ValueError: it is not a dictionary with string keys, or a field that reports show is not what they expect.
    """
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"details must be a dictionary with string keys, got {reprlib.repr(content)}")
    fields, _ = _fields(Details)
    shown: dict[str, Any] = {}
    for name, field in fields.items():
        if name in content and (name != "spans" or "text" in content):
            try:
                shown[name] = _read_field(field, content[name], n)
            except _UnfitError:
                raise ValueError(
                    f"details[{name!r}] must be {_EXPECTED[name].format(n=n)}, got {reprlib.repr(content[name])}; "
                    "leave it out or fix it"
                ) from None
    text, spans = shown.get("text"), shown.get("spans", ())
    if text is not None and (len(spans) != n or not all(start <= end <= len(text) for start, end in spans)):
        raise ValueError(
            f"details['spans'] must be {n} pairs (start, end) within the {len(text)} characters of details['text'], "
            f"got {reprlib.repr(content.get('spans'))}"
        )
    pictures, point = shown.get("pictures"), shown.get("test_point")
    if pictures is not None and point is not None and not (_is_whole(point) and point < len(pictures.tests)):
        raise ValueError(
            f"details['test_point'] must be the number of one of the {len(pictures.tests)} pictures of test points, "
            f"got {reprlib.repr(point)}"
        )
    more = {k: given for k, given in content.items() if k not in shown or shown[k] == fields[k].default}
    return PlainDetails(**shown, more=more)


def details_from_json(content: Any, n: int) -> Details:
    """Reads what `Details.to_json` wrote, as the record of the lens with these fields, else as `PlainDetails`.

    Args:
      content: JSON, read from a file.
      n: number of features.

    Raises:
      ValueError: see `plain_details`.
    """
    plain = plain_details(content, n)
    shown = {name: getattr(plain, name) for name in _fields(Details)[0]}
    for kind in (JointDetails, TextDetails, PatchesDetails, TrainingDetails, ComponentsDetails, TabularDetails):
        fields, required = _fields(kind)
        if required <= content.keys() <= fields.keys():
            try:
                own = {
                    name: _read_field(field, content[name], n)
                    for name, field in fields.items()
                    if name in content and name not in shown and name != "lenses"
                }
                if kind is JointDetails:
                    lenses = zip(content["lenses"], own["lens_sizes"], strict=True)
                    own["lenses"] = tuple(details_from_json(lens, size) for lens, size in lenses)
            except (TypeError, ValueError):  # a user's dictionary with the same field names
                continue
            return kind(**shown, **own)
    return plain


class _UnfitError(ValueError):
    """A value does not fit its type; the callers name the field."""


def _fields(kind: Any) -> tuple[dict[str, dataclasses.Field[Any]], set[str]]:
    """Returns the fields of a record by name, and the names of those without a default."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    return fields, {name for name, field in fields.items() if field.default is dataclasses.MISSING}


def _is_whole(given: Any) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and 0 <= given <= 2**53


def _read_field(field: dataclasses.Field[Any], given: Any, n: int) -> Any:
    """Reads one field of a record from JSON, as its type says. Raises _UnfitError."""
    found = _read(field.type, given)
    fits = found is None or field.name not in _OF_EACH_UNIT or len(found) == n
    if isinstance(found, Pictures):
        fits = len(found.units) == n and all(map(_PICTURE.fullmatch, (*itertools.chain(*found.units), *found.tests)))
    elif isinstance(found, ValueNoise):
        fits = found.seeds > 0
    elif field.name == "layers" and found is not None:  # reports sort the layers
        fits = fits and len({type(layer) for layers in found for layer in layers}) < 2
    if not fits:
        raise _UnfitError
    return found


def _read(kind: Any, given: Any) -> Any:
    """Converts a JSON value to a type: lists become tuples, objects records. Raises _UnfitError."""
    if (
        (kind in (str, bool, types.NoneType) and isinstance(given, kind))
        or (kind is int and _is_whole(given))
        or (kind is float and isinstance(given, int | float) and abs(given) < math.inf)
    ):
        return given
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        for part in parts:
            with contextlib.suppress(_UnfitError):
                return _read(part, given)
    elif origin is not None and isinstance(given, list | tuple):
        if origin is tuple and parts[-1] is not ...:
            if len(parts) == len(given):
                return tuple(map(_read, parts, given))
        else:
            return origin(_read(parts[0], one) for one in given)
    elif dataclasses.is_dataclass(kind) and isinstance(given, dict):
        fields, required = _fields(kind)
        if required <= given.keys() <= fields.keys():
            return kind(**{name: _read(fields[name].type, one) for name, one in given.items()})  # type: ignore[operator]
    raise _UnfitError
