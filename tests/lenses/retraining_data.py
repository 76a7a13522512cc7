"""A small data set and network for the tests of trainings: clouds of points, a perceptron with one hidden layer."""

import jax
import jax.numpy as jnp
import numpy as np

CLASSES, WIDTH = 3, 4


def init(key):
    first, second = jax.random.split(key)
    return {
        "in": 0.7 * jax.random.normal(first, (WIDTH, 6)),
        "out": 0.7 * jax.random.normal(second, (6, CLASSES)),
        "bias": jnp.zeros(CLASSES),
    }


def apply(params, x):
    return jnp.tanh(x @ params["in"]) @ params["out"] + params["bias"]


def clouds(count, rng, spread=0.6):
    """Points [count, WIDTH] around a centre for each class, and their classes."""
    y = np.arange(count) % CLASSES
    centres = 2 * np.eye(WIDTH)[:CLASSES]
    return (centres[y] + spread * rng.normal(size=(count, WIDTH))).astype(np.float32), y.astype(np.int32)
