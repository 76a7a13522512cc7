"""Case studies: a claim about units that act together in a model, found by ablation and checked on the model itself.

Each study gives its reasoning as a numbered account: the question; what is ablated and which value is explained; the
budget and the held-out R2; the ranked interactions; their effects measured on the model; counterfactuals; and a verdict
by criteria that are stated with their numbers. OUT holds study.md, study.json, reports and the store of all ablations,
from which a stopped run continues.

  python experiments/case_studies.py --study=negation
  python experiments/case_studies.py --flagfile=experiments/configs/case_backdoor.cfg
  python experiments/case_studies.py --study=trolley --model=DIR --synonyms="trolley=tram,lever=handle"

The configs experiments/configs/case_*.cfg state what each study reproduces, how long it takes and what was measured.
"""

import os
import pathlib
import tempfile
from collections.abc import Mapping

import model_flags
from absl import flags
from studies import backdoor, biased_pair, multi_hop, negation, pruning, resnet_patches, trolley
from studies.account import Account, Setting

from spex_jax.proxyspex import PROXIES
from spex_jax.runtime import define_path, first_process, run_program, seed

STUDIES = {
    "backdoor": backdoor,
    "biased_pair": biased_pair,
    "multi_hop": multi_hop,
    "negation": negation,
    "pruning": pruning,
    "resnet_patches": resnet_patches,
    "trolley": trolley,
}

_STUDY = flags.DEFINE_enum("study", None, list(STUDIES), "The study to run.")
_DATA = define_path(
    "data",
    os.environ.get("SPEX_JAX_DATA"),
    "Folder of data sets (sst2/, cifar_resnet/, stories260K/, ...); a study states what it uses where one is missing.",
)
_BUDGET = flags.DEFINE_integer("budget", None, "Ablations per explanation. Default: the study's.", lower_bound=8)
_TEXTS = flags.DEFINE_integer(
    "texts", None, "Inputs on which a behaviour is measured. Default: the study's.", lower_bound=1
)
_EXAMPLE = flags.DEFINE_integer("example", 0, "Index of the input that is explained in full.", lower_bound=0)
_STEPS = flags.DEFINE_integer("steps", None, "Training steps. Default: the study's.", lower_bound=1)
_PLANT = flags.DEFINE_bool("plant", True, "Plant the behaviour; --noplant runs the study on a model without it.")
_PROXY = flags.DEFINE_enum("proxy", None, PROXIES, "Proxy of all fits. Default: auto, or walsh_gp for many fits.")
_SYNONYMS = flags.DEFINE_string("synonyms", None, 'For trolley: "word=other,word=other". Default: a built-in table.')
_OUT = define_path("out", None, "Folder for the account. Default: results/case_studies/STUDY.")

_OPTIONAL = {
    "texts": _TEXTS,
    "example": _EXAMPLE,
    "steps": _STEPS,
    "plant": _PLANT,
    "synonyms": _SYNONYMS,
}


def synonyms(given: str | None) -> Mapping[str, str]:
    """Parses --synonyms.

    Raises:
      ValueError: it is not a list of pairs.
    """
    pairs = [part.partition("=") for part in (given or "").split(",") if part.strip()]
    if wrong := [word for word, equals, other in pairs if not (word.strip() and equals and other.strip())]:
        raise ValueError(f"--synonyms must be word=other,word=other, got {given!r} (see {wrong[0]!r})")
    return {word.strip().lower(): other.strip() for word, _, other in pairs}


def setting_of(study: str) -> Setting:
    """Builds the study's setting from the flags.

    Raises:
      ValueError: the study does not take one of the flags, or the folder cannot be written.
    """
    takes = STUDIES[study].TAKES
    for name, flag in _OPTIONAL.items():
        if flag.value != flag.default and name not in takes:
            others = ", ".join(other for other, module in STUDIES.items() if name in module.TAKES)
            raise ValueError(f"--{name} is not for the study {study!r}; it is for {others}")
    if model_flags.given() and "model" not in takes:
        others = ", ".join(name for name, module in STUDIES.items() if "model" in module.TAKES)
        raise ValueError(f"the study {study!r} has models of its own; --model is for {others}")
    out = pathlib.Path(_OUT.value or f"results/case_studies/{study}")
    if first_process():
        try:
            (out / "store").mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=out).close()
        except OSError as error:
            raise ValueError(f"cannot write to the folder --out {str(out)!r}: {error}") from error
    return Setting(
        out=out,
        seed=seed(),
        data=pathlib.Path(_DATA.value) if _DATA.value else None,
        load_model=model_flags.load_model if model_flags.given() else None,
        budget=_BUDGET.value,
        example=_EXAMPLE.value,
        plant=_PLANT.value,
        proxy=_PROXY.value,
        steps=_STEPS.value,
        synonyms=synonyms(_SYNONYMS.value),
        texts=_TEXTS.value,
    )


def main() -> None:
    """Runs the study and writes its account."""
    if _STUDY.value is None:
        raise ValueError(f"give --study, one of {', '.join(STUDIES)}")
    setting = setting_of(_STUDY.value)
    module = STUDIES[_STUDY.value]
    account = Account(name=_STUDY.value, title=module.TITLE)
    print(account.title)
    module.run(setting, account)
    account.write(setting.out)
    print(f"\naccount: {setting.out / 'study.md'}")


if __name__ == "__main__":
    run_program(main)
