import numpy as np
import pytest
from oracle import all_masks
from scipy.optimize import LinearConstraint
from scipy.sparse import csr_array

from spex_jax import Spectrum, optimize
from spex_jax.analysis.subset_search import select

N = 14
MASKS = all_masks(N)


@pytest.fixture
def by_integer_program(monkeypatch):
    """Few units too are left to the integer program, whose answers all masks can check."""
    monkeypatch.setattr(optimize, "_FEW", 0)


def spectrum_of(terms, n):
    return Spectrum(np.array([[i in term for i in range(n)] for term in terms]), np.array(list(terms.values())))


def random_spectrum(rng, n, terms, degree, decay=1.0):
    """Distinct random terms of degree 0 to `degree`, coefficients smaller by `decay` for each degree."""
    found = {(): rng.normal()}
    while len(found) < terms:
        size = rng.integers(1, degree + 1)
        found[tuple(sorted(rng.choice(n, size, replace=False).tolist()))] = rng.normal() * decay**size
    return spectrum_of(found, n)


def hierarchical_spectrum(rng, n, strong, pairs, triples):
    """Power laws over the ranks of singles, pairs and triples, the latter two among the strong units."""
    found = {(i,): rng.choice([-1, 1]) * (1 + i) ** -0.5 for i in range(n)}
    for size, count in ((2, pairs), (3, triples)):
        for rank in range(count):
            term = tuple(sorted(rng.choice(strong, size, replace=False).tolist()))
            found[term] = rng.choice([-1, 1]) * 0.5 ** (size - 1) * (1 + rank) ** -0.5
    return spectrum_of(found, n)


def allowed(sizes, count, exactly, kept=(), removed=()):
    """Which of MASKS may be chosen."""
    fine = sizes == count if exactly else sizes <= count
    return fine & MASKS[:, list(kept)].all(axis=1) & ~MASKS[:, list(removed)].any(axis=1)


def check_against_all(spectrum, fine, maximize, result):
    """The set is allowed and none of the allowed ones is better, nor better than the bound."""
    values = spectrum(MASKS)
    best = values[fine].max() if maximize else values[fine].min()
    assert fine[(result.mask == MASKS).all(axis=1)].all()
    assert result.value == spectrum(result.mask[None])[0]
    precision = 2e-6 * np.abs(spectrum.coefficients).max()
    assert result.bound - best >= -precision if maximize else result.bound - best <= precision
    if result.method == "exact":
        assert result.value == pytest.approx(best, abs=precision)
        assert result.gap == 0
        assert result.bound == result.value
    else:
        assert result.gap == np.inf
        assert result.bound == (np.inf if maximize else -np.inf)


@pytest.mark.parametrize("keep", [0, 3, 8])
def test_few_units_are_all_looked_at(keep, rng):
    spectrum = random_spectrum(rng, 8, 60, 8)
    masks = all_masks(8)
    best = spectrum(masks[masks.sum(axis=1) == keep]).max()
    found = select(spectrum, keep=keep)
    assert (found.value, found.gap) == (pytest.approx(best), 0)
    forced = select(spectrum, keep=max(keep, 1), always_keep=[5])
    assert forced.mask[5]
    assert forced.mask.sum() == max(keep, 1)


def test_few_units_may_have_all_their_terms(rng):
    spectrum = Spectrum(MASKS, rng.normal(size=2**N) / 2**N)
    found = select(spectrum, keep=5, time_limit=1e-9)
    check_against_all(spectrum, MASKS.sum(axis=1) == 5, True, found)


@pytest.mark.usefixtures("by_integer_program")
@pytest.mark.parametrize("degree", [1, 2, 5, 7])
@pytest.mark.parametrize("maximize", [True, False])
@pytest.mark.parametrize("exactly", [True, False])
@pytest.mark.parametrize("side", ["keep", "remove"])
def test_no_set_is_better(side, exactly, maximize, degree):
    rng = np.random.default_rng([degree, maximize, exactly, side == "keep"])
    spectrum = random_spectrum(rng, N, {1: 12, 7: 16}.get(degree, 30), degree) * rng.choice([1e-6, 1.0, 1e6])
    count = int(rng.integers(2, N - 1))
    units = rng.permutation(N)
    kept, removed = units[: rng.integers(0, 3)].tolist(), units[3 : 3 + rng.integers(0, 3)].tolist()
    sizes = MASKS.sum(axis=1) if side == "keep" else N - MASKS.sum(axis=1)
    for method in ("greedy", "beam", "exact"):
        result = select(
            spectrum,
            **{side: count},
            maximize=maximize,
            exactly=exactly,
            always_keep=kept,
            always_remove=removed,
            method=method,
        )
        check_against_all(spectrum, allowed(sizes, count, exactly, kept, removed), maximize, result)


