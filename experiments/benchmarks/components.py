"""Ablations of the parts of a network: against TransformerLens' loop, and against the plain forward pass.

All parts have the shape of GPT-2 small with random weights and 4 prompts of 64 tokens. "sweep": every head removed
alone, by this package and, where TransformerLens with its HookedTransformer (below version 4) and PyTorch are
installed, by one forward pass with a hook for each head; logit differences are compared. "random": random sets of heads
against the plain forward pass of the same prompts, in batches of the same size and with the logits of the last token
only. "late": the heads of the last three layers, with the earlier layers computed once and computed for every mask.
Times are medians over rounds in which all calls take turns, after a first call of each.

  python experiments/benchmarks/components.py
  python experiments/benchmarks/components.py --shape=toy --rounds=1 --out=results/toy.json

Expected: 12 minutes on 2 CPU cores with TransformerLens.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import random_models
from absl import flags
from turns import in_turns

from spex_jax import ValueFunction, evaluate, lenses
from spex_jax.engine.device import DeviceFunction
from spex_jax.models.decoder import Decoder
from spex_jax.runtime import run_parts, run_program

SHAPES = {"gpt2": (768, 12, 12, 50257, 64), "toy": (32, 3, 4, 97, 12)}  # width, layers, heads, vocabulary, tokens
PROMPTS = 4

_SHAPE = flags.DEFINE_enum("shape", "gpt2", list(SHAPES), "Shape of the model and its prompts.")
_PARTS = flags.DEFINE_list("parts", ["sweep", "random", "late"], "Parts to run.")
_MASKS = flags.DEFINE_integer("masks", 256, "Masks of a round of the parts random and late.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds over which the median is taken.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "results/components.json", "File for the result.")


@functools.cache
def gpt2() -> Decoder:
    """Returns a model of the chosen shape with random weights."""
    return random_models.gpt2(*SHAPES[_SHAPE.value][:4])


def prompts() -> np.ndarray:
    """Draws random tokens [PROMPTS, L]."""
    vocabulary, tokens = SHAPES[_SHAPE.value][3:]
    return np.random.default_rng(1).integers(0, vocabulary, (PROMPTS, tokens))


def lens(**options: Any) -> Any:
    """Returns the value function of the logit difference of two tokens after the prompts."""
    return lenses.components(gpt2(), prompts(), removal="zero", target=5, contrast=6, **options)


def hooked_loop() -> Callable[[], np.ndarray] | None:
    """Returns TransformerLens' loop with the same weights; None where it is not installed."""
    try:
        import torch
        from transformer_lens import HookedTransformer, HookedTransformerConfig
    except ImportError:
        return None
    model = gpt2()
    c, p = model.config, jax.tree.map(np.asarray, model.params)
    config = HookedTransformerConfig(
        n_layers=c.num_layers,
        d_model=c.dim,
        n_ctx=c.max_length,
        d_head=c.head_dim,
        n_heads=c.num_heads,
        d_mlp=c.hidden_dim,
        d_vocab=c.vocab_size,
        act_fn="gelu_new",
        normalization_type="LN",
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    theirs = HookedTransformer(config)
    state = {
        "embed.W_E": p["embedding"],
        "pos_embed.W_pos": p["positions"],
        "unembed.W_U": p["embedding"].T,
        "unembed.b_U": np.zeros(c.vocab_size, np.float32),
        "ln_final.w": p["norm"]["weight"],
        "ln_final.b": p["norm"]["bias"],
    }
    split = (c.num_heads, c.head_dim)
    for layer in range(c.num_layers):
        ours, block = jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["layers"]), f"blocks.{layer}."
        for letter, name in (("Q", "query"), ("K", "key"), ("V", "value")):
            state[f"{block}attn.W_{letter}"] = ours[name]["weight"].reshape(*split, c.dim).swapaxes(1, 2)
            state[f"{block}attn.b_{letter}"] = ours[name]["bias"].reshape(split)
        state[f"{block}attn.W_O"] = ours["output"]["weight"].T.reshape(*split, c.dim)
        state[f"{block}attn.b_O"] = ours["output"]["bias"]
        state |= {f"{block}mlp.W_in": ours["up"]["weight"].T, f"{block}mlp.b_in": ours["up"]["bias"]}
        state |= {f"{block}mlp.W_out": ours["down"]["weight"].T, f"{block}mlp.b_out": ours["down"]["bias"]}
        for number, name in ((1, "norm_attention"), (2, "norm_mlp")):
            state |= {f"{block}ln{number}.{kind[0]}": ours[name][kind] for kind in ("weight", "bias")}
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    missing = theirs.load_state_dict(tensors, strict=False).missing_keys
    assert not [name for name in missing if not name.endswith(("mask", "IGNORE"))], missing
    tokens = torch.from_numpy(prompts())

    def run() -> np.ndarray:
        found = []
        with torch.inference_mode():
            for layer in range(c.num_layers):
                for head in range(c.num_heads):

                    def remove(z: Any, hook: Any, head: int = head) -> Any:
                        z[:, :, head] = 0.0
                        return z

                    hooks = [(f"blocks.{layer}.attn.hook_z", remove)]
                    last = theirs.run_with_hooks(tokens, fwd_hooks=hooks)[:, -1]
                    found.append(float((last[:, 5] - last[:, 6]).mean()))
        return np.array(found)

    return run


