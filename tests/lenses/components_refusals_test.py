"""What the lens of components refuses, and what it says."""

import numpy as np
import pytest
from lenses.components_test import CORRUPTED, EVEN, PROMPTS, REFERENCE

from spex_jax.lenses import components

pytestmark = pytest.mark.usefixtures("quick_compilation")

BAD = [
    ({"layers": [3]}, "layers must be numbers from 0 to 2 .* got 3"),
    ({"layers": -1}, "layers must be numbers from 0 to 2 .* got -1"),
    ({"layers": []}, "layers must be numbers"),
    ({"layers": True}, "layers must be numbers"),
    ({"layers": 1.5}, "layers must be numbers"),
    ({"layers": [1.5]}, "layers must be numbers"),
    ({"units": ["L3H0"]}, "'L3H0'.*3 layers"),
    ({"units": ["L0H4"]}, "'L0H4'.*4 heads"),
    ({"units": ["L0H2:2"]}, "'L0H2:2'.*must not be empty"),
    ({"units": ["L0KV2"]}, "'L0KV2'.*2 heads of keys and values"),
    ({"units": ["L0N0:37"]}, "'L0N0:37'.*36 neurons"),
    ({"units": ["L0X1"]}, "'L0X1' names no part"),
    ({"units": [["L0H1", 3]]}, "3 names no part"),
    ({"units": [3]}, "3"),
    ({"units": {"a": 3}}, "3"),
    ({"units": 3}, "units must be"),
    ({"units": "experts"}, "unknown units 'experts'; expected one of heads"),
    ({"units": []}, "group"),
    ({"units": {"a": ["L0H1"], "b": []}}, "hold at least one member, got 'b'"),
    ({"units": {1: "L0H0", "1": "L0H1"}}, "twice"),
    ({"units": [["L0H1"], ["L0H0:2"]]}, "both hold heads 1 of layer 0"),
    ({"units": ["L0", "L0MLP"]}, "both hold mlp of layer 0"),
    ({"units": ["L0H1"], "layers": [0]}, "layers= chooses"),
    ({"removal": "average"}, "unknown removal 'average'; expected one of zero"),
    ({"removal": "zero", "reference": REFERENCE}, "are for removal 'mean'"),
    ({"removal": "zero", "mean_over": "prompts"}, "mean_over"),
    ({"removal": "mean", "mean_over": "heads"}, "unknown mean_over 'heads'"),
    ({"removal": "mean", "mean_over": "prompts"}, "of one length"),
    ({"removal": "mean", "reference": []}, "reference"),
    ({"removal": "mean", "reference": [[]]}, "reference"),
    ({"removal": "resample"}, "needs corrupted="),
    ({"removal": "zero", "corrupted": CORRUPTED}, "corrupted="),
    ({"removal": "resample", "corrupted": CORRUPTED[:2]}, "corrupted must hold a prompt of the same length"),
    ({"removal": "resample", "corrupted": CORRUPTED[::-1]}, "corrupted must hold a prompt of the same length"),
    ({"removal": "resample", "corrupted": EVEN}, "corrupted must hold a prompt of the same length"),
    ({"value": "entropy"}, "unknown value 'entropy'; expected one of"),
    ({"value": "logit_diff"}, "needs contrast"),
    ({"contrast": 4}, "contrast"),
    ({"value": "kl"}, "'kl'.* no target"),
    ({"target": 40}, "target.*40"),
    ({"target": -1}, "target"),
    ({"target": [3, 4]}, "target"),
    ({"target": 1.5}, "target"),
    ({"value": "logit_diff", "contrast": 40}, "contrast.*40"),
    ({"choices": [3, 40]}, "choices.*40"),
    ({"choices": []}, "choices"),
    ({"choices": [3]}, "at least 2 tokens"),
    ({"value": "logit_diff", "contrast": 3}, "contrast and target are both 3"),
    ({"positions": [[True] * 3, [True] * 5]}, "positions must be numbers of one shape"),
    ({"tokens": np.zeros((0, 4), int)}, "no prompts"),
    ({"tokens": {"input_ids": [[1, 2]]}}, "input_ids"),
    ({"units": {"": ["L0H0"]}}, "a name that is not empty"),
    ({"choices": [4, 5]}, "target 3 is not among the choices"),
    ({"value": "logit_diff", "choices": [3, 5], "contrast": 7}, "contrast 7 is not among the choices"),
    ({"positions": [4]}, "positions has 4, outside of a prompt of 4 tokens"),
    ({"positions": [9]}, "positions has 9, outside of a prompt"),
    ({"positions": []}, "positions is empty"),
    ({"positions": [1.0]}, "positions must be whole numbers"),
    ({"positions": np.ones((3, 7), bool)}, "positions .* outside of the prompts"),
    ({"positions": np.ones((2, 7), bool)}, "positions as bool must have the shape"),
    ({"positions": np.zeros((3, 7), bool)}, "positions is empty"),
    ({"read": 4}, "read has 4, outside of a prompt of 4 tokens"),
    ({"read": -5}, "read has -5, outside of a prompt of 4 tokens"),
    ({"read": [0, 0, 5]}, "read has 5, outside of a prompt of 5 tokens"),
    ({"read": [0, 0]}, "read"),
    ({"read": 0.5}, "read must be whole numbers"),
    ({"value": "loss", "target": None, "read": -1}, "read"),
    ({"tokens": []}, "tokens"),
    ({"tokens": [[1, 2], []]}, "tokens"),
    ({"tokens": [list(range(40)) * 2]}, "64"),
    ({"tokens": [[1, 40]]}, "tokens.*40"),
    ({"tokens": [[1.5, 2.0]]}, "tokens"),
    ({"tokens": [[1, 2], 3]}, "tokens"),
    ({"tokens": np.array(EVEN), "attention_mask": np.ones((3, 5))}, "attention_mask"),
    ({"tokens": np.array(EVEN), "attention_mask": np.zeros((3, 6))}, "attention_mask|tokens"),
    ({"tokens": [[1]], "value": "loss", "target": None}, "next"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_input_is_refused(changes, message, llama):
    given = {"tokens": PROMPTS, "removal": "zero", "value": "logit", "target": 3, **changes}
    with pytest.raises(ValueError, match=f"(?s){message}"):
        components(llama, given.pop("tokens"), **given)


@pytest.mark.parametrize("units", ["mlps", "neurons", ["L0MLP"], ["L0N1"]])
def test_models_without_mlps_have_none_to_remove(units, load):
    with pytest.raises(ValueError, match="no MLP"):
        components(load("llama3_attention"), PROMPTS, units=units, removal="zero", value="logit")


def test_other_models_are_refused(tiny):
    with pytest.raises(ValueError, match="Decoder"):
        components(tiny[0], PROMPTS, removal="zero", value="logit")
