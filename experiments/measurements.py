"""The page of measurements: tables made from the results, so that no number is written by hand.

  python experiments/measurements.py                                 # prints it
  python experiments/measurements.py --page=docs/measurements.md     # writes it
  python experiments/measurements.py --readme=README.md              # writes the comparison of that file

Expected: a second.
"""

import measured
import tables
from absl import flags

from spex_jax.runtime import run_program

_PAGE = flags.DEFINE_string("page", None, "The file to write. Default: none, the page is printed.")
_README = flags.DEFINE_string("readme", None, "A file whose comparison with other packages is written anew.")

MARKS = ("<!-- comparison -->", "<!-- end of comparison -->")

_OPENING = """# Measurements

Made by `experiments/measurements.py` from the JSON results under `experiments/results` and
`experiments/benchmarks/results`; do not edit this page. Everything was measured on one machine with 2 CPU cores. n is
the number of features, alpha the budget in units of n log2 n, and R² is measured on held-out masks. Times are
compared within one run only. How to measure again is in [CONTRIBUTING.md](../CONTRIBUTING.md)."""

_CLOSING = """## Elsewhere

* The papers' tables and figures, one config each, with what was published and what was not run:
  [experiments/README.md](../experiments/README.md).
* Measurements that were made once to decide something stand beside the decision: [BUILD_NOTES.md](../BUILD_NOTES.md).
* Not measured yet: everything on a GPU (`experiments/benchmarks/device.py` measures it), Llama-3 models, the published
  retrainings of CIFAR-10."""


def text() -> str:
    """Returns the page as Markdown."""
    return measured.page(_OPENING, measured.SECTIONS, _CLOSING)


def main() -> None:
    """Prints the page or writes it into a file, or writes the comparison of the README."""
    if _README.value:
        tables.write_between(_README.value, MARKS, f"\n{measured.comparison()}\n")
    else:
        tables.print_or_write(_PAGE.value, text())


if __name__ == "__main__":
    run_program(main)
