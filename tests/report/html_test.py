"""The HTML page: nothing breaks out of its place, nothing is fetched, and the numbers are the explanation's."""

import dataclasses
import html
import json
import re
import types
from html.parser import HTMLParser

import numpy as np
import pytest
from originals import last_held_out

import spex_jax
from spex_jax.analysis.validation import Measured, Validation
from spex_jax.core.indices import INDICES
from spex_jax.engine.details import plain_details
from spex_jax.report.html import save_html, to_html
from spex_jax.report.view import counted

VOID = {"br", "hr", "img", "input", "link", "meta", "line", "rect", "circle"}
NASTY = (
    "<script>alert(1)</script> & \"quotes\" 'x' </script> <!-- --> ]]> <b>bold</b> &amp; $style \\u003c \u2028 "
    "\u05e9\u05dc\u05d5\u05dd \U0001f600\U0001f469\u200d\U0001f469\u200d\U0001f467\n\n \ttab\r\nend\rlast "
) + "W" * 200


class Reader(HTMLParser):
    """Elements with their attributes, the text of scripts, and the text inside the element of one class."""

    def __init__(self, page, wanted="sx-text"):
        super().__init__()
        self.wanted, self.elements, self.text, self.scripts = wanted, [], "", []
        self._open, self._since = [], None
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in VOID:
            return
        if self.wanted in (dict(attributes).get("class") or "").split():
            self._since = len(self._open)
        self._open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes another element"
        if self._since == len(self._open):
            self._since = None

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            self.scripts[-1] += data
        elif self._since is not None:
            self.text += data

    def of(self, name):
        return [given for _, given in self.elements if name in (given.get("class") or "").split()]

    @property
    def data(self):
        return json.loads(self.scripts[0])


def spectrum_of(n, terms):
    support = np.zeros((len(terms), n), np.bool_)
    for row, key in zip(support, terms, strict=True):
        row[list(key)] = True
    return spex_jax.Spectrum(support, np.array(list(terms.values())))


def explanation_of(spectrum, *, text=None, details=None, masks=None, r2=(0.9, 0.8, 0.95), **given):
    """An explanation without a fit: its values are those of the spectrum."""
    n = spectrum.n
    if masks is None:
        masks = np.random.default_rng(0).random((60, n)) < 0.5
        masks[0], masks[1] = True, False
    spans = [match.span() for match in re.finditer(r"\S+", text)] if text else []
    known = {"text": text, "spans": spans, "units": "word", "removal": "mask", "value": "logprob", "target": "negative"}
    content = {
        "spectrum": spectrum,
        "faithfulness": types.SimpleNamespace(r2=r2[0], low=r2[1], high=r2[2]),
        "exact": False,
        "names": tuple(text[start:end] for start, end in spans) if text else tuple(f"r{i}" for i in range(n)),
        "index": "FSII",
        "max_order": 2,
        "timings": {"compile": 1.5, "model": 0.25, "fit": 2.0},
        "settings": {"method": "proxyspex", "budget": 60, "seed": 7, "proxy": "auto", "versions": {"jax": "0.10"}},
        "details": plain_details((known if text else {}) if details is None else details, n),
    }
    ablations = last_held_out(masks, given.pop("values", spectrum(masks)), given.pop("held_out", 50))
    return spex_jax.Explanation(ablations=ablations, **{**content, **given})


def changed(explanation, **details):
    return dataclasses.replace(explanation, details=dataclasses.replace(explanation.details, **details))


SIMPLE = {(): 0.5, (0,): -0.8, (1,): 0.3, (0, 1): 0.25, (1, 2, 3): 0.125}


def simple(**given):
    return explanation_of(spectrum_of(4, SIMPLE), text="not bad the the", **given)


@pytest.mark.parametrize("page", [True, False])
def test_no_text_breaks_out_of_its_place(page):
    n = len(NASTY.split())
    nasty = explanation_of(spectrum_of(n, {(): 0.1, (0,): 1.0, (0, 2): 0.7, (n - 1,): -2.0}), text=NASTY)
    nasty = changed(nasty, target="</title><script>x</script>", units='w"><script>', removal="<img>", value="<u>")
    nasty.settings.update(proxy="</dd><script>", device="&<")
    read = Reader(to_html(nasty, page=page))
    assert [tag for tag, _ in read.elements].count("script") == 2
    assert not [tag for tag, _ in read.elements if tag in ("img", "u")]
    assert not any(name.startswith("on") for _, given in read.elements for name in given)
    assert read.text == NASTY
    assert "<" not in read.scripts[0]
    assert "&" not in read.scripts[0]
    assert read.data["names"][0] == "<script>alert(1)</script>"


