"""What files say is checked when they are loaded: forms, lengths, and numbers that must be finite."""

import contextlib
import json
import math
import os
import pathlib
import shutil
import tracemalloc

import numpy as np
import pytest
from originals import explanation_of, spectrum_of, write_all

import spex_jax
from spex_jax import Explanation, Interactions, PackedMasks, Spectrum


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    write_all(folder)
    return folder


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


EDITS = {
    "another length of names": (lambda c: c["names"].pop(), "'names' of explanation.json must be 9 strings"),
    "names of numbers": (lambda c: c["names"].__setitem__(0, 5), "'names' .* must be strings"),
    "details of another type": (lambda c: c.update(details=[1]), "'details' .* must be an object"),
    "details in a string": (lambda c: c.update(details="text"), "'details' .* must be an object"),
    "spans": (lambda c: c["details"]["spans"].pop(), r"details\['spans'\] must be 9 pairs"),
    "spans past the text": (lambda c: c["details"]["spans"].__setitem__(8, [3, 999]), "within the 26 characters"),
    "a text of numbers": (lambda c: c["details"].update(text=5), r"details\['text'\] must be a string"),
    "layers": (lambda c: c["details"].update(layers=[[0], ["<b>"]]), r"details\['layers'\] must be 9 lists"),
    "layers of two types": (lambda c: c["details"].update(layers=[[0], ["b"]] + [[1]] * 7), r"details\['layers'\]"),
    "columns": (lambda c: c["details"].update(columns=[1] * 9), r"details\['columns'\] must be 9 strings"),
    "a test point": (lambda c: c["details"].update(test_point={"a": 1}), r"details\['test_point'\]"),
    "a picture that is a page": (
        lambda c: c["details"].update(pictures={"units": [["data:text/html,x"]] * 9, "tests": []}),
        "data:image URIs",
    ),
    "a picture elsewhere": (
        lambda c: c["details"].update(pictures={"units": [["https://example.org/x.png"]] * 9, "tests": []}),
        "data:image URIs",
    ),
    "a picture that is a drawing": (
        lambda c: c["details"].update(pictures={"units": [["data:image/svg+xml;base64,AAAA"]] * 9, "tests": []}),
        "data:image URIs",
    ),
    "seed noise": (lambda c: c["details"].update(seed_noise={"deviation": "x"}), r"details\['seed_noise'\]"),
    "deep details": (lambda c: c["details"].update(own=json.loads("[" * 60 + "]" * 60)), "nested more than 32 times"),
    "more held out than asked": (lambda c: c.update(held_out=41), "'held_out' .* from 0 to 40"),
    "a negative number": (lambda c: c.update(held_out=-1), "'held_out'"),
    "a bool for a number": (lambda c: c.update(stored=True), "'stored'"),
    "an exact answer of some masks": (lambda c: c.update(exact=True), "needs all"),
    "a word for a truth": (lambda c: c.update(exact="no"), "'exact' .* must be true or false"),
    "an unknown index": (lambda c: c.update(index="<b>"), "'index' .* must be one of"),
    "an order of none": (lambda c: c.update(max_order=0), "'max_order'"),
    "times of words": (lambda c: c.update(timings={"fit": "1"}), "'fit' of the timings must be a finite number"),
    "settings without a method": (lambda c: c["settings"].pop("method"), "the settings lacks 'method'"),
    "versions": (lambda c: c["settings"].update(versions=[1]), "'versions'"),
    "R2 above 1": (lambda c: c["faithfulness"].update(r2=1.5), "R2 must be at most 1"),
    "an interval in disorder": (lambda c: c["faithfulness"].update(low=0.99), "interval in order"),
    "infinite noise": (lambda c: c.update(noise=math.inf), "'noise' .* must be a finite number"),
    "a verdict": (lambda c: c["validation"]["rows"][0].update(verdict="<b>"), "'verdict' .* must be one of"),
    "a set that is measured": (lambda c: c["validation"]["rows"][0].update(members=[0, 9]), "features from 0 to 8"),
    "an effect of nothing": (
        lambda c: c["validation"]["rows"][0].update(predicted=0),
        "must have a prediction other than 0",
    ),
    "draws": (lambda c: c["validation"].update(draws=["<b>"]), "names of draws"),
    "an unknown field": (lambda c: c.update(more=1), "'more', which is not known"),
    "a newer format": (lambda c: c.update(format=2), "newer version"),
    "a fraction of a format": (lambda c: c.update(format=1.5), "'format'"),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_an_explanation_says_is_checked(name, originals, tmp_path):
    shutil.copytree(originals / "explanation", tmp_path / "e")
    change, message = EDITS[name]
    edit(tmp_path / "e" / "explanation.json", change)
    with pytest.raises(ValueError, match=rf"e' is not a folder of Explanation.save: .*{message}"):
        Explanation.load(tmp_path / "e")


def another(arrays, name, change):
    return {**arrays, name: change(arrays[name])}


ARRAYS = {
    "values that are not finite": ("values", lambda a: np.where(np.arange(len(a)) == 3, np.nan, a), "not finite"),
    "another number of values": ("values", lambda a: a[:-1], r"'values' must be real numbers \[40\]"),
    "complex values": ("values", lambda a: a + 1j, "'values' must be real numbers .* got complex128"),
    "objects": ("values", lambda a: a.astype(object), "no plain numbers|not plain numbers"),
    "values in two columns": ("values", lambda a: a.reshape(20, 2), "'values' must be real numbers"),
    "masks of other features": ("masks", lambda a: a[:, :1], r"'masks' must be bytes \[any, 2\]"),
    "masks past the features": ("masks", lambda a: a | 1, "bits past its 9 features"),
    "masks twice": ("masks", lambda a: a[[0, *range(39)]], "must be distinct"),
    "no masks": ("masks", lambda a: a[:0], r"'values' must be real numbers \[0\]"),
    "failed masks of floats": ("failed", lambda a: a.astype(float), "'failed' must be bytes"),
    "effects": ("correction_effects", lambda a: a[:3], r"'correction_effects' must be real numbers \[9\]"),
    "errors": ("correction_errors", lambda a: a * np.inf, "'correction_errors' holds"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_the_arrays_of_an_explanation_are_checked(name, originals, tmp_path):
    shutil.copytree(originals / "explanation", tmp_path / "e")
    member_name, change, message = ARRAYS[name]
    with np.load(tmp_path / "e" / "ablations.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "e" / "ablations.npz", **another(arrays, member_name, change))
    with pytest.raises(ValueError, match=message):
        Explanation.load(tmp_path / "e")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(n=-1), "'n'"),
        (lambda c: c.update(n=9.5), "'n'"),
        (lambda c: c.update(n=True), "'n'"),
        (lambda c: c["values"].pop(), "'values' of it must be"),
        (lambda c: c["values"].__setitem__(1, math.nan), "'values' of it must be finite"),
        (lambda c: c["values"].__setitem__(1, None), "'values' of it must be"),
        (lambda c: c["values"].__setitem__(1, "1"), "'values' of it must be"),
        (lambda c: c["std_errors"].__setitem__(1, -math.inf), "'std_errors' of it must be finite"),
        (lambda c: c["members"].__setitem__(1, c["members"][2]), "is given twice"),
        (lambda c: c["members"].__setitem__(-1, [2, 0]), "must be sorted"),
        (lambda c: c["members"].__setitem__(-1, [0, 9]), "from 0 to 8"),
        (lambda c: c["members"].__setitem__(-1, [0, True]), "feature numbers"),
        (lambda c: c["members"].__setitem__(-1, [0, 10**30]), "tuples of feature numbers"),
        (lambda c: c.update(budget=1.5), "'budget'"),
    ],
)
def test_what_interactions_say_is_checked(change, message, originals, tmp_path):
    path = shutil.copy(originals / "interactions.json", tmp_path)
    edit(pathlib.Path(path), change)
    with pytest.raises(ValueError, match=message):
        Interactions.load(path)


def test_what_no_file_can_hold_is_refused_at_once():
    support = np.eye(2, dtype=np.bool_)
    for given, message in ((np.array([1j, 2]), "complex128; take the real part"), (["1", "2"], "real numbers")):
        with pytest.raises(ValueError, match=message):
            Spectrum(support, given)
    with pytest.raises(ValueError, match="real numbers"):
        Spectrum(support, np.ones(2), variances=np.ones(2, np.complex64))
    for n in (-1, 0, 1.5, True):
        with pytest.raises(ValueError, match="n must be a whole number"):
            Interactions([], [], n=n, index="SV", max_order=1)
    for members, message in (
        ([(1, 0)], "sorted"),
        ([(0, 0)], "sorted"),
        ([(0,), (0,)], "twice"),
        ([(), ()], "twice"),
        ([(2,)], "from 0 to 1"),
        ([(-1,)], "from 0 to 1"),
        ([(0.5,)], "feature numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            Interactions(members, np.ones(len(members)), n=2, index="SII", max_order=2)
    with pytest.raises(ValueError, match="complex"):
        Interactions([(0,)], [1j], n=2, index="SII", max_order=2)


def test_values_that_json_cannot_hold_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"values must be finite to be saved; that of \(0,\) is not"):
        Interactions([(0,)], [np.inf], n=2, index="SII", max_order=2).save(tmp_path / "i.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("terms", [3000, 10])
def test_large_tables_load_within_what_is_allowed(terms, tmp_path):
    n, rng = 20_000, np.random.default_rng(0)
    support = np.zeros((terms, n), np.bool_)
    support[np.arange(terms), rng.permutation(n)[:terms]] = True
    spectrum, path = Spectrum(support, rng.normal(size=terms)), tmp_path / "s.npz"
    spectrum.save(path)
    tracemalloc.start()
    loaded = Spectrum.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(loaded.support, support)
    assert peak < 10 * path.stat().st_size + 50 * 2**20
    with pytest.raises(ValueError, match="max_bytes="):
        Spectrum.load(path, max_bytes=10**5)


def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for load in (Spectrum.load, Interactions.load, lambda path: PackedMasks.open(path, 3)):
        with pytest.raises(ValueError, match="not a regular file"):
            load(tmp_path / "pipe")


def test_names_may_be_as_long_as_names_may_be(tmp_path):
    spectrum = spectrum_of()
    spectrum.save(tmp_path / ("s" * 255))
    assert len(Spectrum.load(tmp_path / ("s" * 255))) == len(spectrum)
    explanation_of({}).save(tmp_path / ("e" * 255))
    explanation_of({}).save(tmp_path / ("e" * 255))
    assert Explanation.load(tmp_path / ("e" * 255)).n == 9


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "[" * 99_999, "nested too deeply"),
        ("config.json", '{"architectures": [["BertModel"]]}', "list of names"),
        (
            "config.json",
            '{"architectures": ["BertModel"], "num_hidden_layers": 1000000000000}',
            "layers and the weights",
        ),
        ("config.json", '{"architectures": ["BertModel"], "hidden_size": ' + "9" * 400 + "}", "model that can be read"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../model.safetensors"}}', "not a file beside it"),
        ("model.safetensors.index.json", '{"weight_map": {"a": ["x"]}}', "not an index of weights"),
        ("model.safetensors", "\xff" * 99, "not a file of weights"),
        ("1_Pooling/config.json", '{"pooling_mode_cls_token": "yes"}', "'pooling_mode_cls_token'"),
        ("tokenizer.json", '{"version": "1.0", "model": {"type": "BPE", "vocab": 3}}', "directory with a tokenizer"),
    ],
)
def test_directories_of_models_are_checked(file, content, message, originals, tmp_path):
    shutil.copytree(originals / "model", tmp_path / "m")
    (tmp_path / "m" / file).write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        spex_jax.models.load(tmp_path / "m")


def test_code_in_a_directory_is_not_run(originals, tmp_path):
    folder = shutil.copytree(originals / "model", tmp_path / "m")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Own: pass\n")
    with contextlib.suppress(ValueError):
        spex_jax.models.load(folder)
    assert not (tmp_path / "ran").exists()
