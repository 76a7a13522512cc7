"""Units of a network: names such as "L5H3", and the parts of the layers that they stand for."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax.models.decoder import Decoder, DecoderConfig

__all__ = ["COMPONENT_UNITS", "ComponentUnits", "component_units"]

COMPONENT_UNITS = ("heads", "kv_groups", "mlps", "layers", "neurons")

_NOUNS = {"heads": "head", "kv_groups": "group of heads", "mlps": "MLP", "layers": "layer", "neurons": "neuron"}
_MEMBER = re.compile(r"L(\d+)(?:(H|KV|N)(\d+)(?::(\d+))?|(ATTN|MLP))?", re.ASCII)
_EXPECTED = (
    '"L5" (a layer: its attention and its MLP), "L5ATTN", "L5MLP", "L5H3" (a head), "L5KV1" (the heads of one head of '
    'keys and values), "L5N7" (a neuron of the MLP), or ranges such as "L5H0:4" and "L5N0:128"'
)

# Parts that one unit holds: (kind, layer, number or None where a layer has one), kind as `Decoder.block` edits them.
Part = tuple[str, int, int | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComponentUnits:
    """Holds n units of a network.

    Attributes:
      names: n names.
      noun: the word for a unit.
      columns: the name of each unit within its layer ("H3"), or its whole name where it has parts in several.
      parts: the parts of each unit.
      layers: sorted numbers of the layers in which units have parts.
    """

    names: tuple[str, ...]
    noun: str
    columns: tuple[str, ...]
    parts: tuple[tuple[Part, ...], ...]
    layers: tuple[int, ...]

    @property
    def n(self) -> int:
        """The number of units."""
        return len(self.names)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of parts that occur."""
        return tuple(sorted({kind for parts in self.parts for kind, _, _ in parts}))

    def table(self, kind: str, c: DecoderConfig) -> np.ndarray:
        """Returns the unit of every part of a kind, -1 where it is always kept: int32 [N, H], [N, M] or [N]."""
        sizes = {"heads": (c.num_heads,), "neurons": (c.hidden_dim,)}
        found = np.full((c.num_layers, *sizes.get(kind, ())), -1, np.int32)
        for unit, parts in enumerate(self.parts):
            for own_kind, layer, number in parts:
                if own_kind == kind:
                    found[layer if number is None else (layer, number)] = unit
        return found

    def first(self) -> np.ndarray:
        """Returns the first layer in which each unit has a part, int32 [n]."""
        return np.array([min(layer for _, layer, _ in parts) for parts in self.parts], np.int32)


def _has_mlps(model: Decoder) -> bool:
    return "up" in model.params["layers"]


def _chosen_layers(c: DecoderConfig, layers: Any) -> list[int]:
    """Returns the sorted numbers of the chosen layers.

    Raises:
      ValueError: there is none, or one is not a whole number or not in the model.
    """
    if layers is None:
        return list(range(c.num_layers))
    given = list(layers) if isinstance(layers, Iterable) and not hasattr(layers, "ndim") else np.ravel(layers).tolist()
    wrong = [layer for layer in given if isinstance(layer, bool) or not isinstance(layer, int | np.integer)]
    wrong = wrong or [layer for layer in given if not 0 <= layer < c.num_layers]
    if wrong or not given:
        raise ValueError(
            f"layers must be numbers from 0 to {c.num_layers - 1} of the model's {c.num_layers} layers, got "
            f"{wrong[0] if wrong else layers!r}"
        )
    return sorted({int(layer) for layer in given})


def _parts(model: Decoder, member: Any) -> list[Part]:
    """Returns the parts that a member such as "L5H3" stands for.

    Raises:
      ValueError: the member has another form, or the model has no such part.
    """
    c = model.config
    found = _MEMBER.fullmatch(member) if isinstance(member, str) else None
    if found is None:
        raise ValueError(f"{member!r} names no part of a network; expected {_EXPECTED}")
    layer, letters, start, stop, whole = int(found[1]), found[2], found[3], found[4], found[5]
    if layer >= c.num_layers:
        raise ValueError(f"{member!r}: the model has {c.num_layers} layers, 0 to {c.num_layers - 1}")
    if (whole == "MLP" or letters == "N") and not _has_mlps(model):
        raise ValueError(f"{member!r}: the layers of this model have attention alone, and no MLP")
    if letters is None:
        kinds = {"ATTN": ["attention"], "MLP": ["mlp"]}.get(whole or "", ["attention", "mlp"])
        return [(kind, layer, None) for kind in kinds if kind == "attention" or _has_mlps(model)]
    counts = {"H": c.num_heads, "KV": c.num_kv_heads, "N": c.hidden_dim}
    first = int(start)
    last = int(stop) if stop is not None else first + 1
    if not first < last <= counts[letters]:
        nouns = {"H": "heads", "KV": "heads of keys and values", "N": "neurons"}
        raise ValueError(
            f"{member!r}: a layer of the model has {counts[letters]} {nouns[letters]}, 0 to {counts[letters] - 1}, and "
            "a range must not be empty"
        )
    if letters == "KV":
        share = c.num_heads // c.num_kv_heads
        first, last = first * share, last * share
    return [("neurons" if letters == "N" else "heads", layer, number) for number in range(first, last)]


