"""Adds to config_defaults.json what the config classes of the installed transformers take for keys that are left out.

Needs transformers alone, once for each version: python tests/golden/make_config_defaults.py
"""

import inspect
import json
import pathlib

import transformers

FILE = pathlib.Path(__file__).parent / "config_defaults.json"
CLASSES = {
    "llama": "LlamaConfig",
    "mistral": "MistralConfig",
    "qwen2": "Qwen2Config",
    "qwen3": "Qwen3Config",
    "gemma": "GemmaConfig",
    "gemma2": "Gemma2Config",
    "gemma3_text": "Gemma3TextConfig",
    "gpt2": "GPT2Config",
    "bert": "BertConfig",
    "roberta": "RobertaConfig",
    "xlm-roberta": "XLMRobertaConfig",
    "camembert": "CamembertConfig",
    "distilbert": "DistilBertConfig",
}


def plain(value):
    """Whether a value can stand in config.json."""
    return value is None or isinstance(value, str | int | float | bool | list)


def defaults(kind):
    """Of the arguments of a config class, and else of what it makes without any (bases keep theirs there)."""
    made = kind().to_dict()
    given = {
        name: parameter.default
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.default is not inspect.Parameter.empty and plain(parameter.default)
    }
    described = {**{key: value for key, value in made.items() if plain(value)}, **given}
    # What configs of all kinds have (generation, labels, precision) is no part of what a model computes.
    common = set(transformers.PretrainedConfig().to_dict()) - {"tie_word_embeddings", "pad_token_id"}
    return {key: described[key] for key in sorted(described) if key not in common}


def main():
    """Writes the file."""
    document = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    document[transformers.__version__] = {
        model_type: defaults(getattr(transformers, name)) for model_type, name in CLASSES.items()
    }
    FILE.write_text(json.dumps(document, indent=0, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
