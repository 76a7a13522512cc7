"""Explanations that learn from earlier ones."""

import numpy as np
import pytest

from spex_jax import Explanation, Spectrum, ValueFunction, explain, explain_many
from spex_jax.analysis import corpus as corpora
from spex_jax.analysis.corpus import Example, learn_corpus

WORDS = [f"word{i}" for i in range(40)]


def sizes(seed=0):
    """How much each word matters, in every text."""
    rng = np.random.default_rng(seed)
    return dict(zip(WORDS, np.where(rng.random(40) < 0.3, 2.0, 0.02), strict=True))


def text(seed, n=18):
    """A function of the words of a text, whose effects have the sizes of `sizes` and signs of their own."""
    rng = np.random.default_rng(100 + seed)
    names = [WORDS[i] for i in rng.integers(0, 40, n)]
    size = np.array([sizes()[name] for name in names])
    support = np.eye(n, dtype=bool)
    pairs = np.zeros((n * (n - 1) // 2, n), bool)
    rows = np.arange(len(pairs))
    for side in np.triu_indices(n, 1):
        pairs[rows, side] = True
    both = np.concatenate([support, pairs])
    scale = np.concatenate([size, np.prod(np.where(pairs, size, 1.0), axis=1) * 0.3])
    function = Spectrum(both, rng.normal(size=len(both)) * scale)
    return ValueFunction(function, n, names=names, identity=f"text {seed}"), function


def r2(answers, functions):
    masks = np.random.default_rng(0).random((400, 18)) < 0.5
    return [
        1 - np.mean((f(masks) - a.spectrum(masks)) ** 2) / f(masks).var()
        for a, f in zip(answers, functions, strict=True)
    ]


def unexplained(after, before):
    """The geometric mean of the ratio of the unexplained variances."""
    return np.exp(np.mean(np.log(1 - np.array(after)) - np.log(1 - np.array(before))))


@pytest.fixture(scope="module")
def corpus():
    value_fns, functions = zip(*map(text, range(14)), strict=True)
    options = {"budget": 110, "proxy": "walsh_gp", "progress": False}
    alone = explain_many(value_fns, **options)
    learned = explain_many(value_fns, prior="corpus", **options)
    return value_fns, functions, alone, learned


def test_later_explanations_become_more_faithful(corpus):
    _, functions, alone, learned = corpus
    before, after = r2(alone, functions), r2(learned, functions)
    np.testing.assert_allclose(after[:4], before[:4])  # there is nothing to learn from yet
    assert unexplained(after[4:], before[4:]) < 0.8
    assert "prior" not in learned[0].settings
    assert learned[-1].settings["prior"] == "8 explanations"
    assert "prior 8 explanations" in str(learned[-1])


def test_a_given_prior_serves_one_explanation_and_many(corpus):
    value_fns, functions, alone, _ = corpus
    prior = learn_corpus([Example(names=e.names, spectrum=e.spectrum) for e in alone[:10]])
    assert prior.examples == 10
    many = explain_many(value_fns[10:], budget=110, proxy="walsh_gp", prior=prior, progress=False)
    assert unexplained(r2(many, functions[10:]), r2(alone[10:], functions[10:])) < 0.8
    one = explain(value_fns[10], budget=110, proxy="walsh_gp", prior=prior, progress=False)
    np.testing.assert_array_equal(one.spectrum.coefficients, many[0].spectrum.coefficients)
    assert one.settings["prior"] == "10 explanations"


def test_a_stopped_run_continues_with_the_same_result(corpus, tmp_path):
    value_fns, _, _, learned = corpus
    options = {"budget": 110, "proxy": "walsh_gp", "progress": False, "prior": "corpus", "store": tmp_path / "store"}
    explain_many(value_fns[:4], **options)
    found = explain_many(value_fns[:9], **options)
    for answer, expected in zip(found[:8], learned[:8], strict=True):
        np.testing.assert_array_equal(answer.spectrum.coefficients, expected.spectrum.coefficients)
    # Another order of texts is another run: what was learned before a text is not the same.
    names = {path.name for path in (tmp_path / "store").iterdir()}
    explain_many([value_fns[1], value_fns[0]], **options)
    assert len({path.name for path in (tmp_path / "store").iterdir()}) > len(names)


def test_what_is_learned_is_what_was_planted():
    rng = np.random.default_rng(0)
    examples = []
    for _ in range(60):
        names = [str(name) for name in rng.choice(["good", "Evil,", "them", "abcd", "efgh", "ijkl"], 12)]
        gradient = rng.uniform(0.5, 2, 12)
        effect = {"good": 3.0, "Evil,": 3.0, "them": 0.2}
        size = np.array([effect.get(name, 1.0) for name in names]) * gradient * np.exp(0.1 * rng.normal(size=12))
        spectrum = Spectrum(np.eye(12, dtype=bool), size * rng.choice([-1, 1], 12))
        examples.append(Example(names=names, spectrum=spectrum, relevance=gradient))
    prior = learn_corpus(examples)
    found = prior.relevance(["GOOD!", "evil", "them", "newx", "abcd"], np.ones(5))
    np.testing.assert_allclose(found / found[4], [3, 3, 0.2, 1, 1], rtol=0.5)
    with_gradient = prior.relevance(["abcd", "abcd"], np.array([4.0, 1.0]))
    assert with_gradient[0] / with_gradient[1] == pytest.approx(4, rel=0.3)
    assert prior.relevance(["abcd"]).tolist() == [1.0]


def test_a_name_that_was_seen_once_says_less_than_one_that_was_seen_often():
    """The effects are the best linear predictions of a random effect of the name, by matrices."""
    rng = np.random.default_rng(1)
    names = [[f"name{i}" for i in rng.integers(0, 9, 8)] for _ in range(6)]
    names[0][0] = "seenonce"
    of_name = {name: rng.normal() for n in names for name in n}
    sizes = [np.exp([of_name[name] + rng.normal() for name in n]) for n in names]
    examples = [
        Example(names=n, spectrum=Spectrum(np.eye(8, dtype=bool), size)) for n, size in zip(names, sizes, strict=True)
    ]
    learned = learn_corpus(examples)
    logs = np.log(sizes)
    sought = np.concatenate([row - row.mean() for row in logs])
    left = sought - np.concatenate([corpora._features(n, None) for n in names]) @ learned.weights
    seen = np.array([name for n in names for name in n])
    share = corpora._between_within([left[seen == name] for name in learned.effects])
    assert 0 < share < 3
    same = seen[:, None] == seen
    predicted = share * same @ np.linalg.solve(np.eye(len(seen)) + share * same, left)
    np.testing.assert_allclose([learned.effects[name] for name in seen], predicted, atol=1e-12)


def test_nothing_is_learned_from_nothing():
    constant = Spectrum(np.zeros((1, 3), bool), np.ones(1))
    assert learn_corpus([]) is None
    assert learn_corpus([Example(names=["a", "b", "c"], spectrum=constant)]) is None
    alone = learn_corpus(
        [Example(names=["a", "b", "a"], spectrum=Spectrum(np.eye(3, dtype=bool), np.array([1.0, 0, 2])))]
    )
    assert np.isfinite(alone.relevance(["a", "b", ""])).all()


def test_the_relevance_is_kept(tmp_path):
    value_fn, _ = text(0)
    relevance = np.linspace(0.1, 1, 18)
    found = explain(value_fn, budget=110, relevance=relevance, progress=False)
    assert found.settings["relevance"] == "given"
    np.testing.assert_array_equal(found.relevance, relevance)
    found.save(tmp_path / "found")
    np.testing.assert_array_equal(Explanation.load(tmp_path / "found").relevance, relevance)


def test_relevance_of_a_model_is_taken_off_the_budget(tiny):
    from spex_jax import lenses

    value_fn = lenses.text(*tiny, "The plot is thin , the cast is dull and nobody will miss it", value="margin")
    own = value_fn.relevance()
    found = explain(value_fn, budget=160, relevance="auto", progress=False)
    assert len(found.masks) == 160 - own.passes
    assert found.settings["relevance"] == f"gradients for {own.passes} of these ablations"
    np.testing.assert_array_equal(found.relevance, own.values)
    given = explain(value_fn, budget=160 - own.passes, relevance=own, progress=False)
    np.testing.assert_array_equal(given.spectrum.coefficients, found.spectrum.coefficients)
    many = explain_many([value_fn], budget=160, relevance="auto", progress=False)
    np.testing.assert_array_equal(many[0].spectrum.coefficients, found.spectrum.coefficients)
    # Where nothing is left for it, or there are no gradients, "auto" does without.
    least = explain(value_fn, budget=70, relevance="auto", progress=False)
    assert len(least.masks) == 70
    assert "relevance" not in least.settings
    exact = explain(lenses.text(*tiny, "not a bad film"), budget=16, relevance="auto", progress=False)
    assert exact.exact
    host, _ = text(0)
    assert "relevance" not in explain(host, budget=110, relevance="auto", progress=False).settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prior": "texts"}, "prior must be 'corpus', a CorpusPrior or None"),
        ({"prior": Spectrum(np.ones((1, 18), bool), np.ones(1))}, "prior must be 'corpus', a CorpusPrior or None"),
        ({"prior": "corpus", "method": "lasso"}, "prior= is for methods that fit a proxy"),
        ({"relevance": np.ones(18)}, "relevance must be 'auto' or None"),
        ({"relevance": "gradients"}, "relevance must be 'auto' or None"),
    ],
)
def test_what_many_cannot_share_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        explain_many([text(0)[0]], budget=110, **given)


def test_an_unknown_word_for_relevance_is_refused():
    with pytest.raises(ValueError, match="relevance must be 'auto', an array"):
        explain(text(0)[0], budget=110, relevance="gradients")
