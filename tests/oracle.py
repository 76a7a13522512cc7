"""Brute-force oracle for Walsh (Fourier) spectra, Moebius transforms and interaction indices of small games.

A game on n players is a vector ``values`` of length 2**n with ``values[code]``, ``code = sum_i x_i 2**i`` (bit i set =
player i present / kept).  Subsets in keys are sorted tuples of ints.  Everything is float64 NumPy and follows the
original definitions literally: exponential time, no fast transforms, no closed forms in Moebius coefficients.
"""

from fractions import Fraction
from itertools import chain, combinations, permutations
from math import comb, factorial

import numpy as np

INDICES = ("SV", "BV", "SII", "k-SII", "BII", "STII", "FSII", "FBII", "Moebius", "Fourier")


def _check(values):
    """Return (float64 copy of values, n); raise unless values is a vector of length 2**n."""
    values = np.array(values, dtype=np.float64)
    n = max(values.size.bit_length() - 1, 0)
    if values.ndim != 1 or values.size != 1 << n:
        raise ValueError(f"a game must be a vector of length 2**n, got shape {values.shape}")
    return values, n


def _code(subset):
    """Integer code of an iterable of distinct players."""
    return sum(1 << i for i in subset)


def _subsets(items, max_size=None, min_size=0):
    """All subsets of `items` as sorted tuples, by size and then lexicographically."""
    items = sorted(items)
    top = len(items) if max_size is None else min(max_size, len(items))
    return chain.from_iterable(combinations(items, size) for size in range(min_size, top + 1))


def _outside(n, subset):
    """Players of 0..n-1 that are not in `subset`."""
    return [i for i in range(n) if i not in subset]


def _products(masks, subsets):
    """Design matrix of unanimity games: entry [row, T] is 1 where all of T is present in the row's mask, else 0."""
    return np.stack([masks[:, list(t)].all(axis=1) for t in subsets], axis=1).astype(np.float64)


def _bernoulli(m):
    """Bernoulli number B_m with B_1 = -1/2, from sum_{j <= k} C(k+1, j) B_j = 0 for k >= 1."""
    numbers = [Fraction(1)]
    for k in range(1, m + 1):
        numbers.append(-sum(comb(k + 1, j) * numbers[j] for j in range(k)) / (k + 1))
    return float(numbers[m])


def all_masks(n):
    """All coalitions, bool[2**n, n]; row `code` has entry i set iff bit i of code is set."""
    return np.array([[bool(code >> i & 1) for i in range(n)] for code in range(1 << n)], dtype=bool).reshape(1 << n, n)


def walsh(values):
    """Walsh (Fourier) coefficients {S: F(S)} for all S, F(S) = 2**-n sum_x f(x) (-1)**(sum_{i in S} x_i).

    O'Donnell, "Analysis of Boolean Functions" (2014), ch. 1, with chi_S(x) = (-1)**(sum_{i in S} x_i).
    """
    values, n = _check(values)
    masks = all_masks(n)
    return {s: float(np.mean(values * (1.0 - 2.0 * (masks[:, list(s)].sum(axis=1) % 2)))) for s in _subsets(range(n))}


def moebius(values):
    """Moebius transform (Harsanyi dividends) {T: mu(T)} for all T, mu(T) = sum_{S subset T} (-1)**(|T|-|S|) f(S).

    Rota, "On the foundations of combinatorial theory I" (1964); Harsanyi (1963).
    """
    values, n = _check(values)
    return {
        t: float(sum((-1) ** (len(t) - len(s)) * values[_code(s)] for s in _subsets(t))) for t in _subsets(range(n))
    }


def discrete_derivative(values, T, S):
    """Discrete derivative Delta_T(S) = sum_{L subset T} (-1)**(|T|-|L|) f(S u L), for S disjoint from T.

    Grabisch & Roubens, "An axiomatic approach to the concept of interaction among players" (1999).
    """
    values, n = _check(values)
    T, S = tuple(sorted(T)), tuple(sorted(S))
    if len(set(T + S)) != len(T) + len(S) or not set(T + S) <= set(range(n)):
        raise ValueError(f"T={T} and S={S} must be disjoint sets of players of 0..{n - 1}")
    return _derivative(values, T, _code(S))


def _derivative(values, T, base):
    """`discrete_derivative` without the checks; `base` is the code of S."""
    return float(sum((-1) ** (len(T) - len(L)) * values[base | _code(L)] for L in _subsets(T)))


def _sv_permutations(values, n):
    """Shapley (1953): the mean over all n! orders of arrival of each player's marginal contribution."""
    total = np.zeros(n)
    for order in permutations(range(n)):
        code = 0
        for i in order:
            total[i] += values[code | 1 << i] - values[code]
            code |= 1 << i
    return {(i,): float(total[i] / factorial(n)) for i in range(n)}


