"""Models: the classifier that ships with the package, and models loaded from Hugging Face directories."""

from spex_jax.models.checkpoints.loading import load
from spex_jax.models.decoder import Decoder, DecoderConfig, generate
from spex_jax.models.encoder import Encoder, EncoderConfig
from spex_jax.models.tiny_classifier import TextClassifier, WordPieceTokenizer, tiny

__all__ = [
    "Decoder",
    "DecoderConfig",
    "Encoder",
    "EncoderConfig",
    "TextClassifier",
    "WordPieceTokenizer",
    "generate",
    "load",
    "tiny",
]
