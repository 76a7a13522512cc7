"""The header of a store, which describes its value function."""

import dataclasses
import json
import math
from typing import Any

__all__ = ["Header"]

_FEATURES = 2**31  # also the bound of values in one ablation: more than any file could hold


def _is_count(given: Any, least: int) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and least <= given < _FEATURES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """The header of a store.

    Attributes:
      identity: names the value function; functions share it only if they are the same.
      n, outputs: the number of features, and the shape of one value.
      names: the names of the features.
      details: JSON-like information for readers of the file.
      created: time of creation, as ISO 8601.
      versions, device: see `spex_jax.utils.version.environment`.
    """

    identity: str
    n: int
    outputs: tuple[int, ...]
    names: tuple[str, ...]
    details: dict[str, Any]
    created: str
    versions: dict[str, str]
    device: str

    def to_json(self, version: int) -> bytes:
        """Returns the payload of a header's record in a format."""
        return json.dumps({"format": version, **vars(self)}, default=str).encode()

    @staticmethod
    def version_of(payload: bytes) -> int | None:
        """Returns the format of a header's record; None where it is not a header."""
        try:
            found = json.loads(payload)
        except (ValueError, RecursionError):
            return None
        return found.get("format", 1) if isinstance(found, dict) and "identity" in found else None

    @classmethod
    def from_json(cls, payload: bytes) -> "Header":
        """Reads what `to_json` wrote.

        Raises:
          ValueError: it is not a header, or it claims what no store could hold. The message is the end of a sentence
            that begins with the file.
        """
        try:
            found = json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise ValueError("has a header that is not JSON; it was not written by spex_jax") from error
        if not isinstance(found, dict):
            raise ValueError(f"has a header that is a {type(found).__name__}; it was not written by spex_jax")
        outputs, names = found.get("outputs"), found.get("names", [])
        right = {
            "identity": isinstance(found.get("identity"), str),
            "n": _is_count(found.get("n"), 1),
            "outputs": isinstance(outputs, list)
            and all(_is_count(size, 0) for size in outputs)
            and len(outputs) <= 32
            and math.prod(max(size, 1) for size in outputs) < _FEATURES,
            "names": isinstance(names, list) and all(isinstance(name, str) for name in names),
            "details": isinstance(found.get("details", {}), dict),
            "created": isinstance(found.get("created", ""), str),
            "versions": isinstance(found.get("versions", {}), dict),
            "device": isinstance(found.get("device", ""), str),
        }
        if wrong := [name for name, ok in right.items() if not ok]:
            shown = str(found.get(wrong[0]))[:60]
            raise ValueError(f"has a header whose {wrong[0]} cannot be {shown}; it was not written by spex_jax")
        return cls(
            identity=found["identity"],
            n=found["n"],
            outputs=tuple(found["outputs"]),
            names=tuple(names),
            details=found.get("details", {}),
            created=found.get("created", ""),
            versions=found.get("versions", {}),
            device=found.get("device", ""),
        )
