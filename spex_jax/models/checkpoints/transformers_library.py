"""Imports transformers, of which only tokenizers are needed."""

import os
from typing import Any

__all__ = ["tokenizer_class"]

_ADVICE = "TRANSFORMERS_NO_ADVISORY_WARNINGS"  # silences that PyTorch is missing: it is not needed


def tokenizer_class(name: str) -> Any:
    """Returns a class of transformers.

    Raises:
      ImportError: transformers is not installed.
    """
    quiet = _ADVICE not in os.environ
    try:
        if quiet:
            os.environ[_ADVICE] = "1"
        import transformers

        return getattr(transformers, name)
    except ImportError as error:
        raise ImportError("models.load needs transformers for tokenizers; pip install 'spex-jax[hf]'") from error
    finally:
        if quiet:
            del os.environ[_ADVICE]
