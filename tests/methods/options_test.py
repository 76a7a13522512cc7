"""Methods and proxies as records: their short forms mean them, and others can be added from outside."""

import dataclasses
from typing import ClassVar, get_type_hints

import numpy as np
import pytest

import spex_jax
from spex_jax import SPEX, Explanation, ProxySPEX, Spectrum, explain, explain_many, proxyspex
from spex_jax.core.walsh import subset_characters
from spex_jax.methods import METHODS, Method
from spex_jax.pipeline.method_options import MethodOptions
from spex_jax.proxyspex import PROXIES, Linear, Trees, WalshGP, proxy_of


def pair(masks):
    return masks @ np.arange(1.0, masks.shape[1] + 1) + 2.0 * masks[:, 0] * masks[:, 1]


@pytest.mark.parametrize(
    ("name", "options", "record"),
    [
        ("proxyspex", {}, ProxySPEX()),
        ("proxyspex", {"max_terms": 100}, ProxySPEX(max_terms=100)),
        ("proxyspex", {"proxy": "linear", "solver": "lasso"}, ProxySPEX(proxy=Linear(solver="lasso"))),
        ("proxyspex", {"proxy": Trees(), "solver": None}, ProxySPEX(proxy="trees")),
        ("proxyspex", {"max_terms": np.int64(9)}, ProxySPEX(max_terms=9)),
        ("spex", {"residual_of": "walsh_gp"}, SPEX(residual_of=WalshGP())),
        ("lime", {"alpha": 2.0}, spex_jax.LIME(alpha=2.0)),
        ("permutation_shapley", {}, spex_jax.PermutationShapley()),
    ],
)
def test_the_short_form_means_the_record(name, options, record):
    assert METHODS.record(name, options) == record
    assert METHODS.record(record, {}) is record


@pytest.mark.parametrize("name", METHODS)
def test_a_record_is_its_short_form_again(name):
    record = METHODS[name]()
    assert record.changed() == {}
    assert METHODS.record(name, record.short_form()) == record
    assert hash(record) == hash(METHODS[name]())


@pytest.mark.slow
def test_a_proxy_in_settings_is_its_short_form(tmp_path):
    record = ProxySPEX(proxy=Linear(solver="lasso"), max_terms=np.int64(20))
    assert record.changed() == {"proxy": "linear", "solver": "lasso", "max_terms": 20}
    found = explain(pair, 7, budget=70, method=record, progress=False)
    short = explain(pair, 7, budget=70, proxy="linear", solver="lasso", max_terms=20, progress=False)
    assert not found.exact
    assert found.settings == short.settings
    assert {name: found.settings[name] for name in ("method", "proxy", "solver", "max_degree", "max_terms")} == {
        **{"method": "proxyspex", "proxy": "linear", "solver": "lasso", "max_degree": 5, "max_terms": 20}
    }
    np.testing.assert_array_equal(found.spectrum.coefficients, short.spectrum.coefficients)
    found.save(tmp_path / "e")
    assert Explanation.load(tmp_path / "e").settings == found.settings


def test_the_options_of_signatures_are_those_of_the_methods():
    assert set(get_type_hints(MethodOptions)) == {name for method in METHODS.values() for name in method.option_names()}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: explain(pair, 9, method=ProxySPEX(), max_terms=3),
            r"max_terms were given beside the record ProxySPEX",
        ),
        (lambda: explain(pair, 9, proxy=Linear(), solver="lasso"), r"solver were given beside the record Linear\("),
        (lambda: explain(pair, 9, method=Linear()), r"unknown method Linear\(.*; expected one of proxyspex, .*, or a"),
        (
            lambda: ProxySPEX(proxy=SPEX()),
            r"unknown proxy SPEX\(.*; expected one of auto, walsh_gp, .*, or a record of",
        ),
        (
            lambda: explain(pair, 9, method=ProxySPEX(proxy=Linear(solver="omp"))),
            "unknown solver 'omp'; expected one of",
        ),
        (lambda: explain(pair, 9, method=SPEX(residual_of=Linear(solver="omp"))), "unknown solver 'omp'"),
        (lambda: proxy_of("trees", solver="lasso"), "solver= belongs to proxy='linear', got it with proxy='trees'"),
        (
            lambda: METHODS.record("lime", {"order": 2}),
            "unknown options order; lime takes kernel_width, alpha, sampling",
        ),
        (lambda: METHODS.record("leave_one_out", {"order": 2}), "unknown options order; leave_one_out takes none"),
    ],
)
def test_what_means_no_record_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_record_finds_the_answers_of_its_short_form(tmp_path):
    calls = []

    def fn(masks):
        calls.append(len(masks))
        return pair(masks)

    value_fn = spex_jax.ValueFunction(fn, 9, identity="pair")
    options = {"budget": 120, "store": tmp_path, "progress": False}
    (first,) = explain_many([value_fn], proxy="linear", max_terms=20, **options)
    (again,) = explain_many([value_fn], method=ProxySPEX(proxy=Linear(), max_terms=20), **options)
    assert len(list(tmp_path.glob("*/explanation.json"))) == 1
    assert again.timings == first.timings


