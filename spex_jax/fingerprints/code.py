"""Reads what code refers to, and how classes are made."""

import dis
import struct
import types

__all__ = ["is_built_in", "is_python", "own_name", "references"]

_PACKAGE = "spex_jax"
_HEAP_TYPE = 1 << 9  # the flag of CPython for classes that are not built in


def is_python(cls: type) -> bool:
    """Returns whether objects of a class hold nothing but attributes: no base is a C class with fields of its own."""
    slots = sum(
        1 if isinstance(named, str) else len(tuple(named))
        for named in (base.__dict__.get("__slots__", ()) for base in cls.__mro__)
    )
    written = all(base is object or base.__flags__ & _HEAP_TYPE for base in cls.__mro__)
    pointer = struct.calcsize("P")
    return written and not cls.__itemsize__ and cls.__basicsize__ <= object.__basicsize__ + pointer * (slots + 2)


def is_built_in(cls: type) -> bool:
    """Returns whether a class is defined in C, by Python or by a library, and not by a class statement."""
    return not cls.__flags__ & _HEAP_TYPE


def references(code: types.CodeType) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Returns the names of globals, imported modules and attributes in code, also in functions inside it."""
    names, modules, attributes = set(), set(), set()
    for instruction in dis.get_instructions(code):
        name = instruction.argval
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
            names.add(name)
        elif instruction.opname == "IMPORT_NAME":
            modules.add(name)
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM"):
            attributes.add(name)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            for found, more in zip((names, modules, attributes), references(inner), strict=True):
                found |= more
    return frozenset(names), frozenset(modules), frozenset(attributes)


def own_name(cls: type) -> str | None:
    """Returns the name that a class of this package declares, which stays when the class moves to another module."""
    found = cls.__dict__.get("identity_name")
    return found if isinstance(found, str) and cls.__module__.partition(".")[0] == _PACKAGE else None
