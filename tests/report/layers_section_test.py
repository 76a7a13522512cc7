"""The map of a network's parts, and what acts within and across layers."""

import re

import numpy as np
import pytest
from report.html_test import NASTY, Reader

import spex_jax
from spex_jax.analysis.metrics import energy_by_group
from spex_jax.report.html import to_html

PAIRS = {(0, 4): 3.0, (1, 2): -2.0, (3, 5): 0.001}


def explained(details, n=6):
    def value_fn(masks):
        return sum(strength * masks[:, i] * masks[:, j] for (i, j), strength in PAIRS.items()) + masks[:, 0]

    names = [f"L{unit // 3}H{unit % 3}" for unit in range(n)]
    value = spex_jax.ValueFunction(value_fn, n, names=names, details=details)
    return spex_jax.explain(value, budget=2**n, progress=False)


@pytest.fixture(scope="module")
def details():
    return {
        "units": "head",
        "value": "kl",
        "prompts": 4,
        "layers": [[unit // 3] for unit in range(6)],
        "columns": [f"H{unit % 3}" for unit in range(6)],
    }


def test_a_map_with_arcs(details):
    page = to_html(explained(details))
    assert "KL divergence from the whole network over 4 prompts" in page
    cells = [a for tag, a in Reader(page).elements if tag == "span" and "sx-u" in (a.get("class") or "").split()]
    assert [cell["data-i"] for cell in cells] == list("012345")
    arcs = re.findall(r'<path d="M([\d.]+) ([\d.]+)Q[\d. ]+ ([\d.]+) ([\d.]+)" class="sx-(pos|neg)"[^>]*>', page)
    # Strongest last, so that it lies on top; the third pair is too weak to be drawn.
    assert [(float(a), float(c), sign) for a, _, c, _, sign in arcs] == [(1.5, 2.5, "neg"), (0.5, 1.5, "pos")]
    (inside, _), (upper, lower) = (sorted((float(b), float(d))) for _, b, _, d, _ in arcs)
    assert inside < 1 < lower
    assert upper < 1


def test_within_and_across(details):
    e = explained(details)
    page = to_html(e)
    section = page[page.index("Within and across layers") : page.index("Faithfulness")]
    shares = energy_by_group(e.spectrum, np.repeat([0, 1], 3))
    assert [f"{100 * shares[part]:.1f}%" in section for part in ("linear", "within", "across")] == [True] * 3
    first, second = re.findall(r"<h3>Strongest pairs (within a layer|across layers)</h3><ol><li>(.*?)</li>", section)
    assert first[0] == "within a layer"
    assert "L0H1" in first[1]
    assert "L0H2" in first[1]
    assert "L1H1" in second[1]
    # The matrix: sums of sizes by layers.
    values = {key: abs(value) for key, value in e.interactions().order(2).items()}
    across = sum(value for (i, j), value in values.items() if i // 3 != j // 3)
    numbers = [float(number) for number in re.findall(r'<td style="[^"]*">([\d.]+)</td>', section)]
    assert numbers[1] == pytest.approx(across, abs=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": [[0, 1], [0], [0], [1], [1], [1]]},  # a group in two layers
        {"columns": ["H0"] * 6},  # two units in one place
        {"layers": None},
    ],
)
def test_without_places_there_are_chips(details, changes):
    page = to_html(explained({**details, **changes}))
    assert '<div class="sx-map"' not in page
    assert "sx-chips" in page


def test_nothing_breaks_out(details):
    columns = [f"{NASTY}{unit}" for unit in range(6)]
    page = to_html(explained({**details, "columns": columns, "units": NASTY}))
    assert "alert(1)" not in "".join(Reader(page).scripts)
    assert "<script>alert" not in page


def test_energy_by_group():
    support = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]], bool)
    spectrum = spex_jax.Spectrum(support, [5.0, 1.0, 2.0, 3.0, 1.0])
    found = energy_by_group(spectrum, np.array([7, 7, 2, 2]))
    assert found == {name: pytest.approx(value / 15) for name, value in (("linear", 1), ("within", 4), ("across", 10))}
    with pytest.raises(ValueError, match="one group for each unit"):
        energy_by_group(spectrum, np.zeros(3))
    assert np.isnan(list(energy_by_group(spex_jax.Spectrum(support[:1], [5.0]), np.zeros(4)).values())).all()
