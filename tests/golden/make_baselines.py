"""Makes baselines.npz: what shapiq, lime and scikit-learn say of the same masks, values and weights.

Needs shapiq and lime (tests need neither): python tests/golden/make_baselines.py
"""

import importlib.metadata
import json
import pathlib

import numpy as np
from lime.lime_text import LimeTextExplainer
from shapiq.approximator import KernelSHAP, PermutationSamplingSV, RegressionFBII, RegressionFSII
from shapiq.approximator.regression import base
from sklearn.linear_model import Lasso
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDER = pathlib.Path(__file__).parent
N = 10

REGRESSIONS = {
    "kernel_shap": (KernelSHAP, 1, 90),
    "faith_shapley_2": (RegressionFSII, 2, 150),
    "faith_shapley_3": (RegressionFSII, 3, 420),
    "banzhaf": (RegressionFBII, 1, 90),
    "faith_banzhaf_2": (RegressionFBII, 2, 150),
}


def game(masks):
    """Singles, pairs, a triple and a smooth part of all units together."""
    x = np.asarray(masks, np.float64).reshape(-1, N)
    rng = np.random.default_rng(7)
    weights, pairs = rng.normal(size=N), rng.normal(size=(N, N)) / 3
    return 2 + x @ weights + np.einsum("mi,ij,mj->m", x, pairs, x) + x[:, 2] * x[:, 4] * x[:, 7] + np.tanh(x @ weights)


def regression(approximator, budget):
    """Masks, the weights of their rows, and what is found."""
    found = approximator.approximate(budget, game)
    sampler = approximator._sampler
    masks = sampler.coalitions_matrix.astype(bool)
    kernel = approximator._init_log_kernel_weights(1)
    weights = np.exp(kernel[masks.sum(axis=1)] + sampler.log_sampling_adjustment_weights)
    sets = [members for members in found.interaction_lookup if members]
    return masks, weights, sets, np.array([found[members] for members in sets])


def permutations():
    """The permutations that shapiq draws, by the masks that it asks, and what it finds."""
    asked = []

    def watched(masks):
        asked.append(np.atleast_2d(masks).copy())
        return game(masks)

    found = PermutationSamplingSV(N, random_state=0).approximate(2 + 12 * (N - 1), watched)
    prefixes = np.concatenate([part for part in asked if len(part) > 1]).reshape(-1, N - 1, N)
    steps = np.diff(np.pad(prefixes.astype(int), ((0, 0), (1, 1), (0, 0))), axis=1)
    steps[:, -1] = 1 - prefixes[:, -1]
    return steps.argmax(axis=2), np.array([found[(i,)] for i in range(N)])


def lime_of_words():
    """The masks that LIME draws for a text of N words, its intercept and its effects."""
    words = [f"w{i}" for i in range(N)]
    drawn = []

    def classifier(texts):
        masks = np.array([[word in text.split() for word in words] for text in texts])
        drawn.append(masks)
        return np.stack([-game(masks), game(masks)], axis=1)

    explainer = LimeTextExplainer(feature_selection="none", random_state=0)
    found = explainer.explain_instance(" ".join(words), classifier, labels=(1,), num_features=N, num_samples=200)
    effects = dict(found.local_exp[1])
    position = {found.domain_mapper.indexed_string.word(i): i for i in range(N)}
    return drawn[0], found.intercept[1], np.array([effects[position[word]] for word in words])


def main():
    """Writes the file."""
    # Its normal equations with weights of 1e8 lose up to 3e-5; its singular value decomposition does not.
    solve = base.solve_regression
    base.solve_regression = lambda **given: solve(**{**given, "use_svd": True})
    arrays = {}

    def add(name, masks, **others):
        arrays.update({f"{name}/masks": np.packbits(masks, axis=1), f"{name}/values": game(masks)})
        arrays.update({f"{name}/{key}": value for key, value in others.items()})

    for name, (kind, order, budget) in REGRESSIONS.items():
        options = {} if kind is KernelSHAP else {"max_order": order}
        approximator = kind(N, random_state=0, pairing_trick=name == "faith_shapley_3", **options)
        masks, weights, sets, found = regression(approximator, budget)
        support = np.zeros((len(sets), N), bool)
        for row, members in enumerate(sets):
            support[row, list(members)] = True
        add(name, masks, weights=weights, support=np.packbits(support, axis=1), found=found)
    orders, found = permutations()
    prefixes = np.argsort(orders, axis=1)[:, None, :] < np.arange(N + 1)[:, None]
    masks = np.unique(prefixes.reshape(-1, N), axis=0)
    add("permutation_shapley", masks, permutations=orders.astype(np.int8), found=found)
    masks, intercept, effects = lime_of_words()
    add("lime", masks, found=np.append(effects, intercept))
    pipeline = make_pipeline(StandardScaler(), Lasso(alpha=0.3)).fit(masks.astype(float), game(masks))
    add("lasso", masks, predictions=pipeline.predict(masks.astype(float)))
    versions = {name: importlib.metadata.version(name) for name in ("shapiq", "lime", "scikit-learn")}
    np.savez_compressed(FOLDER / "baselines.npz", versions=np.array(json.dumps(versions)), **arrays)


if __name__ == "__main__":
    main()
