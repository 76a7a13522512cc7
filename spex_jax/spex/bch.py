"""Binary BCH codes, shortened, and their decoder: a batch of received words under one jit.

A code for n features gives every set k its parity word D k, D in F2^{P x n}. Where a bin of the transform holds one
set, the signs over the delays are D k plus sign errors, so that (k, D k) differs from the received word (0, signs) in
|k| + sign errors places: up to t of them are decoded (Kang et al., ICML 2025, arXiv 2502.13870; the codes are those of
Hocquenghem, 1959, and of Bose and Ray-Chaudhuri, 1960).

Positions: a word is a polynomial over F2 with the P parity bits at powers 0 ... P - 1 and feature i at power P + i.
"""

import dataclasses
import functools

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
    """The smallest primitive polynomial of degree m, powers of its root and their logarithms."""
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
    raise AssertionError(f"every degree has a primitive polynomial, {m} too")


def _multiply(left: int, right: int) -> int:
    """Product of polynomials over F2."""
    product = 0
    while right:
        product ^= left * (right & 1)
        left, right = left << 1, right >> 1
    return product


@functools.cache
def _generator(m: int, t: int) -> int:
    """The product of the minimal polynomials of a, a^3, ..., a^(2t-1)."""
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
    """The shortest such code with at least n information bits, shortened to n.

    Args:
      n: 1 to 10,000.
      t: 1 to 8.

    Raises:
      ValueError: n or t out of range.
    """
    if not 1 <= n <= _MOST_FEATURES:
        raise ValueError(f"codes are made for 1 to {_MOST_FEATURES} features, got {n}")
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


def decode(code: BCH, words: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sets whose parity words are at most t - |k| bits away from the words received. May be traced.

    Args:
      code: of n features.
      words: bool [B, P], signs of a bin over the delays, True for negative.

    Returns:
      sets: bool [B, n], all False where nothing was found.
      errors: int [B], bits of the word that were wrong.
      found: bool [B]. True where one pair of a set and an error pattern, of weight at most t together, explains the
        word; there is never a second one.
    """
    order, length, t = 2**code.m - 1, code.checks + code.n, code.t
    power, log = jnp.asarray(code.power), jnp.asarray(code.log)

    def times(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where((a == 0) | (b == 0), 0, power[log[a] + log[b]])

    def over(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(a == 0, 0, power[log[a] - log[b] + order])

    # Syndromes S_j = r(a^j): the bits of a^(j p) over the places p of the word, added modulo 2 in one product.
    exponents = np.outer(np.arange(1, 2 * t + 1), np.arange(code.checks)) % order
    bits = code.power[exponents][:, :, None] >> np.arange(code.m) & 1
    table = jnp.asarray(bits.transpose(1, 0, 2).reshape(code.checks, -1), jnp.float32)
    sums = jnp.matmul(words.astype(jnp.float32), table, precision="highest").astype(jnp.int32) & 1
    syndromes = (sums.reshape(len(words), 2 * t, code.m) << jnp.arange(code.m)).sum(axis=2)

    # Berlekamp and Massey (Massey, 1969) on all words at once: the shortest recurrence of the syndromes.
    size = t + 1
    shape = (len(words), size)
    State = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]

    def step(j: jax.Array, state: State) -> State:
        locator, last, last_discrepancy, degree, gap = state
        place = j - jnp.arange(size)
        seen = jnp.where(place >= 0, syndromes[:, jnp.maximum(place, 0)], 0)
        products = times(locator, seen)
        discrepancy = jax.lax.reduce(products, 0, jax.lax.bitwise_xor, (1,))
        moved = jnp.arange(size) - gap[:, None]
        shifted = jnp.where(moved >= 0, jnp.take_along_axis(last, jnp.maximum(moved, 0), axis=1), 0)
        change = times(shifted, over(discrepancy, last_discrepancy)[:, None])
        wrong = discrepancy != 0
        longer = wrong & (2 * degree <= j)
        following = jnp.where(wrong[:, None], locator ^ change, locator)
        return (
            following,
            jnp.where(longer[:, None], locator, last),
            jnp.where(longer, discrepancy, last_discrepancy),
            jnp.where(longer, j + 1 - degree, degree),
            jnp.where(longer, 1, gap + 1),
        )

    one = jnp.zeros(shape, jnp.int32).at[:, 0].set(1)
    ones, zeros = jnp.ones(len(words), jnp.int32), jnp.zeros(len(words), jnp.int32)
    locator, _, _, degree, _ = jax.lax.fori_loop(0, 2 * t, step, (one, one, ones, zeros, ones))

    # Chien search: place p is wrong where the locator vanishes at a^-p.
    places = jnp.arange(length)

    def add(d: jax.Array, total: jax.Array) -> jax.Array:
        coefficient = locator[:, d][:, None]
        term = power[log[coefficient] + (order - d * places % order) % order]
        return total ^ jnp.where(coefficient == 0, 0, term)

    roots = jax.lax.fori_loop(0, size, add, jnp.zeros((len(words), length), jnp.int32)) == 0
    found = (degree <= t) & (roots.sum(axis=1) == degree)
    roots = roots & found[:, None]
    return roots[:, code.checks :], roots[:, : code.checks].sum(axis=1), found
