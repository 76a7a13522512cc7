"""Wrong changes of the mathematical files, each with the tests that should catch it; see mutations.py."""

from typing import NamedTuple

__all__ = ["MUTATIONS", "Mutation"]


class Mutation(NamedTuple):
    """One wrong change.

    Attributes:
      file: a file of the package, relative to the root of the repository.
      what: the fault, in words.
      old: the right text, which stands exactly once in the file.
      new: the wrong text that replaces it.
      tests: arguments of pytest: files, and -k with an expression.
    """

    file: str
    what: str
    old: str
    new: str
    tests: tuple[str, ...]


_SPECTRUM = ("tests/core/spectrum_test.py",)
_EXTRAPOLATED = ("tests/core/ends_test.py",)
_INDICES = ("tests/core/interactions_test.py", "-k", "definition or gains or errors or sparse_spectra")
_CONTEXTS = ("tests/analysis/validation_test.py", "-k", "contexts_weighed or contexts_are_drawn")
_CORRECTION = ("tests/analysis/correction_test.py",)
_LATTICE = ("tests/spex/lattice_test.py",)
_PEEL = ("tests/spex/peeling_test.py",)
_DECODE = ("tests/spex/decoder_test.py", "-k", "rounding or tries or trying or no_more_room or noise")
_ACQUISITION = ("tests/proxyspex/walsh_gp_acquisition_test.py",)
_INDEX_GAIN = ("tests/proxyspex/walsh_gp_index_gain_test.py", "-k", "covariance or variance")
_WINDOWS = ("tests/proxyspex/walsh_gp_windows_test.py", "-k", "windows_of or partners or intervals")
_KNOWN = ("tests/proxyspex/side_information_test.py", "-k", "gradient or james")
_RELEVANCE = ("tests/lenses/relaxed_test.py",)
_CORPUS = ("tests/pipeline/corpus_test.py", "-k", "planted or once")
_INFLUENCE = ("tests/baselines/training_data_test.py", "-k", "influence or gradient")
_TRAK = ("tests/baselines/training_data_test.py", "-k", "trak or gradient")
_PACKING = ("tests/engine/packing_test.py",)
_TEXT = ("tests/lenses/text_test.py", "-k", "masked_by_hand or edited_by_hand or no_influence")
_STORE = ("tests/store/store_test.py",)
_DEVICE = ("tests/engine/device_test.py",)
_HOST = ("tests/engine/host_test.py",)
_EVALUATE = ("tests/engine/evaluation_test.py", "tests/engine/stored_evaluation_test.py", "-k", "not killed")

