"""Models that ship with the package."""

from spex_jax.models.tiny import TextClassifier, WordPieceTokenizer, tiny

__all__ = ["TextClassifier", "WordPieceTokenizer", "tiny"]