@pytest.fixture
def registries(monkeypatch):
    """What a test registers is forgotten at its end."""
    for registry in (METHODS, PROXIES):
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))


@pytest.mark.usefixtures("registries")
def test_a_proxy_is_added_from_outside(rng):
    @proxyspex.register
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Screened(proxyspex.Proxy):
        """Correlations with all characters of first and second order, the largest of them."""

        name: ClassVar[str] = "screened"
        keep: int = 20

        def fit(self, table, *, max_degree, seed):
            sets = spex_jax.core.masks.sets_up_to(table.n, min(2, max_degree))
            coefficients = subset_characters(table.masks, sets).T @ table.values / table.count
            largest = np.argsort(-np.abs(coefficients))[: self.keep]
            spectrum = Spectrum(sets[largest], coefficients[largest])
            return proxyspex.Fitted(spectrum=spectrum, held_out=lambda: spectrum(table.masks))

    short = explain(pair, 12, budget=600, proxy="screened", keep=10, sampling="uniform", progress=False)
    record = ProxySPEX(proxy=Screened(keep=10), sampling="uniform")
    assert METHODS.record("proxyspex", {"proxy": "screened", "keep": 10, "sampling": "uniform"}) == record
    found = explain(pair, 12, budget=600, method=record, progress=False)
    assert found.faithfulness.r2 > 0.8
    assert found.settings["keep"] == 10
    assert "screened" in str(found)
    np.testing.assert_array_equal(found.spectrum.coefficients, short.spectrum.coefficients)
    masks = rng.random((80, 8)) < 0.5
    (of_many,) = proxyspex.fit_many([masks], [pair(masks)], proxy="screened")
    np.testing.assert_array_equal(
        of_many.coefficients, proxyspex.fit(masks, pair(masks), proxy=Screened()).coefficients
    )
    with pytest.raises(ValueError, match="keep= belongs to proxy='screened', got it with proxy='trees'"):
        explain(pair, 12, proxy="trees", keep=3)

    class Other(Screened):
        """Another proxy of this name."""

    with pytest.raises(ValueError, match=r"proxy 'screened' is .*Screened already; give .*Other another name"):
        proxyspex.register(Other)


@pytest.mark.usefixtures("registries")
def test_a_baseline_is_added_from_outside():
    @spex_jax.methods.register
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Occlusion(Method):
        """The mean value with a unit less the mean without it, of masks that remove half of the units."""

        name: ClassVar[str] = "occlusion"
        exact: ClassVar[bool] = False
        scale: float = 1.0

        def least(self, n):
            return 4

        def draw(self, n, count, seed):
            return spex_jax.core.masks.uniform(n, count, np.random.default_rng(seed)), None

        def fit(self, ablations, seed):
            masks, values = ablations.masks, ablations.values
            kept = masks.mean(axis=0)
            effects = (values - values.mean()) @ masks / len(masks) / (kept * (1 - kept))
            return spex_jax.baselines.additive_spectrum(
                self.scale * effects, float(values.mean() + (1 - kept) @ effects)
            )

    short = explain(pair, 12, budget=800, method="occlusion", scale=1, progress=False)
    found = explain(pair, 12, budget=800, method=Occlusion(), progress=False)
    assert found.faithfulness.r2 > 0.8
    assert found.settings["method"] == "occlusion"
    assert found.interactions("SV", 1).top(1)[0][0] == (11,)
    np.testing.assert_array_equal(found.spectrum.coefficients, short.spectrum.coefficients)
    (of_many,) = explain_many([spex_jax.ValueFunction(pair, 12)], budget=800, method="occlusion", progress=False)
    np.testing.assert_array_equal(found.spectrum.coefficients, of_many.spectrum.coefficients)
    assert spex_jax.estimate(pair, 12, budget=800, method="occlusion").masks == 800
