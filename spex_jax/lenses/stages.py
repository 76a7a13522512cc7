"""Two lenses as stages of one function of masks: a training makes a model, an ablation changes it, a prompt asks it.

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
    """A model of the same structure with a number in place of each array, for a function that replaces them."""
    return jax.tree.map(lambda leaf: np.zeros((), np.float32), model)


def with_parameters(model: Any, params: Any) -> Any:
    """A model with other parameters: the pytree of a whole model, or what stands for its `params`."""
    structure: Any = jax.tree.structure(model)
    if structure == jax.tree.structure(params):
        return params
    return dataclasses.replace(model, params=params)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["asking", "changing", "of_asking", "of_changing"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class AskedAblated:
    """Masks bool [B, W] -> values float32 [B] of an answer, where a model without some of its parts reads the prompt.

    Every mask has a forward pass of its own: what a prefix does in it, too, depends on the parts that are removed.

    Attributes:
      asking: of a `Decoder`; a row of its template holds one text.
      changing: whose model is without arrays, since it is that of `asking`; of the rest only what it removes matters.
      of_asking, of_changing: int32, the columns of the masks that are theirs.
    """

    identity_name: ClassVar[str] = "spex_jax.AskedAblated"

    asking: AblatedAnswer
    changing: AblatedComponents
    of_asking: jax.Array
    of_changing: jax.Array

    def without_derived(self) -> "AskedAblated":
        """Without what follows from the rest."""
        return dataclasses.replace(self, asking=self.asking.without_derived(), changing=self.changing.without_derived())

    def __call__(self, masks: jax.Array) -> jax.Array:
        """Values; see the class."""
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
    """Masks bool [B, S, W] and used bool [B, S] -> values float32 [B, S, *outputs] of models that are trained for it.

    The masks of a row agree in what is trained on, as the first of them says: they share its trainings.

    Attributes:
      training: whose parameters, of every seed, become those of the model.
      asking: whose model is without arrays, and which holds nothing that follows from one; a row of its template holds
        one text.
      of_training, of_asking: int32, the columns of the masks that are theirs.
      layers: of components, those that hold units.
    """

    identity_name: ClassVar[str] = "spex_jax.AskedRetrained"

    training: Retraining
    asking: AblatedAnswer | AblatedClass | AblatedComponents
    of_training: jax.Array
    of_asking: jax.Array
    layers: tuple[int, ...]

    def __call__(self, masks: jax.Array, used: jax.Array) -> jax.Array:
        """Values, each the mean over seeds; see the class."""
        seeds = len(self.training.keys)
        trained = self.training.trained(masks[:, 0, self.of_training])
        trained = jax.tree.map(lambda leaf: leaf.reshape(len(masks), seeds, *leaf.shape[1:]), trained)
        of_seeds = jax.vmap(self._asked, in_axes=(0, None))
        return jax.vmap(of_seeds)(trained, masks[..., self.of_asking]).mean(axis=1)

    def _asked(self, params: Any, masks: jax.Array) -> jax.Array:
        """Values [S, *outputs] of one trained model."""
        model = with_parameters(self.asking.model, params)
        if isinstance(self.asking, AblatedComponents):
            return self.asking.of(model, self.layers).anew(masks)
        asking = self.asking.of(model)
        if asking.template.kind == "packed":
            return asking(masks[:, None], jnp.ones((len(masks), 1), jnp.bool_))[:, 0]
        return asking(masks)
