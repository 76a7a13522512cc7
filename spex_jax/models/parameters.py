"""Which tensors of a checkpoint make a parameter, how they are shaped, and how a mesh divides them."""

from typing import Any

from spex_jax.models.decoder import DecoderConfig
from spex_jax.models.encoder import EncoderConfig
from spex_jax.models.weights import Checkpoint, Stored

__all__ = ["Parameters", "layers", "prefix_of", "table", "vector_or_matrix"]

Parameters = dict[str, Any]
_OPTIONAL = ("norm_query", "norm_key")
_BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")  # no weights, though older files hold them


def prefix_of(checkpoint: Checkpoint, ending: str) -> str:
    """What stands before a name, which differs between a bare model and one with a head."""
    found = [name.removesuffix(ending) for name in checkpoint.names if name.endswith(ending)]
    if not found:
        raise ValueError(f"the weights lack {ending}; the directory is incomplete or of another architecture")
    return min(found, key=len)


def vector_or_matrix(
    checkpoint: Checkpoint, names: tuple[str, ...], shape: tuple[int, ...], *, bias: bool, **options: Any
) -> dict[str, Stored]:
    """ "weight", and "bias" where there is one."""
    found = {"weight": Stored(tuple(f"{name}.weight" for name in names), shape, **options)}
    if bias or f"{names[0]}.bias" in checkpoint:
        split = 0 if options.get("split") == 0 else None
        part = {key: options[key] for key in ("part", "stacked") if key in options}
        found["bias"] = Stored(tuple(f"{name}.bias" for name in names), shape[:1], split=split, **part)
    return found


def layers(
    checkpoint: Checkpoint,
    names: dict[str, str],
    prefix: str,
    c: DecoderConfig | EncoderConfig,
    *,
    model_axis: int,
    bias: bool = False,
    fused: bool = False,
) -> Parameters:
    """Stacked parameters of all layers, whose tensors are called prefix + number + name.

    Attention and MLP are divided over `model_axis` devices by whole heads and hidden units: products with queries,
    keys, values, gate and up by their outputs, those with the attention's output and down by their inputs.

    Raises:
      ValueError: a layer holds tensors that the architecture does not have.
    """
    kv = getattr(c, "num_kv_heads", c.num_heads)
    width = c.head_dim if isinstance(c, DecoderConfig) else c.dim // c.num_heads
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
        if ours in _OPTIONAL and f"{tensors[0]}.weight" not in checkpoint:
            continue
        norm = ours.startswith("norm")
        divided = not norm and units.get(ours, c.hidden_dim) % model_axis == 0
        options: dict[str, Any] = {"stacked": True, "split": axis.get(ours, 0) if divided else None}
        if fused and not norm:
            order = {"query": 0, "key": 1, "value": 2}
            part = (order[ours] * c.dim, (order[ours] + 1) * c.dim) if ours in order else None
            options |= {"transposed": True, "part": part}
        found[ours] = vector_or_matrix(checkpoint, tensors, shapes.get(ours, (c.dim,)), bias=bias, **options)
    known = {name for group in found.values() for stored in group.values() for name in stored.names}
    unknown = [
        name
        for name in checkpoint.names
        if name.startswith(prefix) and name not in known and not name.endswith(_BUFFERS)
    ]
    if unknown:
        raise ValueError(
            f"the weights hold {unknown[0]}, of which the architecture knows nothing; it is a variant that models.load "
            "cannot read yet"
        )
    return found


def table(name: str, rows: int, width: int, model_axis: int) -> Stored:
    """Of embeddings or logits [rows, width], divided by rows."""
    return Stored((name,), (rows, width), split=0 if rows % model_axis == 0 else None)
