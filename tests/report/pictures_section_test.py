import dataclasses
import re

import numpy as np
import pytest
from lenses.retraining_data import apply, clouds, init

import spex_jax
from spex_jax.lenses import training_data
from spex_jax.lenses.training_parts import groups
from spex_jax.lenses.training_parts.pictures import to_uri

N, T = 18, 2


@pytest.fixture(scope="module")
def explanation():
    rng = np.random.default_rng(0)
    train, test = clouds(N, rng), clouds(T, rng)
    pictures = (rng.integers(0, 256, (N, 5, 4), dtype=np.uint8), rng.random((T, 5, 4, 3)))
    value_fn = training_data(
        init, apply, train, test, groups=groups.by_source([f"<g{i}>" for i in np.arange(N) % 6]), steps=20,
        pictures=pictures, seeds=2,
    )  # fmt: skip
    spex_jax.lenses.measure_seed_noise(value_fn, masks=8)
    return spex_jax.explain_many(value_fn, budget=64, progress=False)[1]


def test_groups_are_shown_as_pictures(explanation):
    page = explanation._repr_html_()
    section = page[page.index("Training examples as pictures") : page.index("Faithfulness")]
    assert "Redundant" in section or "Synergistic" in section
    assert "test point 1, class 1" in section
    assert "<g" not in section  # names are escaped
    pictures = explanation.details.pictures
    assert section.count(pictures.tests[1]) == 1
    strongest = explanation.interactions().top(1, order=1)[0][0][0]
    for uri in pictures.units[strongest]:
        assert uri in section
    assert len(pictures.units[0]) == 3


@pytest.mark.parametrize("value", ["margin", "loss"])
def test_rows_of_the_pictures_are_ordered_and_of_one_sign(value, explanation):
    details = dataclasses.replace(explanation.details, value=value)
    explanation = dataclasses.replace(explanation, details=details)
    page, good = explanation._repr_html_(), -1 if value == "loss" else 1
    for title, sign in (("Most helpful", 1), ("Most harmful", -1), ("Redundant", -1), ("Synergistic", 1)):
        block = re.search(f"<h3>{title}</h3>(.*?)(<h3>|</section>)", page, re.DOTALL)
        if block is None:
            continue
        values = [float(value) for value in re.findall(r"<b>([+-][\d.e+-]+)</b>", block[1])]
        assert values == sorted(values, key=lambda value: -abs(value))
        assert all(value * sign * good > 0 for value in values)


def test_seed_noise_and_failures_are_reported(explanation):
    for shown in (explanation._repr_html_(), str(explanation)):
        assert "Other seeds change a value by" in shown
        assert "mean of 2 trainings" in shown
        assert "no finite value" not in shown
    failed = dataclasses.replace(explanation, failed=np.ones((1, 6), bool))
    for shown in (failed._repr_html_(), str(failed)):
        assert "1 mask gave no finite value and is left out" in shown


def test_pages_without_pictures_have_no_such_section(explanation):
    details = dataclasses.replace(explanation.details, pictures=None)
    assert "Training examples as pictures" not in dataclasses.replace(explanation, details=details)._repr_html_()


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (np.zeros((3, 4, 4)), "must be a pair"),
        ((np.zeros((3, 4, 4)), np.zeros((T, 4, 4))), r"training examples must be \[18, H, W\]"),
        ((np.zeros((N, 4, 4)), np.zeros((T, 4))), r"test points must be \[2, H, W\]"),
        ((np.full((N, 4, 4), 255.0), np.zeros((T, 4, 4))), r"within \[0, 1\]"),
        ((np.zeros((N, 4, 4), int), np.zeros((T, 4, 4))), "uint8 or floats"),
    ],
)
def test_pictures_are_checked(pictures, message):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=message):
        training_data(init, apply, clouds(N, rng), clouds(T, rng), steps=1, pictures=pictures)


def test_large_pictures_are_made_smaller(rng):
    small, large = (to_uri(rng.integers(0, 256, (side, side), dtype=np.uint8)) for side in (96, 960))
    assert small.startswith("data:image/png;base64,")
    assert len(large) <= len(small)