def test_names_with_markup_stay_names():
    names = ("<img src=x onerror=alert(1)>", "</script>", "a & b", "")
    read = Reader(to_html(explanation_of(spectrum_of(4, SIMPLE), names=names)), wanted="sx-chips")
    assert not [tag for tag, _ in read.elements if tag == "img"]
    assert read.text == "<img src=x onerror=alert(1)></script>a & b(empty)"


def test_text_of_300_units_is_verbatim():
    text = "  " + " \n".join(f"w{i % 7}" for i in range(300)) + "\n"
    read = Reader(to_html(explanation_of(spectrum_of(300, {(): 1.0, (299,): 0.5, (0, 299): 0.25}), text=text)))
    assert read.text == text
    assert [unit["data-i"] for unit in read.of("sx-u")] == [str(i) for i in range(300)]


def test_units_that_share_a_span_keep_the_text_whole():
    details = {"text": "\U0001f600 ok", "spans": [[0, 1], [0, 1], [2, 4], [2, 3]], "units": "token", "target": 1}
    read = Reader(to_html(explanation_of(spectrum_of(4, SIMPLE), details=details)))
    assert read.text == "\U0001f600 ok"
    assert len(read.of("sx-u")) == 4


def test_nothing_is_fetched():
    page = to_html(simple())
    read = Reader(page)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"'sha256-[^']*'", "", page))
    assert not [given for _, given in read.elements if {"src", "srcset", "action"} & set(given)]
    assert [given["href"] for _, given in read.elements if "href" in given] == ["data:,"]
    assert "default-src 'none'" in page


def test_fragment_is_no_document_and_has_scoped_styles():
    fragment = to_html(simple(), page=False)
    assert not re.search(r"<(html|head|body|title|meta|link)\b|\bid=", fragment)
    rules = re.search(r"<style>(.*?)</style>", fragment, re.DOTALL).group(1)
    rules = re.sub(r"/\*.*?\*/", "", rules, flags=re.DOTALL)
    selectors = [part.strip() for part in re.findall(r"([^{};]+)\{", rules)]
    assert all(one.strip().startswith((".sx", "@")) for given in selectors for one in re.split(r",(?![^(]*\))", given))


@pytest.mark.parametrize("text", [None, "not bad the the"])
def test_embedded_terms_give_the_spectrum(text):
    e = explanation_of(spectrum_of(4, SIMPLE), text=text)
    terms = Reader(to_html(e)).data["terms"]
    masks = (np.arange(16)[:, None] >> np.arange(4) & 1).astype(np.bool_)
    predicted = [sum(c * (-1) ** mask[features].sum() for c, *features in terms) for mask in masks]
    np.testing.assert_allclose(predicted, e.spectrum(masks), atol=1e-8)


def test_embedded_terms_are_the_largest_and_the_page_shows_their_share():
    rng = np.random.default_rng(1)
    n, support = 16, (np.arange(3000)[:, None] >> np.arange(16) & 1).astype(np.bool_)
    spectrum = spex_jax.Spectrum(support, rng.normal(size=3000) ** 3)
    page = to_html(explanation_of(spectrum))
    terms = Reader(page).data["terms"]
    assert len(terms) == 2000
    kept = spectrum.truncate(2000)
    full = np.ones((1, n), np.bool_)
    assert sum(c * (-1) ** len(features) for c, *features in terms) == pytest.approx(spectrum(full)[0], abs=1e-5)
    share = kept.energy_by_degree()[1:].sum() / spectrum.energy_by_degree()[1:].sum()
    assert f"its 2,000 largest terms of 3,000, with {min(100 * share, 99.9):.1f}% of its energy" in page


def test_wide_terms_stay_below_the_size_limit():
    support = np.random.default_rng(2).random((300, 1000)) < 0.5
    read = Reader(
        to_html(explanation_of(spex_jax.Spectrum(support, np.arange(1, 301.0)), max_order=1, index="Fourier"))
    )
    assert 0 < len(read.data["terms"]) < 300
    assert len(json.dumps(read.data["terms"], separators=(",", ":"))) < 210_000


