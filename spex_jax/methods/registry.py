"""Records of options with names, and what a short form such as `proxy="linear", solver="lasso"` means."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar, get_args, get_origin

import numpy as np

__all__ = ["Named", "Registry"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named:
    """A record of options whose class has a name; every field has a default.

    Its short form is the name with the fields as keyword arguments: `"linear", solver="lasso"` for
    `Linear(solver="lasso")`.

    Attributes:
      name: the name of the class in short forms.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        """Replaces numpy numbers by plain ones, since files keep them and messages show them."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.generic):
                object.__setattr__(self, field.name, value.item())

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Returns the keyword arguments that the short form takes."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Returns the record for the keyword arguments of a short form, all of which are in `option_names`."""
        return cls(**options)

    def short_form(self) -> dict[str, Any]:
        """Returns the fields as keyword arguments of the short form, plain enough for a file.

        A record in a field is replaced by its name, followed by those of its fields that differ from their defaults.
        """
        found: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            found |= {field.name: value.name, **value.changed()} if isinstance(value, Named) else {field.name: value}
        return found

    def changed(self) -> dict[str, Any]:
        """Returns the part of the short form that differs from the defaults."""
        default = type(self)().short_form()
        return {name: value for name, value in self.short_form().items() if value != default.get(name)}

    def check_choices(self) -> None:
        """Raises ValueError where the type of a field is a `Literal` that does not list its value."""
        for field in dataclasses.fields(self):
            known = get_args(field.type) if get_origin(field.type) is Literal else ()
            if known and getattr(self, field.name) not in known:
                raise ValueError(
                    f"unknown {field.name} {getattr(self, field.name)!r}; expected one of {', '.join(known)}"
                )


R = TypeVar("R", bound=Named)


class Registry(Mapping[str, type[R]], Generic[R]):
    """The classes of one kind of record by their names, in the order in which they were registered."""

    def __init__(self, what: str, kind: type[Any]):
        """Makes an empty registry.

        Args:
          what: the keyword of the short form, such as "method".
          kind: the class that all records of this kind inherit from.
        """
        self._what, self._kind = what, kind
        self._classes: dict[str, type[R]] = {}

    def __getitem__(self, name: str) -> type[R]:
        """Returns the class of this name."""
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names."""
        return iter(self._classes)

    def __len__(self) -> int:
        """Returns the number of names."""
        return len(self._classes)

    def register(self, chosen: type[R]) -> None:
        """Adds a class under its name.

        Raises:
          ValueError: another class has this name.
        """
        if self._classes.setdefault(chosen.name, chosen) is not chosen:
            raise ValueError(
                f"{self._what} {chosen.name!r} is {self._classes[chosen.name].__qualname__} already; give "
                f"{chosen.__qualname__} another name"
            )

    def record(self, given: str | R, options: Mapping[str, Any]) -> R:
        """Returns the record for a name with keyword arguments, or the given record itself.

        Raises:
          ValueError: an unknown name or keyword argument, keyword arguments beside a record, or neither a name nor a
            record.
        """
        if isinstance(given, str) and given in self._classes:
            chosen = self._classes[given]
            if unknown := sorted(set(options) - set(known := chosen.option_names())):
                raise ValueError(f"unknown options {', '.join(unknown)}; {given} takes {', '.join(known) or 'none'}")
            return chosen.from_options(options)
        if not isinstance(given, self._kind):
            raise ValueError(
                f"unknown {self._what} {given!r}; expected one of {', '.join(self)}, or a record of "
                f"{self._kind.__module__}.{self._kind.__qualname__}"
            )
        if options:
            raise ValueError(
                f"options {', '.join(options)} were given beside the record {given!r}; set them as fields of the record"
            )
        found: R = given
        return found
