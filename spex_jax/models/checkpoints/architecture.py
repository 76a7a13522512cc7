"""How a class of transformers is read from a checkpoint."""

import dataclasses
from collections.abc import Callable
from typing import Any

from spex_jax.models.checkpoints.config_keys import Config, Settings, read_config
from spex_jax.models.checkpoints.parameters import Parameters
from spex_jax.models.checkpoints.weights import Checkpoint

__all__ = ["Architecture"]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How checkpoints of one class of transformers are read.

    Attributes:
      settings: the keys of its config that are read (of the language model's, where there are several).
      build: checkpoint, config, devices of the "model" axis -> our config and where the parameters are. Builders of
        encoders also take the name of the class, which decides whether a head is read.
      encoder: whether it is an encoder.
    """

    settings: Settings
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
        known = read_config(config, self.settings, name)
        count = max(known.get(key) or 0 for key in ("num_hidden_layers", "n_layer", "n_layers"))
        if count > len(checkpoint.names):  # before anything is made for each layer
            raise ValueError(
                f"config.json has {count:,} layers and the weights {len(checkpoint.names)} tensors; they do not belong "
                "together"
            )
        return self.build(checkpoint, known, model_axis, *((name,) if self.encoder else ()))
