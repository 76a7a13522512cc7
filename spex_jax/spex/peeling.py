"""Peeling: finds sets that stand out in the bins, fits all sets found so far by least squares, and searches the
residual, until no new set is found (Kang et al., ICML 2025, arXiv 2502.13870).

This differs from the published peeling: where there are few sets of the degrees searched, all of them are tried;
elsewhere sums of bins over the groups are decoded. A set is judged by all groups and delays together, and all
coefficients are solved for again after every round (orthogonal matching pursuit in the bins).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from spex_jax.spex.bch import BCH
from spex_jax.spex.candidates import aligned, from_sums, singles_and_pairs
from spex_jax.spex.lattice import Residual, Views, bins, first_of_equals, lattice, model, same, score, solve, views
from spex_jax.utils.precision import compiled

__all__ = ["KEPT", "peel", "peel_together"]

_FLIPS = 5
_LOOKED_UP = 1024  # most words of a round that are decoded to sets
_LOW = 128  # most singles and pairs of a round
_NEW = 64  # most new sets of a round
_SHARE = 0.5  # share of the largest correlation that a set must reach to join in the same round
KEPT = 0.8  # share of its threshold that a coefficient must keep after others have joined
_ROUNDS = 200
_FEW_FEATURES = 400  # up to this many features all pairs cost less than the flips


class _State(NamedTuple):
    """The state of the peeling between two rounds, with room for K sets.

    Attributes:
      sets: bool [K, n], the first of which is the empty set; rows that are not active are ignored.
      known: the views of the sets.
      active: bool [K], the rows that hold a set.
      coefficients: float [K], 0 in rows that are not active.
      left: the residual of the function after these sets.
      effort: int [], the number of the search that the next round uses.
      rounds: int [], the number of rounds done.
    """

    sets: jax.Array
    known: Views
    active: jax.Array
    coefficients: jax.Array
    left: Residual
    effort: jax.Array
    rounds: jax.Array


@compiled(static_argnames=("code", "most_terms"))
def peel(
    values: jax.Array,
    rows: jax.Array,
    matrices: jax.Array,
    uniform: jax.Array,
    thresholds: jax.Array,
    every: jax.Array,
    *,
    code: BCH,
    most_terms: int,
) -> tuple[jax.Array, jax.Array]:
    """Finds the sets that stand out, and their coefficients.

    Args:
      values: float [M].
      rows: int [C, P + 1, 2^b], see `Design`.
      matrices: 0 or 1, [C, n, b].
      uniform: bool [U, n], masks of the last U values, which also count when a set is judged.
      thresholds: float [t + 1], the number of standard errors at which a set of each degree is accepted. The whole
        residual is taken to be noise.
      every: bool [Q, n], all sets that may be found, each of which is tried; Q = 0 where they are too many and are
        decoded from the bins.
      code: the code of the delays.
      most_terms: K.

    Returns:
      sets bool [K, n] and coefficients [K], 0 in rows without a set; the first is the empty set.
    """
    chex.assert_rank([values, rows, matrices, thresholds], [1, 3, 3, 1])
    chex.assert_shape([uniform, every], (None, matrices.shape[1]))
    chex.assert_type([uniform, every], bool)
    _, n, b = matrices.shape
    found = Residual(bins(values, rows), values[len(values) - len(uniform) :])
    of = lattice(matrices, uniform, code)
    # There are many candidates, so they are first judged by the bins alone, one standard error more leniently.
    lenience = (found.bins.size / (found.bins.size + len(uniform))) ** 0.5
    margin = 1.0 if len(uniform) else 0.0

    Chosen = tuple[jax.Array, Views, jax.Array]

    def choose(sets: jax.Array, left: Residual, known: Views, active: jax.Array) -> Chosen:
        """Returns the new sets among candidates: sets [64, n], their views, and which rows hold a new set."""
        in_bins = views(of.coded(), sets)
        return judge(sets, in_bins, first_of_equals(in_bins.places), left, known, active)

    def judge(
        sets: jax.Array, in_bins: Views, possible: jax.Array, left: Residual, known: Views, active: jax.Array
    ) -> Chosen:
        """Returns the same for candidates that are possible, given their views in the bins."""
        degree, part = sets.sum(axis=1), left.coded()
        z = jnp.abs(score(part, in_bins)) / part.standard_error()
        possible &= (degree > 0) & (z > lenience * thresholds[degree] - margin)
        missing = max(0, _NEW - len(sets))
        best = jax.lax.top_k(jnp.where(possible, z, 0.0), _NEW - missing)[1]
        sets = jnp.pad(sets[best], ((0, missing), (0, 0)))
        at = views(of, sets)
        z = jnp.abs(score(left, at)) / left.standard_error()
        earlier = jnp.tril(same(at, at), -1).any(axis=1)
        new = sets.any(axis=1) & (z > thresholds[sets.sum(axis=1)])
        new &= ~earlier & ~(same(at, known) & active).any(axis=1)
        new &= z >= _SHARE * jnp.max(jnp.where(new, z, 0.0))
        return sets, at, new

    Search = Callable[[Residual, jax.Array, Views, jax.Array], Chosen]

    def by_words(flips: int) -> Search:
        return lambda left, sums, known, active: choose(from_sums(sums, code, flips, _LOOKED_UP), left, known, active)

    def by_pairs(left: Residual, _: jax.Array, known: Views, active: jax.Array) -> Chosen:
        return choose(singles_and_pairs(left, of, thresholds[1:3], _LOW), left, known, active)

    # Effort 0 is the cheapest search. The effort rises when a search finds nothing, and returns to 0 when one does.
    searches: list[Search] = [by_words(0), by_words(_FLIPS)]
    if len(every):
        in_bins, possible = views(of.coded(), every), jnp.ones(len(every), bool)
        searches = [lambda left, sums, *known: judge(every, in_bins, possible, left, *known)]
    elif code.t > 1:
        searches.insert(1 if n <= _FEW_FEATURES else 2, by_pairs)

    def solved(active: jax.Array, known: Views, start: jax.Array) -> tuple[jax.Array, Residual]:
        coefficients = solve(found, known, active, start)
        return coefficients, found.without(model(known, coefficients, b))

    def step(state: _State) -> _State:
        sums = aligned(state.left.bins)
        new_sets, at, new = jax.lax.switch(state.effort, searches, state.left, sums, state.known, state.active)
        free = jnp.nonzero(~state.active, size=_NEW, fill_value=most_terms)[0]
        slot = jnp.where(new, free[jnp.cumsum(new) - 1], most_terms)
        old = (state.sets, state.known)
        sets, known = jax.tree.map(lambda a, b: a.at[slot].set(b, mode="drop"), old, (new_sets, at))
        active = state.active.at[slot].set(True, mode="drop")
        coefficients, left = solved(active, known, state.coefficients.at[slot].set(0.0, mode="drop"))
        weak = jnp.abs(coefficients) <= KEPT * thresholds[sets.sum(axis=1)] * left.standard_error()
        weak &= active & (jnp.arange(most_terms) > 0)
        active &= ~weak
        coefficients, left = jax.lax.cond(
            weak.any(), solved, lambda *_: (coefficients, left), active, known, coefficients
        )
        effort = jnp.where(new.any(), 0, state.effort + 1)
        return _State(sets, known, active, coefficients, left, effort=effort, rounds=state.rounds + 1)

    def goes_on(state: _State) -> jax.Array:
        full = state.active.all()
        return (state.effort < len(searches)) & (state.rounds < _ROUNDS) & ~full

    sets = jnp.zeros((most_terms, n), bool)
    active = jnp.arange(most_terms) == 0
    zero = jnp.zeros((), jnp.int32)
    coefficients, left = solved(active, views(of, sets), jnp.zeros(most_terms))
    start = _State(sets, views(of, sets), active, coefficients, left, effort=zero, rounds=zero)
    last = jax.lax.while_loop(goes_on, step, start)
    return last.sets, last.coefficients


@compiled(static_argnames=("code", "most_terms"))
def peel_together(
    values: jax.Array,
    rows: jax.Array,
    matrices: jax.Array,
    uniform: jax.Array,
    thresholds: jax.Array,
    every: jax.Array,
    *,
    code: BCH,
    most_terms: int,
) -> tuple[jax.Array, jax.Array]:
    """Runs `peel` on B designs of one shape: every array but `every` has one more axis in front. All continue until the
    last is done.
    """
    one = functools.partial(peel, code=code, most_terms=most_terms)
    return jax.vmap(one, in_axes=(0, 0, 0, 0, 0, None))(values, rows, matrices, uniform, thresholds, every)