def test_rows_are_the_ranking():
    e = simple()
    read = Reader(to_html(e))
    rows = [given for tag, given in read.elements if tag == "tr" and "data-members" in given]
    ranked = e.interactions().top(20)
    assert [row["data-members"] for row in rows] == [" ".join(map(str, key)) for key, _ in ranked]
    values = Reader(to_html(e), wanted="sx-value").text
    assert all(f"{value:+.3f}" in values for _, value in ranked)
    assert "<bdi>the</bdi><sub>2</sub>" in to_html(e)
    numbered = [unit["data-i"] for unit in read.of("sx-u") if "data-d" in unit]
    assert numbered == ["2", "3"]  # "the" twice; the other names occur once


def test_each_order_has_rows_of_its_own():
    n = 40
    terms = {(): 0.0, **{(i,): 10.0 + i for i in range(n)}, **{(i, i + 1): 0.1 + i / 100 for i in range(n - 1)}}
    read = Reader(to_html(explanation_of(spectrum_of(n, terms), index="Fourier")))
    rows = [given for tag, given in read.elements if tag == "tr" and "data-members" in given]
    assert [sum(row["data-order"] == order for row in rows) for order in "12"] == [20, 20]
    assert ["data-top" in row for row in rows] == [True] * 20 + [False] * 20
    assert ["hidden" in row for row in rows] == [False] * 20 + [True] * 20


def test_standard_errors_have_a_column():
    plain = spectrum_of(4, SIMPLE)
    assert "std. error" not in to_html(explanation_of(plain))
    spectrum = spex_jax.Spectrum(plain.support, plain.coefficients, variances=np.full(5, 0.01))
    e = explanation_of(spectrum)
    (key, _), *_ = e.interactions().top(1)
    page = to_html(e)
    assert "std. error" in page
    assert f"&plusmn; {e.interactions().std_errors[key]:.2g}" in page


def test_headline_and_what_it_rests_on():
    e = simple()
    page = html.unescape(re.sub(r"<[^>]+>", "", to_html(e, page=False).split("</style>")[1]))
    for shown in (
        "Log-probability of \u201cnegative\u201d",
        "4 words",
        "removal: mask",
        f"{e.values[0]:.3f}value of the whole text",
        f"{e.values[1]:.3f}value with everything removed",
        "R2 0.900 95% interval 0.800 to 0.950",
        "50 held-out masks of 60 ablations",
        "compile 1.5 s, model 0.2 s, fit 2.0 s",
        "seed7",
        "proxy auto",
        "jax 0.10",
    ):
        assert shown in page


def test_ends_that_were_not_evaluated_are_predicted():
    masks = np.eye(4, dtype=np.bool_)
    page = to_html(simple(masks=masks))
    assert page.count("(predicted, not evaluated)") == 2


def test_exact_case():
    masks = (np.arange(16)[:, None] >> np.arange(4) & 1).astype(np.bool_)
    page = to_html(simple(masks=masks, exact=True, held_out=0, r2=(np.nan,) * 3))
    assert "16 ablations. Every mask was evaluated, so the spectrum equals the function" in page
    assert "<svg" not in page
    assert "nan" not in page.lower().split("<script")[0].split("</style>")[-1]


def test_constant_case():
    page = to_html(explanation_of(spectrum_of(4, {(): 0.3}), text="a b c d", r2=(np.nan,) * 3))
    assert "The value is 0.3000 at each of the 60 evaluated masks: no word has an effect" in page
    assert "All values are the same" in page
    assert "<table" not in page
    assert "<svg" not in page


def test_values_that_vary_without_an_effect():
    e = explanation_of(spectrum_of(4, {(): 0.3}), values=np.arange(60.0), r2=(-0.1, -0.4, 0.0))
    assert "the values vary, but the spectrum holds no effect" in to_html(e)


def test_page_without_text():
    e = explanation_of(spectrum_of(4, SIMPLE))
    read = Reader(to_html(e), wanted="sx-chips")
    assert read.text == "r0r1r2r3"
    assert "Interactions of 4 features" in to_html(e)
    assert len(Reader(to_html(explanation_of(spectrum_of(500, SIMPLE)))).of("sx-u")) == 400


