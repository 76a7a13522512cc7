"""Shortened binary BCH codes, and their decoder for a batch of received words under one jit.

A code for n features gives every set k its parity word D k, D in F2^{P x n}. Where a bin of the transform holds one
set, the signs over the delays are D k plus sign errors. Then (k, D k) differs from the received word (0, signs) in |k|
places plus the sign errors, of which up to t are decoded (Kang et al., ICML 2025, arXiv 2502.13870; the codes are those
of Hocquenghem, 1959, and of Bose and Ray-Chaudhuri, 1960).

Positions: a word is a polynomial over F2 with the P parity bits at powers 0 ... P - 1 and feature i at power P + i.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["BCH", "bch", "decode"]

_MOST_ERRORS = 8
_MOST_FEATURES = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BCH:
    """A primitive narrow-sense BCH code of designed distance 2t + 1, shortened to n information bits.

    Attributes:
      n: information bits.
      t: errors that are corrected.
      m: the field is GF(2^m); the code has length 2^m - 1 before it is shortened.
      polynomial: bits of the primitive polynomial of the field.
      generator: bits of the generator polynomial, the bit of x^p at 2^p; its degree is P.
      parity: D, bool [P, n].
      power: int32 [2 (2^m - 1)], the powers of the primitive element.
      log: int32 [2^m], their inverse; log[0] is never used.
    """

    n: int
    t: int
    m: int
    polynomial: int
    generator: int
    parity: np.ndarray
    power: np.ndarray
    log: np.ndarray

    @property
    def checks(self) -> int:
        """P, the number of parity bits."""
        return self.generator.bit_length() - 1


@functools.cache
def _field(m: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Returns the smallest primitive polynomial of degree m, the powers of its root, and their logarithms."""
    order = 2**m - 1
    for polynomial in range(2**m + 1, 2 ** (m + 1), 2):
        powers, element = [1], 1
        for _ in range(order - 1):
            element <<= 1
            if element >> m:
                element ^= polynomial
            if element == 1:
                break
            powers.append(element)
        if len(powers) == order:
            power = np.array(powers, np.int32)
            log = np.zeros(2**m, np.int32)
            log[power] = np.arange(order)
            return polynomial, np.concatenate([power, power]), log
    raise AssertionError(f"no primitive polynomial of degree {m} was found, but every degree has one")


def _multiply(left: int, right: int) -> int:
    """Returns the product of two polynomials over F2."""
    product = 0
    while right:
        product ^= left * (right & 1)
        left, right = left << 1, right >> 1
    return product


@functools.cache
def _generator(m: int, t: int) -> int:
    """Returns the product of the minimal polynomials of a, a^3, ..., a^(2t-1)."""
    _, power, log = _field(m)
    order, seen, product = 2**m - 1, set[int](), 1
    for first in range(1, 2 * t, 2):
        conjugates = sorted({first * 2**i % order for i in range(m)})
        if conjugates[0] in seen:
            continue
        seen.update(conjugates)
        # The coefficients of prod (x + a^c), lowest first; they end in {0, 1}.
        minimal = [1]
        for c in conjugates:
            shifted, scaled = [0, *minimal], [int(power[log[e] + c]) if e else 0 for e in minimal] + [0]
            minimal = [a ^ b for a, b in zip(shifted, scaled, strict=True)]
        product = _multiply(product, sum(bit << place for place, bit in enumerate(minimal)))
    return product


