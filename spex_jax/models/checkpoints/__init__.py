"""Reads checkpoints: configurations, weights, and the architectures they are of."""
