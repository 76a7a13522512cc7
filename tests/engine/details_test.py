"""What lenses tell reports: records, their JSON, and the files of revisions that kept dictionaries."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

import spex_jax
from spex_jax.engine import details as records
from spex_jax.engine.details import PlainDetails, details_from_json, plain_details

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
# What value functions and explanations of each lens told in format 1 of explanations, before there were records.
WRITTEN = json.loads((GOLDEN / "details.json").read_text())
KINDS = {
    "text": records.TextDetails,
    "answer": records.TextDetails,
    "chat": records.TextDetails,
    "patches": records.PatchesDetails,
    "segments": records.PatchesDetails,
    "tabular": records.TabularDetails,
    "components": records.ComponentsDetails,
    "training": records.TrainingDetails,
    "joint": records.JointDetails,
    "plain": PlainDetails,
}


def flat(record):
    """The values of a record and of those in it."""
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        yield value
        for one in value if isinstance(value, tuple) else [value]:
            if dataclasses.is_dataclass(one):
                yield from flat(one)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_was_written_becomes_the_record_of_its_lens(name):
    n, of_function, of_answers = (WRITTEN[name][key] for key in ("n", "value function", "explanations"))
    kind = next(kind for start, kind in KINDS.items() if name.split()[0] == start)
    for content in (of_function, *of_answers):
        record = details_from_json(content, n)
        assert type(record) is kind
        told = {key: value for key, value in content.items() if (name, key, value) != ("joint", "contrast", None)}
        assert record.to_json() == told
        assert not any(isinstance(value, list) for value in flat(record) if kind is not PlainDetails)
        assert details_from_json(json.loads(json.dumps(record.to_json())), n) == record


@pytest.mark.parametrize("name", ["training", "training on examples", "plain outputs"])
def test_each_output_has_its_own(name):
    n, of_function, of_answers = (WRITTEN[name][key] for key in ("n", "value function", "explanations"))
    for record in (details_from_json(of_function, n), plain_details(of_function, n)):
        found = [record.of_output(output, n) for output in range(len(of_answers))]
        assert [one.to_json() for one in found] == of_answers


def test_an_explanation_saved_with_a_dictionary_is_read(tmp_path):
    e = spex_jax.Explanation.load(GOLDEN / "explanation")
    assert isinstance(e.details, records.TextDetails)
    assert (e.details.text, e.details.spans[1], e.details.target) == ("not a bad film", (4, 5), "positive")
    assert "of 'positive'" in str(e)
    e.save(tmp_path / "again")
    old, new = (
        json.loads((folder / "explanation.json").read_text()) for folder in (GOLDEN / "explanation", tmp_path / "again")
    )
    assert new == {**old, "near_full": {"masks": 0, "score": {"r2": None, "low": None, "high": None}}}


def test_a_dictionary_of_ones_own_is_kept():
    given = {"units": "feature", "target": ["x", 2], "layers": None, "own": {"a": [1]}, "spans": "of what?"}
    value_fn = spex_jax.ValueFunction(lambda masks: masks[:, 0] * 1.0, 2, details=given)
    assert value_fn.details == PlainDetails(target=["x", 2], more={k: v for k, v in given.items() if k != "target"})
    assert value_fn.details.to_json() == given
    assert spex_jax.ValueFunction(lambda masks: masks[:, 0] * 1.0, 2).details == PlainDetails()
    changed = dataclasses.replace(value_fn.details, units="word", target="y")
    assert changed.to_json() == {**given, "units": "word", "target": "y"}


@pytest.mark.parametrize(
    "content",
    [
        {"target": 1, "background": "blue"},
        {"target": 1, "contrast": None, "pixels": 9, "grid": [1, 2, 3]},
        {"seeds": 1, "examples": 9, "test_points": 1, "sizes": [3]},
        {"seeds": 1, "examples": 9, "test_points": 1, "outputs": [{"target": 1}]},
        {"lenses": [{}, {}], "lens_sizes": [2]},
        {"lenses": [{"units": 1}], "lens_sizes": [2]},
        {"lenses": 5, "lens_sizes": [2]},
    ],
)
def test_other_dictionaries_are_of_no_lens(content):
    assert details_from_json(content, 2).to_json() == content
    assert type(details_from_json(content, 2)) is PlainDetails


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "must be a dictionary with string keys"),
        ({1: 2}, "must be a dictionary with string keys"),
        ({"units": None}, r"details\['units'\] must be a string"),
        ({"text": "a b"}, r"details\['spans'\] must be 2 pairs"),
        ({"text": "a b", "spans": [[0, 1], [2, 4]]}, "within the 3 characters"),
        ({"text": "a b", "spans": [[0, 1], [2]]}, r"details\['spans'\] must be 2 pairs"),
        ({"left_out": [1]}, r"details\['left_out'\] must be a list of strings"),
        ({"columns": ["a"]}, "must be 2 strings, got .*; leave it out or fix it"),
        ({"seed_noise": {"deviation": 1.0, "share": 0.1, "seeds": 0}}, "numbers 'deviation', 'share' and 'seeds'"),
        ({"pictures": {"units": [[], []], "tests": []}, "test_point": 0}, "one of the 0 pictures"),
    ],
)
def test_dictionaries_that_reports_cannot_show_are_refused(content, message):
    with pytest.raises(ValueError, match=message):
        spex_jax.ValueFunction(lambda masks: np.ones(len(masks)), 2, details=content)