def sweep() -> dict[str, Any]:
    """Measures every head removed alone."""
    value_fn, loop = lens(), hooked_loop()
    masks = ~np.eye(value_fn.n, dtype=np.bool_)
    calls: dict[str, Callable[[], Any]] = {"here": functools.partial(evaluate, value_fn, masks, progress=False)}
    if loop is not None:
        calls["TransformerLens"] = loop
    seconds = in_turns(calls, _ROUNDS.value)
    result = {"shape": _SHAPE.value, "heads": value_fn.n, "seconds": seconds}
    if loop is not None:
        result["times faster"] = seconds["TransformerLens"] / seconds["here"]
        result["largest difference"] = float(np.abs(calls["here"]() - loop()).max())
    return result


def random() -> dict[str, Any]:
    """Measures random sets of heads, and as many plain forward passes."""
    value_fn, model, tokens = lens(), gpt2(), prompts()
    masks = np.random.default_rng(2).random((_MASKS.value, value_fn.n)) < 0.5
    size = DeviceFunction(value_fn).batch_size(len(masks))
    batch = jnp.asarray(np.tile(tokens, (size, 1)), jnp.int32)
    read = jnp.full((len(batch), 1), tokens.shape[1] - 1, jnp.int32)

    @jax.jit
    def plain(model: Decoder, batch: jax.Array, read: jax.Array) -> jax.Array:
        states = model.states(batch, jnp.arange(batch.shape[1]), jnp.zeros_like(batch), read=read)
        return model.logits(states)[:, 0, 5:7]

    def forward() -> None:
        for _ in range(0, len(masks), size):
            np.asarray(plain(model, batch, read))

    seconds = in_turns(
        {"ablated": functools.partial(evaluate, value_fn, masks, progress=False), "plain": forward}, _ROUNDS.value
    )
    rates = {name: len(masks) / spent for name, spent in seconds.items()}
    return {"masks per second": rates, "batch": size, "ablated per plain": rates["ablated"] / rates["plain"]}


def late() -> dict[str, Any]:
    """Measures heads of the last three layers, with a shared trunk and without."""
    last = gpt2().config.num_layers
    value_fn = lens(layers=range(last - 3, last))
    # The same values where the trunk is just the embedded tokens: the cost of running all layers for every mask.
    every = lens()
    offset = every.n - value_fn.n

    @functools.partial(jax.tree_util.register_dataclass, data_fields=["fn"], meta_fields=["offset"])
    @dataclasses.dataclass(frozen=True)
    class FromTheStart:
        fn: Any
        offset: int

        def __call__(self, masks: jax.Array) -> jax.Array:
            whole = jnp.concatenate([jnp.ones((len(masks), self.offset), bool), masks], axis=1)
            first = jnp.zeros_like(self.fn.first)
            return dataclasses.replace(self.fn, first=first)(whole)

    anew = ValueFunction(FromTheStart(every.fn, offset), value_fn.n, on_device=True)
    masks = np.random.default_rng(3).random((_MASKS.value, value_fn.n)) < 0.5
    calls = {
        "trunk shared": functools.partial(evaluate, value_fn, masks, progress=False),
        "trunk anew": functools.partial(evaluate, anew, masks, progress=False),
    }
    difference = float(np.abs(calls["trunk shared"]() - calls["trunk anew"]()).max())
    seconds = in_turns(calls, _ROUNDS.value)
    return {
        "masks per second": {name: len(masks) / spent for name, spent in seconds.items()},
        "times faster": seconds["trunk anew"] / seconds["trunk shared"],
        "largest difference": difference,
    }


def main() -> None:
    """Runs the parts."""
    run_parts({"sweep": sweep, "random": random, "late": late}, _PARTS.value, _OUT.value)


if __name__ == "__main__":
    run_program(main)
