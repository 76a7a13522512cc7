"""Reads checkpoints: their configurations, weights and architectures."""
