"""Models: the classifier that ships with the package, and models loaded from Hugging Face directories."""

from typing import TYPE_CHECKING, Any

from spex_jax.models.checkpoints.loading import load
from spex_jax.models.decoder import Decoder, DecoderConfig, generate
from spex_jax.models.encoder import Encoder, EncoderConfig

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    """Returns what is in `tiny_classifier`, which is imported when it is first used, as it imports Flax."""
    if name in ("TextClassifier", "WordPieceTokenizer", "tiny"):
        from spex_jax.models import tiny_classifier

        return getattr(tiny_classifier, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