@pytest.mark.usefixtures("by_integer_program")
@pytest.mark.parametrize("count", range(0, N + 1, 2))
def test_every_size(count, rng):
    spectrum = random_spectrum(rng, N, 40, 3, decay=0.6)
    check_against_all(spectrum, allowed(MASKS.sum(axis=1), count, True), True, select(spectrum, keep=count))


def test_a_beam_of_every_set_is_exact(rng):
    spectrum = random_spectrum(rng, N, 60, 5)
    fine = MASKS.sum(axis=1) == 6
    found = select(spectrum, keep=6, method="beam", beam_width=3003)
    assert found.value == pytest.approx(spectrum(MASKS)[fine].max(), abs=1e-9)


def test_greedy_can_be_misled():
    spectrum = spectrum_of({(0, 4, 5): 3.0, (3, 5): -2.0, (2, 3, 5): -2.0, (2, 5): 3.0}, 6)
    found = {method: select(spectrum, keep=3, method=method).value for method in ("greedy", "beam", "exact")}
    assert found == {"greedy": 6.0, "beam": 10.0, "exact": 10.0}


@pytest.mark.parametrize("method", ["exact", "greedy", "beam"])
@pytest.mark.parametrize("terms", [{}, {(): 2.5}, {(): 2.5, (1, 2): 0.0}], ids=["empty", "constant", "zero"])
def test_a_constant_spectrum(terms, method):
    spectrum = spectrum_of(terms, 6) if terms else Spectrum(np.zeros((0, 6), bool), np.zeros(0))
    result = select(spectrum, remove=2, method=method, always_keep=[5])
    assert result.mask.sum() == 4
    assert result.mask[5]
    assert result.value == terms.get((), 0.0)
    assert result.gap == (0 if method == "exact" else np.inf)


@pytest.mark.parametrize("count", [0, 6])
@pytest.mark.parametrize("method", ["exact", "greedy", "beam"])
def test_nothing_to_choose(count, method, rng):
    result = select(random_spectrum(rng, 6, 20, 3), keep=count, method=method)
    assert result.mask.tolist() == [count == 6] * 6


@pytest.mark.parametrize("few", [0, N])
@pytest.mark.parametrize("sparse", [False, True])
def test_further_constraints(sparse, few, rng, monkeypatch):
    monkeypatch.setattr(optimize, "_FEW", few)
    spectrum = random_spectrum(rng, N, 40, 3)
    layers = np.arange(N) // 5 == np.arange(3)[:, None]  # at most two kept in each, at least one in the last
    matrix = csr_array(layers.astype(float)) if sparse else layers
    result = select(spectrum, keep=5, constraints=LinearConstraint(matrix, [0, 0, 1], 2))
    sums = MASKS @ layers.T.astype(int)
    fine = (MASKS.sum(axis=1) == 5) & (sums <= 2).all(axis=1) & (sums[:, 2] >= 1)
    check_against_all(spectrum, fine, True, result)


@pytest.mark.parametrize("few", [0, N])
def test_constraints_that_no_set_meets(few, rng, monkeypatch):
    monkeypatch.setattr(optimize, "_FEW", few)
    spectrum = random_spectrum(rng, N, 20, 3)
    with pytest.raises(ValueError, match="no set of the given size meets the constraints"):
        select(spectrum, keep=5, constraints=[LinearConstraint(np.ones((1, N)), 6, 7)])
    with pytest.raises(ValueError, match="no set of the given size"):  # only halves of units would do
        select(spectrum, keep=1, constraints=[LinearConstraint(np.eye(N)[:1] - np.eye(N)[1:], 0, 0)])