@functools.lru_cache(maxsize=64)
def bch(n: int, t: int) -> BCH:
    """Returns the shortest BCH code with at least n information bits that corrects t errors, shortened to n bits.

    Args:
      n: the number of features, 1 to 10,000.
      t: the number of errors, 1 to 8.

    Raises:
      ValueError: n or t out of range.
    """
    if not 1 <= n <= _MOST_FEATURES:
        raise ValueError(f"codes exist for 1 to {_MOST_FEATURES} features, got {n}")
    if not 1 <= t <= _MOST_ERRORS:
        raise ValueError(f"codes correct 1 to {_MOST_ERRORS} errors, got t = {t}")
    m = 2
    while 2 * t > 2**m - 2 or 2**m - _generator(m, t).bit_length() < n:
        m += 1
    polynomial, power, log = _field(m)
    generator = _generator(m, t)
    checks = generator.bit_length() - 1
    columns = np.zeros((checks, n), np.bool_)
    rest = generator ^ 1 << checks  # x^P modulo the generator
    for feature in range(n):
        columns[:, feature] = [rest >> place & 1 for place in range(checks)]
        rest <<= 1
        if rest >> checks:
            rest ^= generator
    return BCH(n=n, t=t, m=m, polynomial=polynomial, generator=generator, parity=columns, power=power, log=log)


