"""Makes a Hugging Face directory from a llama2.c checkpoint (https://github.com/karpathy/llama2.c), for --model=DIR.

The stories models of that project are real Llamas of 260 thousand to 110 million weights.

  python experiments/convert_llama2c.py --checkpoint=stories260K.bin --tokenizer=tok512.bin --out=stories260K
"""

import pathlib
import struct

from absl import flags
from llama2c import convert

from spex_jax.runtime import run_program

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "The .bin file of the weights.")
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "The .bin file of the tokenizer.")
_OUT = flags.DEFINE_string("out", None, "Directory to make.")


def main() -> None:
    """Reads the flags and converts."""
    given = (_CHECKPOINT.value, _TOKENIZER.value, _OUT.value)
    paths = [pathlib.Path(path).expanduser() for path in given if path is not None]
    if len(paths) < len(given):
        raise ValueError("give --checkpoint, --tokenizer and --out")
    try:
        convert(*paths)
    except (OSError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"cannot convert {paths[0]} with {paths[1]}: {error}") from error
    print(f"{paths[2]}: ready for --model={paths[2]}")


if __name__ == "__main__":
    run_program(main)
