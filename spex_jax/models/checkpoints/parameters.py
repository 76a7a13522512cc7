"""Which tensors of a checkpoint make a parameter, how they are shaped, and how a mesh divides them."""

from collections.abc import Collection
from typing import Any

import jax

from spex_jax.models.checkpoints.weights import Checkpoint, Stored
from spex_jax.models.decoder import DecoderConfig
from spex_jax.models.encoder import EncoderConfig

__all__ = ["Parameters", "layers", "prefix_of", "refuse_others", "table", "unused", "vector_or_matrix"]

Parameters = dict[str, Any]
# Buffers that older files hold; they are no weights.
_BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", "embeddings.position_ids", ".token_type_ids")


def prefix_of(checkpoint: Checkpoint, ending: str) -> str:
    """Returns the prefix of a name, which differs between a bare model and one with a head."""
    found = [name.removesuffix(ending) for name in checkpoint.names if name.endswith(ending)]
    if not found:
        raise ValueError(f"the weights lack {ending}; the directory is incomplete or of another architecture")
    return min(found, key=len)


def vector_or_matrix(
    names: tuple[str, ...], shape: tuple[int, ...], *, bias: bool, **options: Any
) -> dict[str, Stored]:
    """Returns the stored "weight", and the "bias" where `bias`."""
    found = {"weight": Stored(tuple(f"{name}.weight" for name in names), shape, **options)}
    if bias:
        split = 0 if options.get("split") == 0 else None
        part = {key: options[key] for key in ("part", "stacked") if key in options}
        found["bias"] = Stored(tuple(f"{name}.bias" for name in names), shape[:1], split=split, **part)
    return found


def layers(
    names: dict[str, str],
    prefix: str,
    c: DecoderConfig | EncoderConfig,
    *,
    model_axis: int,
    biases: Collection[str] = (),
    fused: bool = False,
) -> Parameters:
    """Returns the stacked parameters of all layers, whose tensors are called prefix + number + name.

    `biases` names the parameters that have a bias. Attention and MLP are divided over `model_axis` devices by whole
    heads and hidden units: the weights of queries, keys, values, gate and up by their outputs, those of the attention's
    output and down by their inputs.
    """
    kv, width = c.num_heads, c.dim // c.num_heads
    if isinstance(c, DecoderConfig):
        kv, width = c.num_kv_heads, c.head_dim
    queries, keys = c.num_heads * width, kv * width
    shapes: dict[str, tuple[int, ...]] = {
        "query": (queries, c.dim),
        "key": (keys, c.dim),
        "value": (keys, c.dim),
        "output": (c.dim, queries),
        "gate": (c.hidden_dim, c.dim),
        "up": (c.hidden_dim, c.dim),
        "down": (c.dim, c.hidden_dim),
        "norm_query": (width,),
        "norm_key": (width,),
    }
    units = {"query": c.num_heads, "key": kv, "value": kv, "output": c.num_heads}
    axis = {"output": 1, "down": 1}
    found: Parameters = {}
    for ours, theirs in names.items():
        tensors = tuple(f"{prefix}{layer}.{theirs}" for layer in range(c.num_layers))
        norm = ours.startswith("norm")
        divided = not norm and units.get(ours, c.hidden_dim) % model_axis == 0
        options: dict[str, Any] = {"stacked": True, "split": axis.get(ours, 0) if divided else None}
        if fused and not norm:
            order = {"query": 0, "key": 1, "value": 2}
            part = (order[ours] * c.dim, (order[ours] + 1) * c.dim) if ours in order else None
            options |= {"transposed": True, "part": part}
        found[ours] = vector_or_matrix(tensors, shapes.get(ours, (c.dim,)), bias=ours in biases, **options)
    return found


def unused(checkpoint: Checkpoint, parameters: Parameters, encoder: tuple[str, ...]) -> list[str]:
    """Returns the names of tensors that belong to no parameter, such as those of heads or other towers.

    Raises:
      ValueError: one of them begins with one of `encoder`, and so would change what the layers compute.
    """
    leaves = jax.tree_util.tree_leaves(parameters, is_leaf=lambda leaf: isinstance(leaf, Stored))
    used = {name for stored in leaves for name in stored.names}
    found = [name for name in checkpoint.names if name not in used and not name.endswith(_BUFFERS)]
    for name in found:
        if name.startswith(encoder):
            raise ValueError(
                f"the weights hold {name}, which the architecture does not have with this config.json; it is a "
                "variant that models.load cannot read yet, or config.json belongs to another model"
            )
    return found


def table(name: str, rows: int, width: int, model_axis: int) -> Stored:
    """Returns a table of embeddings or logits [rows, width], divided by rows."""
    return Stored((name,), (rows, width), split=0 if rows % model_axis == 0 else None)


def refuse_others(others: list[str], *towers: str) -> None:
    """Raises ValueError for tensors outside `towers`, the parts for images that are left out."""
    for name in others:
        if not any(tower in name for tower in towers):
            raise ValueError(
                f"the weights hold {name}, which the architecture does not have; it is a variant that models.load "
                "cannot read yet"
            )
