"""The encoders that can be read: their keys of config.json, the names of their tensors, how each is built."""

import warnings
from collections.abc import Callable
from typing import Any

from spex_jax.models.checkpoints.architecture import Architecture
from spex_jax.models.checkpoints.config_keys import Config, Settings, activation
from spex_jax.models.checkpoints.parameters import Parameters, layers, prefix_of, table, unused, vector_or_matrix
from spex_jax.models.checkpoints.weights import Checkpoint, Stored
from spex_jax.models.encoder import EncoderConfig

__all__ = ["ENCODERS", "class_names"]

_BERT = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "norm_attention": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm_mlp": "output.LayerNorm",
}
_DISTILBERT = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "output": "attention.out_lin",
    "norm_attention": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "norm_mlp": "output_layer_norm",
}
_CLASSIFIER = "ForSequenceClassification"  # the head for texts; other heads are for tokens, pairs or training
_WORDS = "embeddings.word_embeddings.weight"


def class_names(config: Config) -> tuple[str, ...]:
    """Returns the class names of a classifier, in the order of its logits."""
    labels = config.get("id2label") or {}
    return tuple(str(labels[key]) for key in sorted(labels, key=int))


def _classes(config: Config) -> int:
    """Returns the number of classes; transformers assumes two where config.json gives none."""
    return len(class_names(config)) or config.get("num_labels") or config.get("_num_labels") or 2


def _linear(name: str, outputs: int, inputs: int) -> Parameters:
    return vector_or_matrix((name,), (outputs, inputs), bias=True)


def _embeddings(prefix: str, c: EncoderConfig, model_axis: int, first: int = 0) -> Parameters:
    """Returns the embeddings of words and positions; `first` is the row of the first position."""
    part = (first, first + c.max_length) if first else None
    return {
        "embedding": table(f"{prefix}word_embeddings.weight", c.vocab_size, c.dim, model_axis),
        "positions": Stored((f"{prefix}position_embeddings.weight",), (c.max_length, c.dim), part=part),
        "norm": vector_or_matrix((f"{prefix}LayerNorm",), (c.dim,), bias=True),
    }


def _name_heads(checkpoint: Checkpoint, parameters: Parameters, architecture: str, *encoder: str) -> None:
    """Warns of heads that are left out. A bare model's pooler is no head: it was trained for one that is gone."""
    heads = [name for name in unused(checkpoint, parameters, encoder) if "pooler." not in name]
    if heads:
        warnings.warn(
            f"the head of {architecture} is not used: {', '.join(heads[:3])}{', ...' if len(heads) > 3 else ''}. The "
            "encoder returns its pooled hidden states; Encoder.with_head adds a classifier",
            stacklevel=4,
        )


def _like_bert(
    checkpoint: Checkpoint, config: Config, architecture: str, model_axis: int, first: int
) -> tuple[EncoderConfig, Parameters, str]:
    """Returns the encoder of BERT and RoBERTa without a head, and the prefix of its tensor names."""
    c = EncoderConfig(
        vocab_size=config["vocab_size"],
        dim=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        hidden_dim=config["intermediate_size"],
        max_length=config["max_position_embeddings"] - first,
        norm_eps=config["layer_norm_eps"],
        activation=activation(config["hidden_act"]),
        pooling="first" if architecture.endswith(_CLASSIFIER) else "mean",
        head_activation="tanh",
    )
    prefix = prefix_of(checkpoint, _WORDS)
    parameters: Parameters = {
        **_embeddings(f"{prefix}embeddings.", c, model_axis, first),
        "types": Stored((f"{prefix}embeddings.token_type_embeddings.weight",), (config["type_vocab_size"], c.dim)),
        "layers": layers(_BERT, f"{prefix}encoder.layer.", c, model_axis=model_axis, biases=tuple(_BERT)),
    }
    return c, parameters, prefix