def _preset(model: Decoder, units: str, layers: list[int]) -> list[str]:
    """Returns the names of all units of a kind."""
    c = model.config
    if units in ("mlps", "neurons") and not _has_mlps(model):
        raise ValueError(f"units {units!r}: the layers of this model have attention alone, and no MLP")
    counts = {"heads": ("H", c.num_heads), "kv_groups": ("KV", c.num_kv_heads), "neurons": ("N", c.hidden_dim)}
    if units in counts:
        letters, count = counts[units]
        return [f"L{layer}{letters}{number}" for layer in layers for number in range(count)]
    return [f"L{layer}MLP" if units == "mlps" else f"L{layer}" for layer in layers]


def component_units(model: Any, units: Any, layers: Iterable[int] | int | None) -> ComponentUnits:
    """Returns the units of a network.

    Args:
      model: a `Decoder`.
      units: one of COMPONENT_UNITS; or groups of members such as "L5H3", as a sequence (each a member or several) or a
        mapping from names.
      layers: the layers for a kind of units; all where None.

    Raises:
      ValueError: the model is not a `Decoder` or lacks a member, the kind is unknown, layers are given for groups, a
        group is empty, a part is in two groups, or a name occurs twice.
    """
    if not isinstance(model, Decoder):
        raise ValueError(
            f"components needs a spex_jax.models.Decoder, whose layers it can reach, got {type(model).__name__}; "
            "load one by spex_jax.models.load (Llama, Mistral, Qwen, Gemma, GPT-2)"
        )
    if isinstance(units, str):
        if units not in COMPONENT_UNITS:
            raise ValueError(
                f"unknown units {units!r}; expected one of {', '.join(COMPONENT_UNITS)}, or groups of members such as "
                '["L0H1", ["L5H3", "L5MLP"]]'
            )
        members: list[tuple[str, list[Any]]] = [
            (name, [name]) for name in _preset(model, units, _chosen_layers(model.config, layers))
        ]
        noun = _NOUNS[units]
    else:
        if layers is not None:
            raise ValueError("layers= chooses among all units of a kind; your own groups name their layers")
        members, noun = _groups(units), "group"
    parts = tuple(tuple(part for member in group for part in _parts(model, member)) for _, group in members)
    _check_disjoint([name for name, _ in members], parts)
    return ComponentUnits(
        names=tuple(name for name, _ in members),
        noun=noun,
        columns=tuple(_column(name, group) for (name, _), group in zip(members, parts, strict=True)),
        parts=parts,
        layers=tuple(sorted({layer for group in parts for _, layer, _ in group})),
    )


def _groups(units: Any) -> list[tuple[str, list[Any]]]:
    """Returns the names and members of groups."""
    given: list[tuple[str, list[Any]]]
    if isinstance(units, Mapping):
        given = [(str(name), _members(group)) for name, group in units.items()]
    elif isinstance(units, Sequence | np.ndarray):
        given = [(" ".join(map(str, group)), group) for group in map(_members, units)]
    else:
        raise ValueError(f"units must be a kind of units, a sequence or a mapping of groups, got {units!r}")
    empty = [name for name, group in given if not group]
    if not given or empty:
        raise ValueError(f"each group of units must hold at least one member, got {empty[0] if empty else units!r}")
    if any(not name for name, _ in given):
        raise ValueError("a group of units needs a name that is not empty")
    names = [name for name, _ in given]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"the name {twice[0]!r} occurs twice among the groups; give each one its own")
    return given


def _members(group: Any) -> list[Any]:
    if isinstance(group, str):
        return [group]
    if not isinstance(group, Iterable):
        raise ValueError(f"a group of units must be a member or several, got {group!r}; expected {_EXPECTED}")
    return list(group)


def _column(name: str, parts: tuple[Part, ...]) -> str:
    alone = _MEMBER.fullmatch(name) is not None and len({layer for _, layer, _ in parts}) == 1
    return name.lstrip("L").lstrip("0123456789") if alone else name


def _check_disjoint(names: list[str], parts: tuple[tuple[Part, ...], ...]) -> None:
    owner: dict[Part, int] = {}
    for unit, group in enumerate(parts):
        for part in group:
            if owner.setdefault(part, unit) != unit:
                kind, layer, number = part
                where = f"{kind} {'' if number is None else f'{number} '}of layer {layer}"
                raise ValueError(
                    f"the groups {names[owner[part]]!r} and {names[unit]!r} both hold {where}; a part can belong to "
                    "one group only"
                )