def _sv_subsets(values, n):
    """Shapley (1953): sum over S subset N\\i of |S|! (n-|S|-1)! / n! * (f(S u i) - f(S))."""
    weight = [factorial(size) * factorial(n - size - 1) / factorial(n) for size in range(n)]
    out = {}
    for i in range(n):
        marginals = ((len(s), values[_code(s) | 1 << i] - values[_code(s)]) for s in _subsets(_outside(n, (i,))))
        out[(i,)] = float(sum(weight[size] * marginal for size, marginal in marginals))
    return out


def _sv(values, n, order):
    """Shapley value (Shapley 1953) of single players; () holds f(none).  `order` is ignored."""
    return {(): float(values[0])} | (_sv_permutations(values, n) if n <= 6 else _sv_subsets(values, n))


def _bv(values, n, order):
    """Banzhaf value (Banzhaf 1965): unweighted mean marginal contribution; () holds the mean of f; `order` ignored."""
    masks = all_masks(n)
    out = {(i,): float(values[masks[:, i]].mean() - values[~masks[:, i]].mean()) for i in range(n)}
    return {(): float(values.mean())} | out


def _sii(values, n, order):
    """Shapley interaction index, Grabisch & Roubens (1999), |T| <= order, () by the same formula.

    SII(T) = sum_{S subset N\\T} (n-|S|-|T|)! |S|! / (n-|T|+1)! Delta_T(S).
    """
    out = {}
    for t in _subsets(range(n), order):
        rest = n - len(t)
        weight = [factorial(rest - size) * factorial(size) / factorial(rest + 1) for size in range(rest + 1)]
        out[t] = sum(weight[len(s)] * _derivative(values, t, _code(s)) for s in _subsets(_outside(n, t)))
    return out


def _bii(values, n, order):
    """Banzhaf interaction index, Grabisch & Roubens (1999): mean over S subset N\\T of Delta_T(S), () included."""
    return {
        t: float(np.mean([_derivative(values, t, _code(s)) for s in _subsets(_outside(n, t))]))
        for t in _subsets(range(n), order)
    }


def _ksii(values, n, order):
    """n-Shapley values of order k, Bordt & von Luxburg, "From Shapley Values to Generalized Additive Models" (2023).

    Their recursion (aggregating SII as in Lundberg et al. 2020): Phi^1 = SV; Phi^m_T = SII(T) for |T| = m; and for
    |T| < m, Phi^m_T = Phi^{m-1}_T + B_{m-|T|} sum_{K subset N\\T, |K|+|T| = m} SII(T u K), B_1 = -1/2.  () is f(none).
    """
    sii = _sii(values, n, order)
    phi = {t: value for t, value in _sv(values, n, 1).items() if t}
    for m in range(2, order + 1):
        new = {}
        for t in _subsets(range(n), m, min_size=1):
            if len(t) == m:
                new[t] = sii[t]
            else:
                joined = (tuple(sorted(t + k)) for k in combinations(_outside(n, t), m - len(t)))
                new[t] = phi[t] + _bernoulli(m - len(t)) * sum(sii[union] for union in joined)
        phi = new
    return {(): float(values[0])} | phi


def _stii(values, n, order):
    """Shapley-Taylor interaction index, Sundararajan, Dhamdhere & Agarwal (2020), order l.

    |T| < l: Delta_T(empty); |T| = l: (l/n) sum_{S subset N\\T} Delta_T(S) / C(n-1, |S|).  () holds f(none).
    """
    out = {(): float(values[0])}
    for t in _subsets(range(n), order, min_size=1):
        if len(t) < order:
            out[t] = _derivative(values, t, 0)
        else:
            terms = (_derivative(values, t, _code(s)) / comb(n - 1, len(s)) for s in _subsets(_outside(n, t)))
            out[t] = order / n * sum(terms)
    return out


def _fsii(values, n, order):
    """Faithful Shapley interaction index, Tsai, Yeh & Ravikumar, "Faith-Shap" (2023), order l <= n.

    argmin_E sum_{0<|S|<n} mu(|S|) (f(S) - sum_{T subset S, |T| <= l} E(T))**2, mu(s) ~ (n-1) / (C(n,s) s (n-s)), with
    E() = f(none) and sum_T E(T) = f(all).  The two equalities are eliminated exactly: E = particular + nullspace @ z.
    """
    if order > n:
        raise ValueError(f"FSII of order {order} needs at least that many players, got {n}")
    subsets = list(_subsets(range(n), order, min_size=1))
    width = len(subsets)
    gain = values[-1] - values[0]
    particular = np.full(width, gain / width)  # sums to f(all) - f(none)
    nullspace = np.linalg.qr(np.column_stack([np.ones(width), np.eye(width)[:, 1:]]))[0][:, 1:]  # orthogonal to ones
    masks = all_masks(n)[1:-1]
    size = masks.sum(axis=1)
    out = particular
    if size.size:
        weight = np.array([(n - 1) / (comb(n, int(s)) * int(s) * (n - int(s))) for s in size])
        design = _products(masks, subsets)
        root = np.sqrt(weight)
        target = root * (values[1:-1] - values[0] - design @ particular)
        z, _, rank, _ = np.linalg.lstsq(root[:, None] * (design @ nullspace), target, rcond=None)
        if rank != width - 1:
            raise np.linalg.LinAlgError("FSII least squares is rank deficient")
        out = particular + nullspace @ z
    return {(): float(values[0])} | dict(zip(subsets, out.tolist(), strict=True))


