"""Takes a value apart, down to numbers, strings, arrays and byte code, and digests it."""

import builtins
import contextlib
import dataclasses
import enum
import functools
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
import numpy as np

from spex_jax.fingerprints.code import is_built_in, is_python, own_name, references
from spex_jax.fingerprints.digests import ATOMS, combined, is_number, of_array, of_atom, of_dtype
from spex_jax.fingerprints.libraries import library_of, name_in_library
from spex_jax.utils.array_cache import ArrayMemo

__all__ = ["Walk"]

_PARTIALS = (functools.partial, functools.partialmethod, jax.tree_util.Partial)
_CUSTOM = (jax.custom_jvp, jax.custom_vjp)
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)
# Attributes of a class that are not code: where it was written, and what type checkers and help read.
_NOT_OF_THE_CODE = {
    *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__"),
    *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__"),
    *("__dataclass_fields__", "__dataclass_params__", "__orig_bases__", "__parameters__", "__type_params__"),
    *("__abstractmethods__", "_abc_impl"),
}
_OF_A_WRAPPER = {  # which function it wraps (its closure holds that too) and how to call it
    *("__wrapped__", "__doc__", "__module__", "__name__", "__qualname__", "__annotations__", "__signature__"),
}
_OF_A_FLAX_MODULE = {"_parent_ref", "_id", "_state", "parent", "scope"}  # where it is used, not what it computes


_digest_once = ArrayMemo(of_array)  # a model on an accelerator is hashed once for many texts