def test_a_large_spectrum_is_proven():
    spectrum = hierarchical_spectrum(np.random.default_rng(0), 200, 30, 120, 60)
    found = {method: select(spectrum, remove=66, method=method) for method in ("greedy", "beam", "exact")}
    assert found["greedy"].value <= found["beam"].value <= found["exact"].value + 1e-9
    assert found["exact"].gap == 0
    assert all(result.mask.sum() == 134 for result in found.values())


@pytest.mark.parametrize("maximize", [True, False])
def test_a_short_limit_still_gives_a_bound(maximize):
    spectrum = random_spectrum(np.random.default_rng(1), 200, 600, 3)
    greedy, beam, exact = (
        select(spectrum, keep=66, maximize=maximize, method=method, time_limit=1)
        for method in ("greedy", "beam", "exact")
    )
    sign = 1 if maximize else -1
    assert exact.value == spectrum(exact.mask[None])[0]
    assert sign * greedy.value <= sign * beam.value + 1e-9
    assert sign * beam.value <= sign * exact.value + 1e-9
    assert 0 < sign * (exact.bound - exact.value) < np.abs(spectrum.coefficients).sum()
    assert exact.gap == pytest.approx(
        abs(exact.bound - exact.value) / abs(exact.value - spectrum.coefficients_at(np.zeros((1, 200), bool))[0])
    )


def test_a_gap_that_is_good_enough():
    spectrum = hierarchical_spectrum(np.random.default_rng(2), 60, 20, 60, 40)
    exact, near = select(spectrum, keep=20), select(spectrum, keep=20, gap=0.2)
    assert exact.gap == 0
    assert near.gap <= 0.2
    assert near.value <= exact.value + 1e-9 <= near.bound + 1e-6


@pytest.mark.usefixtures("by_integer_program")
@pytest.mark.parametrize("method", ["exact", "beam"])
def test_the_same_again(method, rng):
    spectrum = random_spectrum(rng, N, 40, 4)
    first, second = (select(spectrum, keep=5, method=method) for _ in range(2))
    np.testing.assert_array_equal(first.mask, second.mask)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either keep or remove"),
        ({"keep": 1, "remove": 2}, "give either keep or remove"),
        ({"keep": 15}, "keep must be a whole number from 0 to 14, got 15"),
        ({"remove": -1}, "remove must be a whole number from 0 to 14, got -1"),
        ({"keep": 2.0}, "keep must be a whole number"),
        ({"keep": 1, "always_keep": [3, 4]}, "keep=1, remove=None leaves no set: .* 2 to 14 of 14"),
        ({"remove": 1, "always_remove": [3, 4]}, "keep=None, remove=1 leaves no set: .* 0 to 12 of 14"),
        ({"keep": 13, "always_remove": [3, 4]}, "leaves no set"),
        ({"remove": 13, "always_keep": [3, 4]}, "leaves no set"),
        ({"keep": 1, "always_keep": [3, 4], "exactly": False}, "leaves no set"),
        ({"keep": 5, "always_keep": [3, 4], "always_remove": [4]}, r"share the units \[4\]"),
        ({"keep": 5, "always_keep": [14]}, "from 0 to 13, got 14"),
        ({"keep": 5, "always_remove": [-1]}, "from 0 to 13, got -1"),
        ({"keep": 5, "method": "milp"}, "method must be"),
        ({"keep": 5, "beam_width": 0}, "beam_width must be"),
        ({"keep": 5, "time_limit": 0}, "time_limit must be above 0"),
        ({"keep": 5, "gap": float("nan")}, "gap at least 0"),
        ({"keep": 5, "constraints": [np.eye(N)]}, "LinearConstraint"),
        ({"keep": 5, "constraints": LinearConstraint(np.eye(3))}, r"shape \[R, 14\]"),
        ({"keep": 5, "method": "beam", "constraints": LinearConstraint(np.eye(N))}, "need method 'exact'"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        select(spectrum_of({(0,): 1.0, (1, 2): -1.0}, N), **arguments)


def test_units_may_come_from_anywhere():
    spectrum = spectrum_of({(0,): 3.0, (1,): 2.0, (2,): 1.0, (3,): 0.5}, 4)
    for given in ([0], (i for i in [0]), {0}, np.array([0]), np.array(0), np.int8(0), 0):
        assert select(spectrum, keep=1, always_keep=given).mask.tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match="needs a Spectrum"):
        select("spectrum", keep=1)