def bert(
    checkpoint: Checkpoint, config: Config, model_axis: int, architecture: str
) -> tuple[EncoderConfig, Parameters]:
    """Builds BERT, with the head that classifies texts."""
    c, parameters, prefix = _like_bert(checkpoint, config, architecture, model_axis, 0)
    if c.pooling == "first":
        parameters["head"] = {
            "dense": _linear(f"{prefix}pooler.dense", c.dim, c.dim),
            "classes": _linear("classifier", _classes(config), c.dim),
        }
    _name_heads(checkpoint, parameters, architecture, f"{prefix}embeddings.", f"{prefix}encoder.")
    return c, parameters


def roberta(
    checkpoint: Checkpoint, config: Config, model_axis: int, architecture: str
) -> tuple[EncoderConfig, Parameters]:
    """Builds RoBERTa: BERT with another head, and with positions counted from the one after the padding's id."""
    padding = config["pad_token_id"]
    c, parameters, prefix = _like_bert(
        checkpoint, config, architecture, model_axis, 1 if padding is None else padding + 1
    )
    if c.pooling == "first":
        parameters["head"] = {
            "dense": _linear("classifier.dense", c.dim, c.dim),
            "classes": _linear("classifier.out_proj", _classes(config), c.dim),
        }
    _name_heads(checkpoint, parameters, architecture, f"{prefix}embeddings.", f"{prefix}encoder.")
    return c, parameters


def distilbert(
    checkpoint: Checkpoint, config: Config, model_axis: int, architecture: str
) -> tuple[EncoderConfig, Parameters]:
    """Builds DistilBERT, with the head that classifies texts."""
    c = EncoderConfig(
        vocab_size=config["vocab_size"],
        dim=config["dim"],
        num_layers=config["n_layers"],
        num_heads=config["n_heads"],
        hidden_dim=config["hidden_dim"],
        max_length=config["max_position_embeddings"],
        activation=activation(config["activation"]),
        pooling="first" if architecture.endswith(_CLASSIFIER) else "mean",
        head_activation="relu",
    )
    prefix = prefix_of(checkpoint, _WORDS)
    parameters: Parameters = {
        **_embeddings(f"{prefix}embeddings.", c, model_axis),
        "layers": layers(
            _DISTILBERT, f"{prefix}transformer.layer.", c, model_axis=model_axis, biases=tuple(_DISTILBERT)
        ),
    }
    if c.pooling == "first":
        parameters["head"] = {
            "dense": _linear("pre_classifier", c.dim, c.dim),
            "classes": _linear("classifier", _classes(config), c.dim),
        }
    _name_heads(checkpoint, parameters, architecture, f"{prefix}embeddings.", f"{prefix}transformer.")
    return c, parameters


_BERT_SIZES = {
    "vocab_size": 30_522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
_DISTILBERT_SETTINGS = Settings(
    model_type="distilbert",
    defaults={
        "vocab_size": 30_522,
        "max_position_embeddings": 512,
        "dim": 768,
        "n_layers": 6,
        "n_heads": 12,
        "hidden_dim": 3072,
        "activation": "gelu",
    },
    aliases={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
)
_HEADS = ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")


def _family(name: str, settings: Settings, build: Callable[..., Any], *more: str) -> dict[str, Architecture]:
    """Returns a family of encoders: bare, and with each head, of which only the one for texts is read."""
    classes = (f"{name}Model", *(f"{name}For{head}" for head in (*_HEADS, *more)))
    return dict.fromkeys(classes, Architecture(settings, build, encoder=True))


def _like_bert_settings(model_type: str, **changed: int) -> Settings:
    return Settings(model_type=model_type, defaults={**_BERT_SIZES, **changed})


ENCODERS: dict[str, Architecture] = {
    **_family("Bert", _like_bert_settings("bert"), bert, "PreTraining", "NextSentencePrediction"),
    **_family("Roberta", _like_bert_settings("roberta", vocab_size=50_265, pad_token_id=1), roberta),
    **_family("XLMRoberta", _like_bert_settings("xlm-roberta", pad_token_id=1), roberta),
    **_family("Camembert", _like_bert_settings("camembert", pad_token_id=1), roberta),
    **_family("DistilBert", _DISTILBERT_SETTINGS, distilbert),
}
