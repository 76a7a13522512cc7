"""Weights that follow from their names alone, so that golden files need not hold them."""

import zlib

import numpy as np


def random_weights(shapes):
    """Float32 weights of given names and shapes: those of norms near 1, the others of deviation .2."""
    weights = {}
    for name, shape in shapes.items():
        values = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape) * 0.2
        near_one = ("norm" in name.lower() or "ln_" in name) and name.endswith("weight")
        weights[name] = (values + near_one).astype(np.float32)
    return weights