class _Arithmetic:
    """Products and quotients over GF(2^m) by tables, in which the logarithm of 0 is too large for any power."""

    def __init__(self, code: BCH):
        self.order = 2**code.m - 1
        log = code.log.copy()
        log[0] = 2 * self.order
        self.log = jnp.asarray(log)
        self.power = jnp.asarray(np.concatenate([code.power, np.zeros(2 * self.order + 1, np.int32)]))

    def times(self, a: jax.Array, b: jax.Array) -> jax.Array:
        return self.power[self.log[a] + self.log[b]]

    def over(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Returns a / b, where b must not be 0."""
        return self.power[self.log[a] + self.order - self.log[b]]


def _add(terms: jax.Array) -> jax.Array:
    """Returns the sum in the field over the first axis."""
    found: jax.Array = jax.lax.reduce(terms, 0, jax.lax.bitwise_xor, (0,))
    return found


def _raise(terms: jax.Array, by: int = 1) -> jax.Array:
    """Multiplies polynomials [size, B], lowest coefficient first, by x^by, and truncates them to their size."""
    return jnp.concatenate([jnp.zeros_like(terms[:by]), terms[:-by]])


def _syndromes(code: BCH, words: jax.Array) -> jax.Array:
    """Returns S_j = r(a^j), j = 1 ... 2t, [2t, B]: the bits of a^(j p), added modulo 2 over places p in one product."""
    exponents = np.outer(np.arange(1, 2 * code.t + 1), np.arange(code.checks)) % (2**code.m - 1)
    bits = code.power[exponents][:, :, None] >> np.arange(code.m) & 1
    table = jnp.asarray(bits.transpose(0, 2, 1).reshape(-1, code.checks), jnp.float32)
    sums = jnp.matmul(table, words.T.astype(jnp.float32)).astype(jnp.int32) & 1
    return (sums.reshape(2 * code.t, code.m, -1) << jnp.arange(code.m)[:, None]).sum(axis=1)


class _Berlekamp(NamedTuple):
    """The state of Berlekamp's algorithm between two steps, on B words.

    Attributes:
      locator: int [t + 1, B], the polynomial that explains the syndromes so far, lowest coefficient first.
      other: int [t + 1, B], the polynomial that corrects it.
      scale: int [B], the discrepancy at which the other polynomial was stored.
      degree: int [B], the number of errors that the locator claims.
      window: int [t + 1, B], the syndromes that multiply the coefficients of the locator, the newest first.
    """

    locator: jax.Array
    other: jax.Array
    scale: jax.Array
    degree: jax.Array
    window: jax.Array


def _locators(code: BCH, field: _Arithmetic, syndromes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns locator polynomials [t + 1, B] with a nonzero first coefficient, and the errors [B] that they claim.

    This is Berlekamp's algorithm for binary codes, without divisions; every other discrepancy is 0 (Berlekamp,
    Algebraic Coding Theory, 1968, section 7.6; Massey, 1969).
    """
    t = code.t
    start = jnp.zeros((t + 1, syndromes.shape[1]), jnp.int32)
    one = start.at[0].set(1)
    window = start.at[0].set(syndromes[0])

    def step(r: jax.Array, state: _Berlekamp) -> _Berlekamp:
        discrepancy = _add(field.times(state.locator, state.window))
        other = _raise(state.other)
        changed = field.times(state.scale, state.locator) ^ field.times(discrepancy, other)
        longer = (discrepancy != 0) & (state.degree <= r)
        later = jnp.minimum(2 * r + jnp.array([2, 1]), 2 * t - 1)
        return _Berlekamp(
            locator=changed,
            other=jnp.where(longer, _raise(state.locator), _raise(other)),
            scale=jnp.where(longer, discrepancy, state.scale),
            degree=jnp.where(longer, 2 * r + 1 - state.degree, state.degree),
            window=jnp.concatenate([syndromes[later], state.window])[: t + 1],
        )

    first = _Berlekamp(locator=one, other=one, scale=one[0], degree=start[0], window=window)
    last = jax.lax.fori_loop(0, t, step, first)
    return last.locator, last.degree


def _splits(code: BCH, field: _Arithmetic, locator: jax.Array) -> jax.Array:
    """Returns whether all roots of a locator lie in the field and differ, bool [B].

    The roots of its reverse R = x^t locator(1/x) are their inverses and zeros, so the test is whether R divides
    x^(t-1) (x^(2^m) - x). This takes m squarings modulo R, which is much cheaper than trying every place.
    """
    t = code.t
    rest = field.over(locator[:0:-1], locator[:1])  # x^t modulo R

    def next_power(a: jax.Array) -> jax.Array:
        return _raise(a) ^ field.times(a[-1:], rest)

    power = jnp.zeros_like(rest).at[0].set(1)
    first, even = next_power(power), [power]
    for _ in range(t - 1):
        even.append(next_power(next_power(even[-1])))
    squares = jnp.stack(even)  # x^0, x^2, ..., x^(2t - 2) modulo R

    def square(_: jax.Array, a: jax.Array) -> jax.Array:
        return _add(field.times(field.times(a, a)[:, None], squares))

    last: jax.Array = jax.lax.fori_loop(0, code.m, square, first)
    for _ in range(t - 1):
        last = next_power(last)
    return (last == rest).all(axis=0)


def decode(code: BCH, words: jax.Array, most: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Decodes words to the sets k whose parity words are at most t - |k| bits away from them. May be traced.

    Args:
      code: a code of n features.
      words: bool [B, P], signs of a bin over the delays, True for negative.
      most: Q, the most words that are decoded: the first that appear to have a set. Of random words one in t! does.

    Returns:
      row: int [Q], the number of the word; B where there is none.
      sets: bool [Q, n], the set that explains the word together with an error pattern, both of weight at most t in
        all; there is never a second such pair. All False where there is none.
      errors: int [Q], the number of wrong bits in the word.
    """
    field, length, count = _Arithmetic(code), code.checks + code.n, len(words)
    locator, degree = _locators(code, field, _syndromes(code, words))
    row = jnp.nonzero(_splits(code, field, locator) & (degree <= code.t), size=most, fill_value=count)[0]
    locator = locator.at[:, row].get(mode="clip")
    degree = degree.at[row].get(mode="clip")

    # Chien search: place p is wrong where the locator vanishes at a^-p.
    def add(total: jax.Array, term: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        coefficient, exponent = term
        return total ^ field.power[field.log[coefficient][:, None] + exponent], None

    exponents = -np.outer(np.arange(code.t + 1), np.arange(length)) % field.order
    roots = jax.lax.scan(add, jnp.zeros((most, length), jnp.int32), (locator, jnp.asarray(exponents)))[0] == 0
    found = (row < count) & (roots.sum(axis=1) == degree)
    roots &= found[:, None]
    return jnp.where(found, row, count), roots[:, code.checks :], roots[:, : code.checks].sum(axis=1)