class Walk:
    """Walks through one value function. Each method `of_...` returns the digest of its argument."""

    def __init__(self, *, by_code: bool = True) -> None:
        """Starts a walk that tells functions and classes apart by their code, or as objects."""
        self._by_code = by_code
        self._where: list[str] = []
        self._seen: dict[int, tuple[int, Any]] = {}  # functions and classes, which may refer to each other
        self._inside: set[Any] = set()
        self._static = 0  # depth within parts that JAX does not trace

    def refuse(self, what: str) -> NoReturn:
        """Raises a ValueError that names the current place."""
        place = ", ".join(reversed(self._where))
        raise ValueError(f"{place + ': ' if place else ''}{what}")

    @contextlib.contextmanager
    def _at(self, place: str, key: Any = None, *, static: bool = False) -> Iterator[None]:
        self._static += static
        if key is not None:
            if key in self._inside:
                self.refuse("it contains itself")
            self._inside.add(key)
        self._where.append(place)
        yield
        self._where.pop()
        self._static -= static
        self._inside.discard(key)

    def _first(self, thing: Any) -> bytes | None:
        """Returns None the first time; afterwards a digest of the number under which the thing was seen."""
        found = self._seen.get(id(thing))
        if found is not None:
            return combined("again", str(found[0]))
        self._seen[id(thing)] = len(self._seen), thing  # kept alive, so that its id stays its own
        return None

    def of_value(self, value: Any) -> bytes:
        """Digests any value."""
        kind = type(value)
        if kind in ATOMS:
            return of_atom(value)
        if isinstance(value, jax.Array | np.ndarray | np.generic):
            return self.of_array(value)
        for kinds, digest in _WALKS:
            if isinstance(value, kinds):
                return digest(self, value)
        if known := self._by_name(value):
            return known
        try:
            node = jax.tree_util.default_registry.flatten_one_level(value)
        except Exception as error:
            self.refuse(f"an object of the class {kind.__qualname__} cannot be flattened as a pytree ({error})")
        if node is not None and node[1] is not value:  # a wholly static node is its own static part
            with self._at(f"a {kind.__name__}", id(value)):
                children, static = node
                parts = [self.of_value(child) for child in children]
                with self._at(f"the static part of a {kind.__name__}", static=True):
                    return combined("node", self.of_class(kind), self.of_value(static), *parts)
        if dataclasses.is_dataclass(value):
            return self.of_dataclass(value)
        if kind.__module__.startswith("flax.") and isinstance(value, Mapping):  # in the static parts of nnx
            return combined("mapping", self.of_class(kind), self.of_value(dict(value)))
        if kind in (frozenset, set):
            return combined(kind.__name__, *sorted(map(self.of_member, value)))
        if isinstance(value, _CUSTOM):
            return combined("custom", self._attributes(value))
        if kind.__name__ == "_HashableCallableShim" and kind.__module__.startswith("jax."):  # in a Partial of a partial
            return self.of_value(value.fun)
        if kind is object or (library_of(kind.__module__) and not self._state(value) and is_python(kind)):
            return combined("stateless", self.of_class(kind))
        return self.refuse(
            f"an object of the class {kind.__qualname__} may hold anything; it is none of numbers, strings, arrays, "
            "functions, enums, dataclasses, registered pytrees, or tuples, lists and dictionaries of them"
        )

    def of_member(self, value: Any) -> bytes:
        """Digests a member of a set: sets have no order, so it must not refer to values seen before."""
        if type(value) is tuple:
            return combined("tuple", *map(self.of_member, value))
        if type(value) not in ATOMS:
            self.refuse(f"a set with members of the class {type(value).__qualname__}; use a tuple")
        return of_atom(value)

    def of_array(self, array: Any) -> bytes:
        """Digests an array of numbers."""
        if isinstance(array, jax.core.Tracer):
            self.refuse("an array that is traced, inside jax.jit or another transformation, has no values yet")
        if isinstance(array, jax.Array):
            if array.is_deleted():
                self.refuse("an array was deleted or donated")
            if not array.is_fully_addressable:
                self.refuse("an array is on other hosts")
            if jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key):
                return combined("key", str(jax.random.key_impl(array)), of_array(jax.random.key_data(array)))
        elif not isinstance(array, np.generic) and type(array) not in (np.ndarray, np.memmap):
            self.refuse(f"an array of the class {type(array).__qualname__}, which may hold more than its numbers")
        if not is_number(array.dtype):
            self.refuse(f"an array of dtype {array.dtype}, whose bytes are not its values")
        # Arguments of a traced function become JAX arrays in any case; static arrays stay as they were made.
        made_by = "numpy" if self._static and not isinstance(array, jax.Array) else ""
        return combined("array", made_by, _digest_once(array), "weak" if getattr(array, "weak_type", False) else "")

    def _state(self, value: Any) -> dict[str, Any]:
        """Returns all attributes of an object of a Python class."""
        found = dict(getattr(value, "__dict__", {}))
        for cls in type(value).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                mangled = f"_{cls.__name__.lstrip('_')}{name}" if name[:2] == "__" != name[-2:] else name
                if mangled not in ("__dict__", "__weakref__") and hasattr(value, mangled):
                    found[mangled] = getattr(value, mangled)
        return found

    def of_dataclass(self, value: Any) -> bytes:
        """Digests a dataclass, with whatever else was set on it."""
        cls = type(value)
        if not is_python(cls):
            self.refuse(f"a dataclass {cls.__qualname__} that is also of a class in C, whose state cannot be read")
        state = self._state(value)
        linen = sys.modules.get("flax.linen")
        if linen is not None and isinstance(value, linen.Module):
            if value.scope is not None or state.get("_parent_ref") is not None:
                self.refuse(f"the Flax module {cls.__qualname__} is bound to its variables; give the unbound one")
            state = {name: one for name, one in state.items() if name not in _OF_A_FLAX_MODULE}
        with self._at(f"a {cls.__qualname__}", id(value), static=True):
            return combined("dataclass", self.of_class(cls), self.of_named(state, "field"))

    def of_named(self, values: Any, what: str) -> bytes:
        """Digests a mapping from names, in any order."""
        parts: list[bytes | str] = []
        for name in sorted(values):
            with self._at(f"{what} {name!r}"):
                parts += [name, self.of_value(values[name])]
        return combined("named", *parts)

    def of_enum(self, member: enum.Enum) -> bytes:
        """Digests a member of an enumeration."""
        return combined("enum", self.of_class(type(member)), member.name or "", self.of_value(member.value))

    def of_dtype(self, dtype: np.dtype) -> bytes:
        """Digests a data type."""
        if not is_number(dtype):
            self.refuse(f"a data type {dtype}, whose bytes are not its values")
        return of_dtype(dtype)

    def of_structure(self, structure: Any) -> bytes:
        """Digests the structure of a pytree."""
        node = structure.node_data()
        if node is None:
            return combined("leaf" if structure.num_leaves else "nothing")
        return combined(
            "structure", self.of_class(node[0]), self.of_value(node[1]), *map(self.of_structure, structure.children())
        )

    def of_slice(self, one: Any) -> bytes:
        """Digests a slice or range."""
        return combined(type(one).__name__, *map(self.of_value, (one.start, one.stop, one.step)))

    def of_partial(self, one: functools.partial[Any]) -> bytes:
        """Digests a function with some of its arguments bound."""
        if type(one) not in _PARTIALS:
            self.refuse(f"a {type(one).__qualname__}, which may do more than functools.partial")
        with self._at(f"a {type(one).__name__}", static=True):
            function = self.of_value(one.func)
        with self._at(f"a {type(one).__name__}", static=type(one) is not jax.tree_util.Partial):
            return combined("partial", function, self.of_value(one.args), self.of_named(one.keywords, "argument"))

    def of_method(self, method: types.MethodType) -> bytes:
        """Digests a method that is bound to its object."""
        with self._at(f"the method {method.__func__.__qualname__}", static=True):
            return combined("method", self.of_value(method.__func__), self.of_value(method.__self__))

    def of_builtin(self, function: Any) -> bytes:
        """Digests a function in C: by its name where that identifies it, with the object that it is bound to."""
        owner = getattr(function, "__self__", None)
        if owner is None or isinstance(owner, types.ModuleType):
            module = function.__module__ if owner is None else owner.__name__
            if (library := library_of(module)) is None:
                self.refuse(f"the compiled function {function.__name__} of {module}, whose code cannot be read")
            return combined("builtin", library, module, function.__name__)
        return combined("bound builtin", function.__name__, self.of_value(owner))

    def of_descriptor(self, function: Any) -> bytes:
        """Digests a method of a class in C, or a slot."""
        return combined("descriptor", self.of_value(function.__objclass__), function.__name__)

    def of_ufunc(self, function: np.ufunc) -> bytes:
        """Digests a NumPy function."""
        if getattr(np, function.__name__, None) is not function:
            self.refuse(f"the ufunc {function.__name__}, which is not NumPy's own")
        return combined("ufunc", np.__version__, function.__name__)

    def of_wrapper(self, one: Any) -> bytes:
        """Digests a wrapper that does not change the values of its function, such as `jax.jit`."""
        if known := self._by_name(one):
            return known
        wrapped = one.func if isinstance(one, functools.cached_property) else one.__wrapped__
        return combined("wrapper", type(one).__name__, self.of_value(wrapped))

    def of_property(self, one: property) -> bytes:
        """Digests a property."""
        return combined("property", *map(self.of_value, (one.fget, one.fset, one.fdel)))

    def _by_name(self, one: Any) -> bytes | None:
        name = name_in_library(one)
        return None if name is None else combined("library", *name)

    def _attributes(self, one: Any) -> bytes:
        """Digests the attributes that were set on a function."""
        found = getattr(one, "__dict__", {})
        return self.of_named({name: found[name] for name in found if name not in _OF_A_WRAPPER}, "attribute")

    def of_function(self, function: types.FunctionType) -> bytes:
        """Digests a function in Python: its code, and everything that the code can reach."""
        library = library_of(function.__globals__.get("__name__"))
        if library and (known := self._by_name(function)):
            return known
        if not self._by_code:
            return combined("function", str(id(function)))
        if again := self._first(function):
            return again
        code = function.__code__
        with self._at(f"the function {function.__qualname__}", static=True):
            cells = function.__closure__ or ()
            closure: list[bytes] = []
            for name, cell in zip(code.co_freevars, cells, strict=True):
                with self._at(f"variable {name!r}"):
                    try:
                        content = cell.cell_contents
                    except ValueError:  # not yet set
                        closure.append(combined("empty"))
                    else:
                        closure.append(self.of_value(content))
            with self._at("a default"):
                defaults = (
                    self.of_value(function.__defaults__),
                    self.of_named(function.__kwdefaults__ or {}, "argument"),
                )
            return combined(
                "function",
                self.of_code(code),
                *defaults,
                combined("closure", *closure),
                self._attributes(function),
                # A library's version covers what its code refers to in its own modules.
                library if library else self.of_globals(code, function.__globals__),
            )

    def of_code(self, code: types.CodeType) -> bytes:
        """Digests byte code with its constants."""
        if again := self._first(code):
            return again
        constants = [
            self.of_code(one) if isinstance(one, types.CodeType) else self.of_value(one) for one in code.co_consts
        ]
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        return combined(
            "code", code.co_code, code.co_exceptiontable, self.of_value(names), self.of_value(counts), *constants
        )

    def of_globals(self, code: types.CodeType, known: dict[str, Any]) -> bytes:
        """Digests the globals that code refers to, also in functions inside it."""
        names, modules, attributes = references(code)
        parts: list[bytes | str] = []
        for name in sorted(names):
            with self._at(f"global {name!r}"):
                if name in known:
                    found = known[name]
                    is_module = isinstance(found, types.ModuleType)
                    parts += [name, self.of_module(found, attributes) if is_module else self.of_value(found)]
                else:
                    parts += [name, "builtin" if hasattr(builtins, name) else "missing"]
        for name in sorted(modules):
            with self._at(f"module {name!r}"):
                found = sys.modules.get(name)
                parts += [name, combined("no module") if found is None else self.of_module(found, attributes)]
        return combined("globals", *parts)

    def of_module(self, module: types.ModuleType, attributes: frozenset[str] | None = None) -> bytes:
        """Digests a module: a library's by its version, a user's own by those of its contents that code refers to."""
        name = module.__name__
        if library := library_of(name):
            return combined("module", library, name)
        if attributes is None:
            self.refuse(f"the module {name} is used as a value; refer to it by its global name")
        key = (id(module), attributes)
        if key in self._inside:
            return combined("module again")
        found = {one: module.__dict__[one] for one in attributes if one in module.__dict__}
        parts: list[bytes | str] = []
        with self._at(f"the module {name}", key):
            for one in sorted(found):
                with self._at(f"{one!r}"):
                    value = found[one]
                    inner = isinstance(value, types.ModuleType)
                    parts += [one, self.of_module(value, attributes) if inner else self.of_value(value)]
        return combined("own module", *parts)

    def of_class(self, cls: type) -> bytes:
        """Digests a class: by its name where that identifies it, else by its bases and its code."""
        if name := own_name(cls):
            return combined("own", name)
        if is_built_in(cls):
            return combined("built-in class", cls.__module__, cls.__qualname__)
        if known := self._by_name(cls):
            scalar = issubclass(cls, np.generic) or type(cls).__name__ == "_ScalarMeta"  # such as jnp.float32
            return combined("number", of_dtype(np.dtype(cls))) if scalar else known
        if not self._by_code:
            return combined("class", str(id(cls)))
        if again := self._first(cls):
            return again
        content = {
            name: value
            for name, value in cls.__dict__.items()
            if name not in _NOT_OF_THE_CODE and not isinstance(value, _DESCRIPTORS)
        }
        if issubclass(cls, enum.Enum):  # its members are hashed where they are used
            content = {
                name: value
                for name, value in content.items()
                if not isinstance(value, cls) and not name.startswith("_") and not isinstance(value, enum.property)
            }
        elif hasattr(cls, "_fields") and issubclass(cls, tuple):
            content = {name: value for name, value in content.items() if type(value).__name__ != "_tuplegetter"}
        with self._at(f"the class {cls.__qualname__}", static=True):
            bases = [self.of_class(base) for base in (*cls.__bases__, type(cls)) if base not in (object, type)]
            return combined("class", cls.__qualname__, combined("bases", *bases), self.of_named(content, "attribute"))


# The first match counts: a JAX partial is a pytree too, and a member of an enumeration may be a number.
_WALKS: tuple[tuple[Any, Callable[[Walk, Any], bytes]], ...] = (
    (enum.Enum, Walk.of_enum),
    (np.dtype, Walk.of_dtype),
    (jax.tree_util.PyTreeDef, Walk.of_structure),
    ((slice, range), Walk.of_slice),
    ((functools.partial, functools.partialmethod), Walk.of_partial),
    (types.MethodType, Walk.of_method),
    (types.FunctionType, Walk.of_function),
    ((types.BuiltinFunctionType, types.MethodWrapperType), Walk.of_builtin),
    ((types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType), Walk.of_descriptor),
    (_DESCRIPTORS, Walk.of_descriptor),
    (np.ufunc, Walk.of_ufunc),
    (property, Walk.of_property),
    ((staticmethod, classmethod, functools.cached_property), Walk.of_wrapper),
    ((type(functools.cache(len)), type(jax.jit(len))), Walk.of_wrapper),
    (type, Walk.of_class),
    (types.ModuleType, Walk.of_module),
)
