"""Two lenses as stages of one function of masks: a training makes a model, an ablation changes it, a prompt queries it.

In the shape descriptions, B denotes rows, S masks of a row, W columns of the masks, R seeds of a training.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.lenses.component_parts.ablated_components import AblatedComponents
from spex_jax.lenses.text_parts.ablated_text import AblatedAnswer, AblatedClass
from spex_jax.lenses.training_parts.retraining import Retraining

__all__ = ["AskedAblated", "AskedRetrained", "with_parameters", "without_arrays"]


def without_arrays(model: Any) -> Any:
    """Returns the model with a number in place of each array, for a function that fills in other arrays."""
    return jax.tree.map(lambda leaf: np.zeros((), np.float32), model)


def with_parameters(model: Any, params: Any) -> Any:
    """Returns the model with other parameters: a whole model as a pytree, or what replaces its field `params`."""
    structure: Any = jax.tree.structure(model)
    if structure == jax.tree.structure(params):
        return params
    return dataclasses.replace(model, params=params)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["asking", "changing", "of_asking", "of_changing"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class AskedAblated:
    """Maps masks bool [B, W] to values float32 [B] of an answer, where a model without some parts reads the prompt.

    Every mask needs a forward pass of its own, since the states of a prefix too depend on the removed parts.

    Attributes:
      asking: the prompt and the answer, for a `Decoder`; a row of its template holds one text.
      changing: the parts that are removed; its model has no arrays, since that of `asking` is used.
      of_asking, of_changing: int32, the columns of the masks that belong to each.
    """

    identity_name: ClassVar[str] = "spex_jax.AskedAblated"

    asking: AblatedAnswer
    changing: AblatedComponents
    of_asking: jax.Array
    of_changing: jax.Array

    def without_derived(self) -> "AskedAblated":
        """Returns a copy without the arrays that follow from the rest."""
        return dataclasses.replace(self, asking=self.asking.without_derived(), changing=self.changing.without_derived())

    def __call__(self, masks: jax.Array) -> jax.Array:
        """Returns the values; see the class."""
        changing = dataclasses.replace(self.changing, model=self.asking.model)

        def states(mask: jax.Array) -> jax.Array:
            asking = self.asking.of(changing.ablated(mask[self.of_changing]))
            return asking.states(mask[self.of_asking][None, None], jnp.ones((1, 1), jnp.bool_))[0]

        return self.asking.measured(jax.vmap(states)(masks))[:, 0]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["training", "asking", "of_training", "of_asking"],
    meta_fields=["layers"],
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class AskedRetrained:
    """Maps masks bool [B, S, W] and used bool [B, S] to values float32 [B, S, *outputs] of models trained for them.

    The masks of a row agree on the groups that are trained on, and share the trainings of the first mask.

    Attributes:
      training: gives the parameters of the model, for every seed.
      asking: measures the trained model; its own model has no arrays, and it holds nothing that follows from one. A
        row of its template holds one text.
      of_training, of_asking: int32, the columns of the masks that belong to each.
      layers: the layers that hold units, for components.
    """

    identity_name: ClassVar[str] = "spex_jax.AskedRetrained"

    training: Retraining
    asking: AblatedAnswer | AblatedClass | AblatedComponents
    of_training: jax.Array
    of_asking: jax.Array
    layers: tuple[int, ...]

    def __call__(self, masks: jax.Array, used: jax.Array) -> jax.Array:
        """Returns the values, each the mean over seeds; see the class."""
        seeds = len(self.training.keys)
        trained = self.training.trained(masks[:, 0, self.of_training])
        trained = jax.tree.map(lambda leaf: leaf.reshape(len(masks), seeds, *leaf.shape[1:]), trained)
        over_seeds = jax.vmap(self._measured, in_axes=(0, None))
        return jax.vmap(over_seeds)(trained, masks[..., self.of_asking]).mean(axis=1)

    def _measured(self, params: Any, masks: jax.Array) -> jax.Array:
        """Returns the values [S, *outputs] of one trained model."""
        model = with_parameters(self.asking.model, params)
        if isinstance(self.asking, AblatedComponents):
            return self.asking.of(model, self.layers).anew(masks)
        asking = self.asking.of(model)
        if asking.template.kind == "packed":
            return asking(masks[:, None], jnp.ones((len(masks), 1), jnp.bool_))[:, 0]
        return asking(masks)