MUTATIONS = (
    # Spectrum.
    Mutation(
        "spex_jax/core/spectrum.py",
        "a factor scales variances once, not by its square",
        "self.variances * factor**2",
        "self.variances * abs(factor)",
        _SPECTRUM,
    ),
    Mutation(
        "spex_jax/core/spectrum.py",
        "parities are joined by or",
        "parity ^= columns[feature]",
        "parity |= columns[feature]",
        _SPECTRUM,
    ),
    Mutation(
        "spex_jax/core/spectrum.py",
        "an odd parity is counted once",
        "self.coefficients.sum() - 2 * odd",
        "self.coefficients.sum() - odd",
        _SPECTRUM,
    ),
    Mutation(
        "spex_jax/core/spectrum.py",
        "truncation may drop the constant",
        "np.where(self.support.any(axis=1), np.abs(self.coefficients), np.inf)",
        "np.abs(self.coefficients)",
        _SPECTRUM,
    ),
    Mutation(
        "spex_jax/core/spectrum.py",
        "a move through given values adds no doubt",
        "self.variances + np.square(move)",
        "self.variances",
        _EXTRAPOLATED,
    ),
    Mutation(
        "spex_jax/core/spectrum.py",
        "an exact spectrum is read with its features reversed",
        "table[masks @ (1 << np.arange(n))] = values",
        "table[masks @ (1 << np.arange(n)[::-1])] = values",
        _SPECTRUM,
    ),
    Mutation(
        "spex_jax/core/spectrum.py",
        "a support that the caller owns is not copied",
        "support if own else support.copy()",
        "support",
        _SPECTRUM,
    ),
    # Indices, interactions and contexts.
    Mutation(
        "spex_jax/core/indices.py",
        "FSII without the sign of the order",
        "return sign * Fraction(t, order + t)",
        "return Fraction(t, order + t)",
        _INDICES,
    ),
    Mutation(
        "spex_jax/core/indices.py",
        "STII counts subsets of one feature less",
        "Fraction(1, math.comb(s, order))",
        "Fraction(1, max(1, math.comb(s - 1, order)))",
        _INDICES,
    ),
    Mutation(
        "spex_jax/core/indices.py",
        "Bernoulli numbers with the other sign of B_1",
        "(m - k + 1) for k in range(m))",
        "(m - k + 1) for k in range(m)) + Fraction(m == 1)",
        _INDICES,
    ),
    Mutation(
        "spex_jax/core/indices.py",
        "SII keeps even differences of the sizes' complement",
        "((r - t + 1) % 2)",
        "((r - t) % 2)",
        _INDICES,
    ),
    Mutation(
        "spex_jax/core/indices.py",
        "FBII counts one size more",
        "math.comb(s - t - 1, order - t)",
        "math.comb(s - t, order - t)",
        _INDICES,
    ),
    Mutation(
        "spex_jax/core/interactions.py",
        "standard errors of correlated terms add up their absolute values",
        "np.bincount(group, gains * column[rows], groups) ** 2",
        "np.bincount(group, np.abs(gains * column[rows]), groups) ** 2",
        _INDICES,
    ),
    Mutation(
        "spex_jax/core/indices.py",
        "the Krawtchouk coefficients lose their sign",
        "(-1) ** (degree - a) * math.comb(k, a)",
        "math.comb(k, a)",
        _CONTEXTS,
    ),
    Mutation(
        "spex_jax/core/contexts.py",
        "sizes of a uniform draw are taken as equally likely",
        'stats.binom.pmf(np.arange(m + 1), m, 0.5) if self.draw == "uniform" else 1 / (m + 1)',
        "1 / (m + 1)",
        _CONTEXTS,
    ),
    # Correction.
    Mutation(
        "spex_jax/analysis/correction.py",
        "all sizes weigh alike in the regression",
        "weight = (n - 1) / (kept * (n - kept)) / len(of_size)",
        "weight = (n - 1) / len(of_size)",
        _CORRECTION,
    ),
    Mutation(
        "spex_jax/analysis/correction.py",
        "the corners of a derivative have no sign",
        "(-1.0) ** (size - within) * each",
        "each",
        _CORRECTION,
    ),
    Mutation(
        "spex_jax/analysis/correction.py",
        "errors keep what the effects explain",
        "values[kept] - spectrum(masks[kept]) - masks[kept] @ effects",
        "values[kept] - spectrum(masks[kept])",
        _CORRECTION,
    ),
    Mutation(
        "spex_jax/analysis/correction.py",
        "SII's empty set takes the error at the empty mask",
        "if index.empty is EmptySet.VALUE",
        "if index",
        _CORRECTION,
    ),
    Mutation(
        "spex_jax/analysis/correction.py",
        "targets keep the mean of their size",
        "features - features.mean(axis=0), targets - targets.mean()",
        "features, targets",
        _CORRECTION,
    ),
    Mutation(
        "spex_jax/analysis/correction.py",
        "the penalty is the least likely one",
        "if surprise < best:",
        "if not np.isfinite(best) or surprise > best:",
        _CORRECTION,
    ),
    Mutation(
        "spex_jax/analysis/correction.py",
        "effects are added to sets of every size",
        "(self.effects if size == 1 else 0.0)",
        "(self.effects if size == 1 else self.effects[sets].sum(axis=1))",
        _CORRECTION,
    ),
    # Peeling.
    Mutation(
        "spex_jax/spex/peeling.py",
        "weak sets are never dropped",
        "weak &= active & (jnp.arange(most_terms) > 0)",
        "weak &= jnp.zeros(most_terms, bool)",
        _PEEL,
    ),
    Mutation(
        "spex_jax/spex/peeling.py",
        "pairs are not searched",
        "searches.insert(1 if n <= _FEW_FEATURES else 2, by_pairs)",
        "pass",
        _PEEL,
    ),
    Mutation(
        "spex_jax/spex/peeling.py",
        "a set may join twice in one round",
        "new &= ~earlier & ~(same(at, known)",
        "new &= ~(same(at, known)",
        _DECODE,
    ),
    Mutation(
        "spex_jax/spex/lattice.py",
        "bins weigh in the standard error as single values",
        "self.bins.shape[1] * jnp.square(self.bins).sum()",
        "jnp.square(self.bins).sum()",
        _LATTICE,
    ),
    Mutation(
        "spex_jax/spex/lattice.py",
        "a score of the bins is not multiplied with their number",
        "at.signs) * left.bins.shape[1]",
        "at.signs)",
        _LATTICE,
    ),
    Mutation(
        "spex_jax/spex/lattice.py",
        "conjugate gradients forget where they start",
        "left = target - times(start)",
        "left = target",
        _LATTICE,
    ),
    Mutation(
        "spex_jax/spex/candidates.py",
        "the bin of a pair is the union of the bins' digits",
        "bin_of[:, None] ^ of.places[c]",
        "bin_of[:, None] | of.places[c]",
        _LATTICE,
    ),
    Mutation(
        "spex_jax/spex/candidates.py",
        "signs are not compared with that of delay 0",
        "negative[:, 1:] ^ negative[:, :1]",
        "negative[:, 1:]",
        _DECODE,
    ),
    # Acquisition.
    Mutation(
        "spex_jax/proxyspex/walsh_gp/acquisition.py",
        "choices before do not explain a covariance",
        "covariance -= xp.matmul(state.rows[:, best], state.rows)",
        "covariance -= 0.0",
        _ACQUISITION,
    ),
    Mutation(
        "spex_jax/proxyspex/walsh_gp/acquisition.py",
        "a gain is twice the information",
        "return 0.5 * xp.log1p(state.variance / noise)",
        "return xp.log1p(state.variance / noise)",
        _ACQUISITION,
    ),
    Mutation(
        "spex_jax/proxyspex/walsh_gp/acquisition.py",
        "a mask may be chosen again",
        "put(state.free, best, False)",
        "free",
        _ACQUISITION,
    ),
    Mutation(
        "spex_jax/proxyspex/walsh_gp/acquisition.py",
        "evaluated masks explain nothing",
        "prior - xp.square(known).sum(axis=0)",
        "prior - xp.zeros(len(pool))",
        _ACQUISITION,
    ),
    Mutation(
        "spex_jax/proxyspex/walsh_gp/acquisition.py",
        "padding counts as evaluated",
        "table.rows.fold[kept] >= 0",
        "table.rows.fold[kept] >= -1",
        _ACQUISITION,
    ),
    Mutation(
        "spex_jax/proxyspex/walsh_gp/acquisition.py",
        "sets that are sure come first",
        "abs(interactions[key]) < _SURE * errors[key]",
        "abs(interactions[key]) > _SURE * errors[key]",
        _ACQUISITION,
    ),
    Mutation(
        "spex_jax/proxyspex/walsh_gp/acquisition.py",
        "corners are spread over the contexts",
        "np.tile(within, (contexts, 1))",
        "np.repeat(within, contexts, 0)",
        _ACQUISITION,
    ),
    # What is known of units.
    Mutation(
        "spex_jax/proxyspex/walsh_gp/index_gain.py",
        "contexts keep units with probability 1 - p",
        "nodes[j] * here + (1 - nodes[j]) * away",
        "nodes[j] * away + (1 - nodes[j]) * here",
        _INDEX_GAIN,
    ),
    Mutation(
        "spex_jax/proxyspex/walsh_gp/index_gain.py",
        "the first order has the other sign",
        "straight = -2 *",
        "straight = 2 *",
        _INDEX_GAIN,
    ),
    Mutation(
        "spex_jax/proxyspex/walsh_gp/index_gain.py",
        "sets of a known spectrum have the other sign",
        "inside * (-2.0) ** order",
        "inside * 2.0**order",
        _INDEX_GAIN,
    ),
    Mutation(
        "spex_jax/proxyspex/walsh_gp/index_gain.py",
        "pairs are derivatives of one unit",
        "ratio[first] * xp.where(alone[:, None], 1.0, ratio[second])",
        "ratio[first]",
        _INDEX_GAIN,
    ),
    Mutation(
        "spex_jax/proxyspex/walsh_gp/windows.py",
        "the last units of a line have no window",
        "range(0, last, _EVERY), max(last, 0)",
        "range(0, last, _EVERY), 0",
        _WINDOWS,
    ),
    Mutation(
        "spex_jax/proxyspex/walsh_gp/windows.py",
        "the nearest of points are the farthest",
        "np.argsort(distance,",
        "np.argsort(-distance,",
        _WINDOWS,
    ),
    Mutation(
        "spex_jax/proxyspex/walsh_gp/neighbours.py",
        "a feature is its own partner",
        "np.fill_diagonal(together, -1.0)",
        "np.fill_diagonal(together, np.inf)",
        _WINDOWS,
    ),
    Mutation(
        "spex_jax/proxyspex/walsh_gp/scales.py",
        "powers of the relevance are expected to be 0",
        "_POWER_PRECISION * (scales.power - 1)",
        "_POWER_PRECISION * scales.power",
        _KNOWN,
    ),
    Mutation(
        "spex_jax/proxyspex/walsh_gp/scales.py",
        "the first order has the power once",
        "2 * pull_first[None]",
        "pull_first[None]",
        _KNOWN,
    ),
    Mutation(
        "spex_jax/proxyspex/preprocessing.py",
        "a known spectrum is not shrunk",
        "share = 1 - (error / coefficient) ** 2",
        "share = 1.0",
        _KNOWN,
    ),
    Mutation(
        "spex_jax/engine/relevance.py",
        "the relevance is the mean derivative",
        "np.sqrt(np.mean(found**2, axis=0))",
        "found.mean(axis=0)",
        _RELEVANCE,
    ),
    Mutation(
        "spex_jax/engine/relevance.py",
        "all gradients count as one",
        "gradients / (len(points) * values)",
        "gradients / values",
        _RELEVANCE,
    ),
    Mutation(
        "spex_jax/analysis/corpus.py",
        "names that were seen once count fully",
        "sum(numbers) * share / (1 + len(numbers) * share)",
        "sum(numbers) / len(numbers)",
        _CORPUS,
    ),
    Mutation(
        "spex_jax/analysis/corpus.py",
        "what is known of a unit is left out",
        "_features(names, own) @ self.weights + by_name",
        "by_name",
        _CORPUS,
    ),
    # Influence and TRAK.
    Mutation(
        "spex_jax/baselines/influence_functions.py",
        "influence is not divided by the number of examples",
        "/ (fn.examples * len(fn.keys))",
        "/ len(fn.keys)",
        _INFLUENCE,
    ),
    Mutation(
        "spex_jax/baselines/influence_functions.py",
        "the Hessian of the conjugate gradients is not damped",
        "(direction,))[1] + damping * direction",
        "(direction,))[1]",
        _INFLUENCE,
    ),
    Mutation(
        "spex_jax/baselines/influence_functions.py",
        "the Hessian itself is not damped",
        "np.float64) + damping * np.eye(count)",
        "np.float64)",
        _INFLUENCE,
    ),
    Mutation(
        "spex_jax/baselines/influence_functions.py",
        "TRAK without the weights 1 - p",
        "_spectra(fn, kernel * weight, own, value_fn.n)",
        "_spectra(fn, kernel, own, value_fn.n)",
        _TRAK,
    ),
    Mutation(
        "spex_jax/baselines/influence_functions.py",
        "TRAK weighs examples by p",
        "jax.nn.sigmoid(-margins)",
        "jax.nn.sigmoid(margins)",
        _TRAK,
    ),
    Mutation(
        "spex_jax/baselines/influence_functions.py",
        "TRAK without the inverse of the Gram matrix",
        "solved = jax.scipy.linalg.cho_solve((factor, True), phi.T)",
        "solved = phi.T + 0 * factor[0, 0]",
        _TRAK,
    ),
    Mutation(
        "spex_jax/baselines/influence_functions.py",
        "TRAK takes the last network again for further ones",
        '_networks(value_fn, "trak", models)',
        '_networks(value_fn, "trak")',
        _TRAK,
    ),
    # Packing and layout.
    Mutation(
        "spex_jax/engine/packing.py",
        "a row may be one place too short",
        "fitting = which >> length",
        "fitting = which >> (length - 1) << 1",
        _PACKING,
    ),
    Mutation(
        "spex_jax/engine/packing.py",
        "each mask goes into the emptiest row",
        "(fitting & -fitting).bit_length() - 1",
        "fitting.bit_length() - 1",
        _PACKING,
    ),
    Mutation(
        "spex_jax/engine/packing.py",
        "the shortest masks are laid out first",
        'np.argsort(-lengths, kind="stable")',
        'np.argsort(lengths, kind="stable")',
        _PACKING,
    ),
    Mutation(
        "spex_jax/engine/packing.py",
        "stand-ins of removed features always take up places",
        "masks @ (self.kept - self.removed)",
        "masks @ self.kept",
        _PACKING,
    ),
    Mutation(
        "spex_jax/lenses/text_parts/layout.py",
        "positions of closed-up tokens begin at 1",
        "prompt.cumsum(-1) - 1",
        "prompt.cumsum(-1)",
        _TEXT,
    ),
    Mutation(
        "spex_jax/lenses/text_parts/layout.py",
        "texts of a row are one segment",
        "scatter(jnp.arange(slots)[:, None], -1)",
        "scatter(0 * jnp.arange(slots)[:, None], -1)",
        _TEXT,
    ),
    # Store.
    Mutation(
        "spex_jax/store/records.py",
        "a checksum is that of the payload without its length",
        'zlib.crc32(payload, zlib.crc32(struct.pack("<I", len(payload))))',
        "zlib.crc32(payload)",
        _STORE,
    ),
    Mutation(
        "spex_jax/store/records.py",
        "values of all records go into the first rows",
        "done = rows.stop",
        "done = 0",
        _STORE,
    ),
    Mutation(
        "spex_jax/store/store.py",
        "masks are known by one byte",
        "(packed[row] == asked).all(axis=1)",
        "(packed[row] == asked).any(axis=1)",
        _STORE,
    ),
    Mutation(
        "spex_jax/store/store.py",
        "sorted hashes are kept after new ablations",
        "        self._sorted = None\n\n",
        "\n",
        _STORE,
    ),
    Mutation(
        "spex_jax/store/store.py",
        "half a record stays after an interrupted write",
        "os.ftruncate(self._file, self._end)",
        "pass",
        _STORE,
    ),
    Mutation(
        "spex_jax/store/store.py",
        "the end of the file does not advance",
        "self._end += len(data)",
        "self._end += 0",
        _STORE,
    ),
    Mutation(
        "spex_jax/store/store.py",
        "values are not copied",
        "self._values.append(np.array(values, np.float64))",
        "self._values.append(np.asarray(values, np.float64))",
        _STORE,
    ),
    # Engine.
    Mutation(
        "spex_jax/engine/device.py",
        "batches in flight are not evaluated again after a lack of memory",
        "start, first = waiting[0][0].start, None",
        "first = None",
        _DEVICE,
    ),
    Mutation(
        "spex_jax/engine/device.py",
        "batches in flight stay after a lack of memory",
        "waiting.clear()",
        "pass",
        _DEVICE,
    ),
    Mutation(
        "spex_jax/engine/device.py",
        "a lack of memory is not remembered",
        "self._limits[self._key] = rows_of_device",
        "pass",
        _DEVICE,
    ),
    Mutation(
        "spex_jax/engine/device.py",
        "the noise compares a row with itself",
        "values[count : count + again]",
        "values[:again]",
        _DEVICE,
    ),
    Mutation(
        "spex_jax/engine/device.py",
        "a batch takes all free memory",
        "taken <= _MEMORY_SHARE * free",
        "taken <= free",
        _DEVICE,
    ),
    Mutation(
        "spex_jax/engine/host.py",
        "a function gets the caller's masks",
        "self._attempt(batch.copy())",
        "self._attempt(batch)",
        _HOST,
    ),
    Mutation(
        "spex_jax/engine/host.py",
        "an answer forgets an earlier failure",
        "first_failure = first_failure or failure",
        "first_failure = failure",
        _HOST,
    ),
    Mutation(
        "spex_jax/engine/host.py",
        "a call that hangs is split into halves",
        "if isinstance(error, _NoAnswer):",
        "if False:",
        _HOST,
    ),
    Mutation(
        "spex_jax/engine/host.py",
        "pauses do not grow",
        "self._options.backoff * 2.0**attempt",
        "self._options.backoff",
        _HOST,
    ),
    Mutation(
        "spex_jax/engine/evaluation.py",
        "values that are not finite go into the store",
        "self._append(masks[finite], values[finite])",
        "self._append(masks, values)",
        _EVALUATE,
    ),
    Mutation(
        "spex_jax/engine/evaluation.py",
        "stored masks are evaluated again",
        "todo = np.flatnonzero(~known)",
        "todo = np.arange(len(known))",
        _EVALUATE,
    ),
    Mutation(
        "spex_jax/engine/evaluation.py",
        "after a failure all other masks are evaluated",
        "                        self.function.stop()\n",
        "",
        _EVALUATE,
    ),
    Mutation(
        "spex_jax/engine/evaluation.py",
        "a mask that is not finite is named by its number among the distinct ones",
        "found, first[todo[rows]], nonfinite",
        "found, todo[rows], nonfinite",
        _EVALUATE,
    ),
)
