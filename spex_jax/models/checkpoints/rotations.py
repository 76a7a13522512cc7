"""Rotary positions as config.json describes them, in its older and its newer form."""

import math
from collections.abc import Mapping
from typing import Any

from spex_jax.models.blocks import Rope

__all__ = ["rope", "ropes_by_layer_type"]

_KNOWN = {
    *("rope_type", "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor"),
    *("original_max_position_embeddings", "partial_rotary_factor", "finetuned"),
}


def _number(given: Mapping[str, Any], key: str) -> float:
    value = given.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"rotary positions of config.json need {key}, a number above 0, got {value!r:.60}")
    return float(value)


def _of_both(newer: Any, older: Any, theta: float, config: Mapping[str, Any]) -> Rope:
    """Returns the rotations of "rope_parameters" (from transformers 5 on) or "rope_scaling"."""
    for given in (newer, older):
        if given is not None and not isinstance(given, Mapping):
            raise ValueError(f"rotary positions of config.json must be described by settings, got {given!r:.60}")
    found = [_one(given, theta, config) for given in (newer, older) if given]
    if len(set(found)) > 1:
        raise ValueError(
            f"config.json has rope_parameters {newer!r:.80} and rope_scaling {older!r:.80}, which differ; remove the "
            "one that does not hold"
        )
    return found[0] if found else _one({}, theta, config)


def rope(config: Mapping[str, Any], theta: float = 10_000.0) -> Rope:
    """Returns the rotations of a config with one kind; `theta` is the default of transformers."""
    base = config.get("rope_theta")
    base = theta if base is None else base
    return _of_both(config.get("rope_parameters"), config.get("rope_scaling"), base, config)


def ropes_by_layer_type(config: Mapping[str, Any]) -> tuple[Rope, Rope]:
    """Returns the rotations of full attention and those of sliding windows (Gemma 3)."""
    newer = config.get("rope_parameters")
    kinds = ("full_attention", "sliding_attention")
    if newer and not (isinstance(newer, Mapping) and set(newer) <= set(kinds)):
        raise ValueError(
            f"rope_parameters of config.json must hold {' and '.join(kinds)} for this architecture, got {newer!r:.80}"
        )
    whole, local = ((newer or {}).get(kind) for kind in kinds)
    thetas = [
        default if config.get(key) is None else config[key]
        for key, default in (("rope_theta", 1_000_000.0), ("rope_local_base_freq", 10_000.0))
    ]
    first = _of_both(whole, config.get("rope_scaling"), thetas[0], config)
    return first, _one(local or {}, thetas[1], config)


def _one(given: Mapping[str, Any], theta: float, config: Mapping[str, Any]) -> Rope:
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise ValueError(
            f"config.json asks for rotary positions of type {kind!r}; models.load knows default, linear and llama3. "
            "For prompts within the model's original context remove rope_scaling from config.json"
        )
    unknown = [key for key in given if key not in _KNOWN and given[key] is not None]
    if unknown:
        raise ValueError(
            f"rotary positions of config.json have {unknown[0]} = {given[unknown[0]]!r:.60}, which models.load does "
            f"not know for the type {kind!r}"
        )
    if given.get("partial_rotary_factor", 1) not in (1, None):
        raise ValueError(
            f"config.json has partial_rotary_factor = {given['partial_rotary_factor']!r:.60}, and models.load rotates "
            "whole heads; it is a variant that cannot be read yet"
        )
    theta = _number({"rope_theta": theta, **given}, "rope_theta")
    if kind == "default":
        return Rope(theta=theta)
    if kind == "linear":
        return Rope(theta=theta, factor=_number(given, "factor"))
    original = given.get("original_max_position_embeddings") or config["max_position_embeddings"]
    return Rope(
        theta=theta,
        factor=_number(given, "factor"),
        low_frequency=_number(given, "low_freq_factor"),
        high_frequency=_number(given, "high_freq_factor"),
        original_length=int(
            _number({"original_max_position_embeddings": original}, "original_max_position_embeddings")
        ),
    )
