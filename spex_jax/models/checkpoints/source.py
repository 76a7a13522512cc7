"""What files say of a model before it is built."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from spex_jax.models.checkpoints.weights import Checkpoint

__all__ = ["Source"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """What a directory or a file says of a model.

    Attributes:
      architecture: the class of transformers that computes it.
      config: the config.json of that class, of the language model alone.
      checkpoint: its tensors, by the names of transformers; it is to be closed.
      tokenizer: a function that reads the tokenizer.
      pooling: how a sentence encoder pools the states of a text; None where that is not stated.
    """

    architecture: str
    config: Mapping[str, Any]
    checkpoint: Checkpoint
    tokenizer: Callable[[], Any]
    pooling: str | None = None