@pytest.mark.parametrize("index", INDICES)
def test_every_index_is_explained(index):
    page = to_html(simple(index=index, max_order=3))
    assert html.escape(INDICES[index].meaning) in page
    assert ("raises -" in page) == (index == "Fourier")


@pytest.mark.parametrize("scale", [1e-12, 1e-5, 1.0, 1e3, 1e9])
def test_numbers_of_any_size_stay_short(scale):
    page = to_html(explanation_of(spectrum_of(4, SIMPLE) * scale))
    numbers = re.findall(r'<td class="sx-value">([^<]*)</td>', page)
    assert len(numbers) > 3
    assert all(len(number) <= 12 and float(number) for number in numbers)


def test_same_explanation_same_page():
    assert to_html(simple()) == to_html(simple())
    assert simple()._repr_html_() == to_html(simple(), page=False)


def test_save_writes_the_page(tmp_path):
    e = simple()
    e.to_html(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes().decode() == to_html(e)
    save_html(changed(e, text="not bad the \ud800he"), tmp_path / "report.html")
    with pytest.raises(ValueError, match="does not exist"):
        save_html(e, tmp_path / "missing" / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def measured(members, predicted, value, half, verdict, **given):
    content = {"members": members, "predicted": predicted, "measured": value, "low": value - half, "high": value + half}
    return Measured(**{**content, "contexts": 64, "whole": False, "verdict": verdict, **given})


def validation_of(*rows, names, **given):
    content = {"index": "FSII", "max_order": 2, "draws": ("size",), "asked": 1234, "known": 5, "noise": 0.0}
    return Validation(**{**content, "rows": rows, "names": names, **given})


def test_what_was_measured_on_the_model_has_a_section():
    e = simple()
    assert "Measured on the model" not in to_html(e)
    rows = [
        measured((0,), -0.8, -0.75, 0.1, "confirmed"),
        measured((0, 1), 0.25, -0.2, 0.1, "reversed"),
        measured((1,), 0.3, 0.01, 0.05, "absent"),
        measured((3,), 0.2, 0.1, 0.15, "undecided"),
        measured((2,), 0.2, 0.1, 0.0, "confirmed", contexts=8, whole=True),
    ]
    page = to_html(simple(validation=validation_of(*rows, names=e.names)))
    section = page.split("Measured on the model")[1].split("</section>")[0]
    plain = html.unescape(re.sub(r"<[^>]+>", "", section))
    assert "5 sets: 2 confirmed, 1 reversed, 1 absent, 1 undecided; 1,234 further ablations" in plain
    assert "the number of other words that are kept is uniform" in plain
    for shown in ("as predicted, 64 contexts", "smaller, all 8 contexts", "-0.850 to -0.650", "+0.250-0.200"):
        assert shown in plain
    read = Reader(page)
    assert [given["data-members"] for tag, given in read.elements if tag == "tr" and "data-sign" in given][-5:] == [
        "0",
        "0 1",
        "1",
        "3",
        "2",
    ]
    left = [float(given["style"].removeprefix("left:").removesuffix("%")) for tag, given in read.elements if tag == "u"]
    np.testing.assert_allclose(left, [50 + 50 * row.predicted / 0.85 for row in rows], atol=0.01)


@pytest.mark.parametrize("noun", [NASTY, "word"])
def test_names_in_what_was_measured_stay_names(noun):
    names = ("<img src=x onerror=alert(1)>", "</script>", "a & b", "")
    found = validation_of(measured((0, 1), 0.2, 0.1, 0.05, "confirmed"), names=names, index="<u>")
    e = explanation_of(spectrum_of(4, SIMPLE), names=names, validation=found, details={"units": noun})
    read = Reader(to_html(e))
    assert not [tag for tag, _ in read.elements if tag == "img"]
    assert [tag for tag, _ in read.elements].count("u") == 1
    assert "<img src=x onerror=alert(1)> + </script>" in str(e)


def test_a_validation_of_nothing_has_no_table():
    page = to_html(simple(validation=validation_of(names=("a", "b", "c", "d"))))
    section = page.split("Measured on the model")[1].split("</section>")[0]
    assert "nothing to validate: the spectrum holds no interactions" in section
    assert "<table" not in section


@pytest.mark.parametrize(
    ("number", "noun", "text"), [(1, "patch", "1 patch"), (1200, "word", "1,200 words"), (2, "patch", "2 patches")]
)
def test_counted(number, noun, text):
    assert counted(number, noun) == text