def _fbii(values, n, order):
    """Faithful Banzhaf interaction index, Tsai, Yeh & Ravikumar (2023), order l; cf. Hammer & Holzman (1992).

    Unweighted least squares over all 2**n coalitions on the products of |T| <= l players; the intercept () is free.
    """
    subsets = list(_subsets(range(n), order))
    coefficients, _, rank, _ = np.linalg.lstsq(_products(all_masks(n), subsets), values, rcond=None)
    if rank != len(subsets):
        raise np.linalg.LinAlgError("FBII least squares is rank deficient")
    return dict(zip(subsets, coefficients.tolist(), strict=True))


def _truncated(transform):
    """The indices that are a transform restricted to |T| <= order."""
    return lambda values, n, order: {t: value for t, value in transform(values).items() if len(t) <= order}


_RULES = {
    "SV": _sv, "BV": _bv, "SII": _sii, "k-SII": _ksii, "BII": _bii, "STII": _stii, "FSII": _fsii, "FBII": _fbii,
    "Moebius": _truncated(moebius), "Fourier": _truncated(walsh),
}  # fmt: skip


def interactions(values, index, order):
    """Interaction index `index` (one of INDICES) of every T with |T| <= order, {T: value}, zeros included.

    Definitions and papers: see the private function of each index.  Key () is always there: f(none) for SV, k-SII,
    STII and FSII, mean of f for BV and BII, the formula at T = () for SII, the intercept for FBII, the coefficient for
    Moebius and Fourier.  SV and BV ignore `order` and return singles (and ()).
    """
    values, n = _check(values)
    if index not in _RULES:
        raise ValueError(f"unknown index {index!r}, expected one of {INDICES}")
    if index not in ("SV", "BV") and order < (1 if index in ("k-SII", "STII", "FSII") else 0):
        raise ValueError(f"order {order} is too small for {index}")
    return _RULES[index](values, n, order)


def evaluate_moebius(mu, masks):
    """Values sum_{T subset x} mu(T) of a Moebius dict at each row of bool masks [m, n] (Harsanyi 1963 expansion)."""
    masks = np.asarray(masks, dtype=bool)
    out = np.zeros(masks.shape[0])
    for t, value in mu.items():
        out += value * masks[:, list(t)].all(axis=1)
    return out


def random_game(n, rng):
    """A game of 2**n independent standard normal values; `rng` is a numpy Generator."""
    return rng.standard_normal(1 << n)


def planted_game(n, terms, rng, max_degree):
    """A game with exactly `terms` nonzero Walsh coefficients: (values, {S: F(S)}).

    Supports are distinct and uniform over the sets of size <= max_degree (() included); a coefficient has random sign
    and magnitude uniform in [0.5, 2), so none is near zero.
    """
    candidates = list(_subsets(range(n), max_degree))
    if not 0 <= terms <= len(candidates):
        raise ValueError(f"cannot plant {terms} terms, only {len(candidates)} sets of size <= {max_degree}")
    chosen = sorted(rng.choice(len(candidates), size=terms, replace=False))
    coefficients = rng.choice([-1.0, 1.0], size=terms) * rng.uniform(0.5, 2.0, size=terms)
    spectrum = dict(zip((candidates[c] for c in chosen), coefficients.tolist(), strict=True))
    masks = all_masks(n)
    values = np.zeros(1 << n)
    for s, value in spectrum.items():
        values += value * (1.0 - 2.0 * (masks[:, list(s)].sum(axis=1) % 2))
    return values, spectrum


def r2(truth, prediction):
    """Coefficient of determination 1 - SS_res / SS_tot; for a constant truth 1.0 if predicted exactly, else 0.0."""
    truth, prediction = np.asarray(truth, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    if truth.shape != prediction.shape:
        raise ValueError(f"shapes differ: {truth.shape} and {prediction.shape}")
    residual = float(np.sum((truth - prediction) ** 2))
    total = float(np.sum((truth - truth.mean()) ** 2))
    if total == 0.0:
        return 1.0 if residual == 0.0 else 0.0
    return 1.0 - residual / total
