"""The known architectures, by the class that "architectures" of config.json names."""

import dataclasses
from collections.abc import Callable
from typing import Any

from spex_jax.models.checkpoints import decoder_architectures as decoders
from spex_jax.models.checkpoints import encoder_architectures as encoders
from spex_jax.models.checkpoints.config_keys import Config, read_config
from spex_jax.models.checkpoints.parameters import Parameters
from spex_jax.models.checkpoints.weights import Checkpoint

__all__ = ["ARCHITECTURES", "BARE", "Architecture"]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How checkpoints of one class of transformers are read.

    Attributes:
      model_type: the model_type of its config (of the language model's, where there are several).
      build: checkpoint, config, devices of the "model" axis -> our config and where the parameters are. Builders of
        encoders also take the name of the class, which decides whether a head is read.
      encoder: whether it is an encoder.
    """

    model_type: str
    build: Callable[..., tuple[Any, Parameters]]
    encoder: bool = False

    def parameters(self, checkpoint: Checkpoint, config: Config, name: str, model_axis: int) -> tuple[Any, Parameters]:
        """Returns our config and where the parameters are.

        Args:
          checkpoint: the tensors.
          config: the language model's settings in config.json.
          name: the name of the class.
          model_axis: the number of devices over which heads, hidden units and vocabulary are divided.

        Raises:
          ValueError: see `read_config` and the builders.
        """
        known = read_config(config, self.model_type, name)
        count = max(known.get(key) or 0 for key in ("num_hidden_layers", "n_layer", "n_layers"))
        if count > len(checkpoint.names):  # before anything is made for each layer
            raise ValueError(
                f"config.json has {count:,} layers and the weights {len(checkpoint.names)} tensors; they do not belong "
                "together"
            )
        return self.build(checkpoint, known, model_axis, *((name,) if self.encoder else ()))


_HEADS = ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")


def _encoder(family: str, model_type: str, build: Callable[..., Any], *more: str) -> dict[str, Architecture]:
    """Returns a family of encoders, bare and with each head, of which only the one that classifies texts is read."""
    names = (f"{family}Model", *(f"{family}For{head}" for head in (*_HEADS, *more)))
    return dict.fromkeys(names, Architecture(model_type, build, encoder=True))


ARCHITECTURES: dict[str, Architecture] = {
    "LlamaForCausalLM": Architecture("llama", decoders.llama),
    "MistralForCausalLM": Architecture("mistral", decoders.mistral),
    "Qwen2ForCausalLM": Architecture("qwen2", decoders.qwen2),
    "Qwen3ForCausalLM": Architecture("qwen3", decoders.qwen3),
    "GemmaForCausalLM": Architecture("gemma", decoders.gemma),
    "Gemma2ForCausalLM": Architecture("gemma2", decoders.gemma2),
    "Gemma3ForCausalLM": Architecture("gemma3_text", decoders.gemma3),
    "Gemma3ForConditionalGeneration": Architecture("gemma3_text", decoders.gemma3),
    "GPT2LMHeadModel": Architecture("gpt2", decoders.gpt2),
    **_encoder("Bert", "bert", encoders.bert, "PreTraining", "NextSentencePrediction"),
    **_encoder("Roberta", "roberta", encoders.roberta),
    **_encoder("XLMRoberta", "xlm-roberta", encoders.roberta),
    **_encoder("Camembert", "camembert", encoders.roberta),
    **_encoder("DistilBert", "distilbert", encoders.distilbert),
}
# By model_type, the encoder meant by a config.json without architectures; a language model could have any head.
BARE = {known.model_type: name for name, known in ARCHITECTURES.items() if known.encoder and name.endswith("Model")}
