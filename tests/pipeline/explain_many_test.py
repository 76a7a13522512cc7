import shutil

import numpy as np
import pytest

import spex_jax
from spex_jax import explain, explain_many

CALLS = []


def functions(count, n=6):
    for scale in range(1, count + 1):

        def fn(masks, scale=scale):
            CALLS.append((scale, len(masks)))
            return scale * masks @ np.arange(1.0, n + 1) + masks[:, 0] * masks[:, 1]

        yield spex_jax.ValueFunction(fn, n, identity=f"scale {scale}")


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


def test_each_is_explained_as_alone():
    found = explain_many(functions(3), index="SII")
    for answer, value_fn in zip(found, functions(3), strict=True):
        assert answer.interactions() == explain(value_fn, index="SII").interactions()


def test_a_second_run_reads_everything(tmp_path):
    folder = tmp_path / "deep" / "corpus"
    first = explain_many(functions(3), store=folder)
    assert len(CALLS) == 3
    again = explain_many(list(functions(4)), store=folder)
    assert [scale for scale, _ in CALLS] == [1, 2, 3, 4]
    for one, other in zip(first, again, strict=False):
        np.testing.assert_array_equal(one.spectrum.coefficients, other.spectrum.coefficients)
        assert one.timings == other.timings  # it was read, not fitted again
    third = explain_many(functions(3), store=folder, index="STII")
    assert len(CALLS) == 4
    assert third[0].interactions().index == "STII"
    assert len(list(folder.glob("*.ablations"))) == 4
    assert len(list(folder.glob("*/explanation.json"))) == 7


def test_it_continues_where_it_stopped(tmp_path):
    def broken():
        yield from functions(2)
        yield spex_jax.ValueFunction(lambda masks: masks.sum(axis=1) / 0.0, 6, identity="broken")

    with np.errstate(all="ignore"), pytest.raises(ValueError, match="not finite") as raised:
        explain_many(broken(), store=tmp_path)
    assert "at value function 2 of explain_many, 2 explained before it" in raised.value.__notes__
    CALLS.clear()
    assert len(explain_many(functions(3), store=tmp_path)) == 3
    assert [scale for scale, _ in CALLS] == [3]


def damage_of(file, damage):
    ablations = file.with_name("ablations.npz")
    if damage == "missing":
        file.unlink()
    elif damage == "torn":
        file.write_text(file.read_text()[:99])
    elif damage == "flipped":
        content = bytearray(ablations.read_bytes())
        content[len(content) // 2] ^= 1
        ablations.write_bytes(content)
    elif damage == "no archive":
        ablations.write_bytes(b"PK" + bytes(98))
    elif damage == "nested":
        file.write_text("[" * 100_000)
    elif damage == "a file":
        shutil.rmtree(file.parent)
        file.parent.write_text("x")
    elif damage == "another":
        spex_jax.explain(lambda masks: masks.sum(axis=1), 3, progress=False).save(file.parent)


@pytest.mark.parametrize("damage", ["missing", "torn", "flipped", "no archive", "nested", "a file", "another"])
def test_a_damaged_explanation_is_made_again_and_kept_aside(damage, tmp_path):
    (first,) = explain_many(functions(1), store=tmp_path)
    (file,) = tmp_path.glob("*/explanation.json")
    damage_of(file, damage)
    with pytest.warns(UserWarning, match="it is made again"):
        (again,) = explain_many(functions(1), store=tmp_path)
    np.testing.assert_array_equal(again.spectrum.coefficients, first.spectrum.coefficients)
    assert len(CALLS) == 1
    assert len(list(tmp_path.glob("*/explanation.json"))) == 1
    assert len(list(tmp_path.glob(f"*.damaged-*/{file.parent.name}"))) == 1


def test_texts(tiny, tmp_path):
    texts = ["A dull film .", "Never a dull moment !"]
    for _ in range(2):
        found = explain_many((spex_jax.lenses.text(*tiny, text) for text in texts), store=tmp_path)
        assert [answer.details.text for answer in found] == texts


def test_wrong_arguments(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        explain_many(functions(1), store=tmp_path / "file")
    with pytest.raises(ValueError, match="identity="):
        explain_many(functions(1), store=tmp_path / "f", store_key="same")
    with pytest.raises(ValueError, match="needs value functions"):
        explain_many([lambda masks: masks.sum(axis=1)])
    with pytest.raises(ValueError, match="nothing identifies"):
        explain_many([spex_jax.ValueFunction(lambda masks: masks.sum(axis=1), 4)], store=tmp_path / "f")
