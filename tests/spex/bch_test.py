import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.spex.bch import bch, decode

CHECKS = {(10, 5): 20, (20, 5): 27, (64, 5): 35, (128, 5): 40, (1000, 5): 55, (10, 2): 10, (32, 2): 12, (1000, 2): 20}
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "bch.json"

decode_jit = jax.jit(decode, static_argnums=(0, 2))


def decode_all(code, words):
    """Sets, errors and found, for each word."""
    row, sets, errors = map(np.asarray, decode_jit(code, jnp.asarray(words), len(words)))
    there = row < len(words)
    assert (np.diff(row[there]) > 0).all()
    assert not sets[~there].any()
    every, wrong, found = np.zeros((len(words), code.n), bool), np.zeros(len(words), int), np.zeros(len(words), bool)
    every[row[there]], wrong[row[there]], found[row[there]] = sets[there], errors[there], True
    return every, wrong, found


def apart(code, case):
    """The features and the parity bits of an error pattern."""
    return [p - code.checks for p in case if p >= code.checks], [p for p in case if p < code.checks]


def word_of(code, members, flipped):
    word = code.parity[:, list(members)].sum(axis=1) % 2 == 1
    word[list(flipped)] ^= True
    return word


@pytest.mark.parametrize(("n", "t"), CHECKS)
def test_the_number_of_parity_bits(n, t):
    code = bch(n, t)
    assert code.checks == CHECKS[n, t]
    assert code.parity.shape == (code.checks, n)


@pytest.mark.parametrize("known", json.loads(GOLDEN.read_text()), ids=lambda known: f"m{known['m']}-t{known['t']}")
def test_the_generator_is_that_of_galois(known):
    """Made with galois.BCH(2^m - 1, d=2t + 1) over the field of the same polynomial."""
    code = bch(min(2 ** known["m"] - 1 - known["checks"], 10_000), known["t"])
    assert code.m == known["m"]
    assert code.polynomial == known["polynomial"]
    assert format(code.generator, "x") == known["generator"]


@pytest.mark.parametrize(("n", "t"), [(1, 1), (4, 1), (20, 2), (8, 3)])
def test_every_pattern_of_at_most_t_errors(n, t):
    code = bch(n, t)
    length, cases = code.checks + n, []
    for weight in range(t + 1):
        cases += list(itertools.combinations(range(length), weight))
    words = np.array(
        [
            word_of(code, [p - code.checks for p in c if p >= code.checks], [p for p in c if p < code.checks])
            for c in cases
        ]
    )
    assert len(np.unique(words, axis=0)) == len(words)
    sets, errors, found = decode_all(code, words)
    assert found.all()
    for case, members, wrong in zip(cases, sets, errors, strict=True):
        assert set(np.flatnonzero(members)) == {p - code.checks for p in case if p >= code.checks}
        assert wrong == sum(p < code.checks for p in case)


@pytest.mark.parametrize(("n", "t"), [(64, 5), (10_000, 8)])
def test_random_patterns_of_large_codes(n, t, rng):
    code = bch(n, t)
    for weight in (t, t + 1):
        cases = [np.sort(rng.choice(code.checks + n, weight, replace=False)) for _ in range(200)]
        words = np.array([word_of(code, *apart(code, case)) for case in cases])
        sets, errors, found = decode_all(code, words)
        for case, word, members, wrong, ok in zip(cases, words, sets, errors, found, strict=True):
            if weight == t:
                assert ok
                assert set(np.flatnonzero(members)) == set(case[case >= code.checks] - code.checks)
            elif ok:  # too many errors may look like few of another set: never more than t, and they explain the word
                assert members.sum() + wrong <= t
                assert (word ^ word_of(code, np.flatnonzero(members), [])).sum() == wrong
            else:
                assert not members.any()


@pytest.mark.parametrize(("n", "t", "count"), [(8, 3, 2048), (20, 2, 466)])  # as many words as patterns above
def test_random_words_are_decoded_or_not_by_their_distance(n, t, count, rng):
    """Against every set: found if and only if some set of at most t members and errors together explains the word."""
    code = bch(n, t)
    near = [c for weight in range(t + 1) for c in itertools.combinations(range(n), weight)]
    parities = np.array([word_of(code, c, []) for c in near])
    words = rng.integers(0, 2, (count, code.checks)).astype(bool)
    sets, errors, found = decode_all(code, words)
    for word, members, wrong, ok in zip(words, sets, errors, found, strict=True):
        weights = (parities ^ word).sum(axis=1) + np.array([len(c) for c in near])
        assert ok == (weights.min() <= t)
        if ok:
            best = int(weights.argmin())
            assert tuple(np.flatnonzero(members)) == near[best]
            assert wrong == weights[best] - len(near[best])


@pytest.mark.parametrize(
    ("n", "t", "message"),
    [(0, 2, "1 to 10000 features, got 0"), (20_000, 2, "got 20000"), (10, 0, "1 to 8 errors"), (10, 9, "got t = 9")],
)
def test_codes_that_are_not_made(n, t, message):
    with pytest.raises(ValueError, match=message):
        bch(n, t)
