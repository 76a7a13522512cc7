"""CIFAR ResNet-20 (He et al. 2015, https://arxiv.org/abs/1512.03385, section 4.2) from a table of its weights."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Returns the 3 x 3 convolution of x [B, H, W, C] with a kernel [out, in, 3, 3]."""
    return jax.lax.conv_general_dilated(
        x,
        jnp.transpose(kernel, (2, 3, 1, 0)),
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )


@jax.tree_util.register_pytree_node_class
class ResNet20:
    """Maps normalised images float [B, 32, 32, 3] to logits [B, 10]."""

    class_names = CLASSES

    def __init__(self, weights: dict[str, jax.Array]):
        """Takes the weights by the names of the published PyTorch model."""
        self.weights = weights

    @classmethod
    def load(cls, path: pathlib.Path) -> "ResNet20":
        """Loads the weights of an .npz file."""
        with np.load(path) as weights:
            return cls({name: jnp.asarray(weights[name]) for name in weights})

    def tree_flatten(self) -> tuple[tuple[dict[str, jax.Array]], None]:
        """Returns the weights as the only leaf."""
        return (self.weights,), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: tuple[dict[str, jax.Array]]) -> "ResNet20":
        """Inverts `tree_flatten`."""
        return cls(*leaves)

    def norm(self, x: jax.Array, name: str) -> jax.Array:
        """Normalises a batch with the statistics of the training data."""
        w = {part: self.weights[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")}
        return (x - w["running_mean"]) / jnp.sqrt(w["running_var"] + 1e-5) * w["weight"] + w["bias"]

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the logits."""
        x = jax.nn.relu(self.norm(convolve(images, self.weights["conv1.weight"]), "bn1"))
        for stage in (1, 2, 3):
            for block in range(3):
                name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
                y = jax.nn.relu(self.norm(convolve(x, self.weights[f"{name}.conv1.weight"], stride), f"{name}.bn1"))
                y = self.norm(convolve(y, self.weights[f"{name}.conv2.weight"]), f"{name}.bn2")
                more = y.shape[3] - x.shape[3]
                x = jax.nn.relu(y + jnp.pad(x[:, ::stride, ::stride], ((0, 0),) * 3 + ((more // 2, more // 2),)))
        pooled = x.mean(axis=(1, 2))
        return jnp.matmul(pooled, self.weights["linear.weight"].T, precision="highest") + self.weights["linear.bias"]
