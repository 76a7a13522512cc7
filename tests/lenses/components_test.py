"""Parts of language models removed by the lens, against the same removed one at a time in plain NumPy."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lenses.components_oracle import Network, ablated, read_out, units_of
from models.directories import GOLDEN

import spex_jax
from spex_jax.fingerprints import fingerprint
from spex_jax.lenses import components
from spex_jax.lenses.component_parts.component_units import component_units

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Longer than the windows of Gemma, which are 4 tokens.
PROMPTS = [[1, 7, 22, 9, 30, 13, 5], [1, 31, 8, 17], [1, 12, 28, 6, 39]]
CORRUPTED = [[1, 8, 20, 9, 33, 14, 5], [1, 10, 8, 21], [1, 12, 25, 38, 11]]
REFERENCE = [[1, 4, 19], [1, 35, 2, 16, 24, 3]]
EVEN = [[1, 7, 22, 9, 30, 13], [1, 31, 8, 17, 5, 2], [1, 12, 28, 6, 39, 21]]
EVEN_REFERENCE = [[1, 36, 14, 10, 27, 18], [1, 5, 23, 37, 11, 26]]
BATCH = 14
FAMILIES = ("gpt2", "llama3", "llama_linear", "gemma2", "gemma3")


def some_masks(n, seed=0):
    """All kept, none, single removals from the first to the last, and others at random."""
    rng = np.random.default_rng(seed)
    masks = rng.random((BATCH, n)) < rng.uniform(0.2, 0.9, (BATCH, 1))
    masks[:6] = True
    masks[1] = False
    for row, unit in enumerate(np.linspace(0, n - 1, 4).astype(int), start=2):
        masks[row, unit] = False
    return masks


def spread(given, count, places):
    """[P, K] of an id, one for each prompt, or [P, K]."""
    if given is None:
        return None
    given = np.asarray(given)
    return np.broadcast_to(given[:, None] if given.ndim == 1 else given, (count, places)).tolist()


def by_hand(model, prompts, units, masks, *, removal, value, at=None, over="tokens", **options):
    """Values [M, P]."""
    network = Network.of(model)
    other = {key: options.pop(key, None) for key in ("reference", "corrupted")}
    places = np.asarray(options.get("read", 0))
    places = places.shape[1] if places.ndim == 2 else 1
    options |= {key: spread(options.get(key), len(prompts), places) for key in ("read", "target", "contrast")}
    whole = [network.forward(prompt)[0] for prompt in prompts]
    found = []
    for mask in masks:
        logits = ablated(network, prompts, units, mask, removal, at=at, over=over, **other)
        found.append(read_out(value, logits, whole, prompts, **options))
    return np.array(found)


def ask(value_fn, masks):
    return spex_jax.evaluate(value_fn, masks, batch_size=BATCH, progress=False)


@pytest.mark.parametrize("name", FAMILIES)
def test_whole_networks_by_hand_are_those_of_transformers(name, load):
    network = Network.of(load(name))
    with np.load(GOLDEN / "huggingface.npz") as golden:
        for row, length in ((0, 21), (2, 1)):
            logits, _ = network.forward(golden["tokens"][row, :length])
            np.testing.assert_allclose(logits, golden[name][row, :length], atol=2e-5)


# Members as the lens reads them, and the parts they hold. A head and the attention of its layer are different parts.
ACROSS = {
    "early": (["L0H1", "L0MLP"], [("heads", 0, 1), ("mlp", 0, None)]),
    "heads": (["L0H2:4", "L2H1"], [("heads", 0, 2), ("heads", 0, 3), ("heads", 2, 1)]),
    "group": (["L1KV1", "L2N3"], [("heads", 1, 2), ("heads", 1, 3), ("neurons", 2, 3)]),
    "neurons": (["L1N0:18", "L2N30"], [("neurons", 1, m) for m in range(18)] + [("neurons", 2, 30)]),
    "attention": (["L2ATTN"], [("attention", 2, None)]),
    "late": (["L2MLP", "L0N5"], [("mlp", 2, None), ("neurons", 0, 5)]),
}
LATE = [["L2H0", "L2MLP"], ["L1"], ["L2H3", "L2H1"]]
LATE_PARTS = [
    [("heads", 2, 0), ("mlp", 2, None)],
    [("attention", 1, None), ("mlp", 1, None)],
    [("heads", 2, 3), ("heads", 2, 1)],
]
READ = [[0, -1, 3], [-2, 0, 1], [4, 2, -3]]
NEXT = [[7, 12, 30], [17, 31, 8], [5, 6, 28]]
AT = np.array([[0, 1, 1, 0, 0, 0, 1], [1, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0]], bool)
LETTERS = [3, 7, 12, 17, 30, 31, 8, 5, 6, 28]

# Without a target a program more is compiled, which is why most have one.
CASES = {
    "gpt2 heads zero": ("gpt2", "heads", {"removal": "zero", "value": "logit", "target": [4, 9, 33]}),
    "gpt2 neurons rescaled": (
        "gpt2",
        "neurons",
        {"layers": 1, "removal": "zero_rescaled", "value": "margin", "target": [4, 9, 33]},
    ),
    "gpt2 layers mean of each position": (
        "gpt2",
        "layers",
        {
            "removal": "mean",
            "mean_over": "prompts",
            "value": "logit_diff",
            "target": 8,
            "contrast": 20,
            "positions": [1, 5],
        },
    ),
    "llama kv_groups resampled": (
        "llama3",
        "kv_groups",
        {"removal": "resample", "value": "logprob", "target": 3, "positions": [1, 3], "per_prompt": True},
    ),
    "llama mlps mean of reference": ("llama3", "mlps", {"removal": "mean", "reference": REFERENCE, "value": "loss"}),
    "llama groups mean": (
        "llama3",
        ACROSS,
        {"removal": "mean", "value": "accuracy", "read": READ, "target": NEXT, "choices": LETTERS, "per_prompt": True},
    ),
    "llama heads of late layers": (
        "llama3",
        "heads",
        {
            "layers": [2, 1],
            "removal": "resample",
            "value": "logit_diff",
            "target": 8,
            "contrast": [4, 9, 33],
            "read": [2, -1, 1],
        },
    ),
    "linear heads rescaled": (
        "llama_linear",
        "heads",
        {"removal": "zero_rescaled", "value": "logit_diff", "target": NEXT, "contrast": [11, 2, 3], "read": READ},
    ),
    "linear heads mean of each position": (
        "llama_linear",
        "heads",
        {"removal": "mean", "mean_over": "prompts", "reference": EVEN_REFERENCE, "value": "loss", "target": [1, 2, 3]},
    ),
    "gemma2 heads mean": ("gemma2", "heads", {"removal": "mean", "value": "kl", "positions": AT, "per_prompt": True}),
    "gemma2 mlps zero": (
        "gemma2",
        "mlps",
        {"removal": "zero", "value": "logprob", "choices": LETTERS, "read": -2},
    ),
    "gemma2 late groups resampled": ("gemma2", "late", {"removal": "resample", "value": "loss", "read": [2, 0, 1]}),
    "gemma3 groups rescaled": (
        "gemma3",
        ACROSS,
        {
            "removal": "zero_rescaled",
            "value": "margin",
            "target": NEXT,
            "choices": LETTERS,
            "read": READ,
            "positions": [2, 0],
        },
    ),
    "attention alone, heads rescaled": (
        "gpt2_attention",
        "heads",
        {"removal": "zero_rescaled", "value": "logit", "positions": AT, "target": 7},
    ),
    "attention alone, layers zero": (
        "llama3_attention",
        "layers",
        {"removal": "zero", "value": "kl", "choices": LETTERS},
    ),
}


def both(model, given, options):
    """The lens, and the values by hand at masks."""
    options = dict(options)
    prompts = EVEN if options.get("mean_over") == "prompts" else PROMPTS
    if options["removal"] == "resample":
        options["corrupted"] = CORRUPTED
    if isinstance(given, dict):
        units, parts = {key: members for key, (members, _) in given.items()}, [part for _, part in given.values()]
    elif given == "late":
        units, parts = LATE, LATE_PARTS
    else:
        layers = options.get("layers")
        units = given
        parts = units_of(Network.of(model), given, [layers] if isinstance(layers, int) else layers and sorted(layers))
    value_fn = components(model, prompts, units=units, **options)
    at = options.pop("positions", None)
    if at is not None and np.asarray(at).dtype != bool:
        at = [np.isin(np.arange(len(prompt)), at) for prompt in prompts]
    elif at is not None:
        at = [row[: len(prompt)] for row, prompt in zip(at, prompts, strict=True)]
    options.pop("layers", None)
    per_prompt, over = options.pop("per_prompt", False), options.pop("mean_over", "tokens")

    def expected(masks):
        found = by_hand(model, prompts, parts, masks, at=at, over=over, **options)
        return found if per_prompt else found.mean(axis=1)

    return value_fn, expected, parts


@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_parts_removed_by_hand(case, load):
    name, given, options = CASES[case]
    value_fn, expected, parts = both(load(name), given, options)
    assert value_fn.n == len(parts)
    assert value_fn.on_device
    assert value_fn.outputs == ((3,) if options.get("per_prompt") else ())
    if isinstance(given, dict):
        assert value_fn.names == tuple(given)
    masks = some_masks(value_fn.n)
    wanted = expected(masks)
    if options["value"] != "accuracy":  # the removals do something
        assert len(np.unique(wanted.round(4), axis=0)) > 0.8 * len(np.unique(masks, axis=0))
    np.testing.assert_allclose(ask(value_fn, masks), wanted, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama_linear", "gemma2"])
@pytest.mark.parametrize("kind", ["heads", "neurons"])
def test_by_hand_parts_that_do_nothing_have_weights_of_zero(kind, name, load):
    """The two ways to remove parts by hand agree, so that the lens is compared with both."""
    network = Network.of(load(name))
    units = units_of(network, kind)
    for mask in some_masks(len(units))[[1, 2, 5, 7]]:
        removed = [unit[0] for unit, kept in zip(units, mask, strict=True) if not kept]
        without = network.with_factors(dict.fromkeys(removed, 0))
        for prompt, logits in zip(PROMPTS, ablated(network, PROMPTS, units, mask, "zero"), strict=True):
            np.testing.assert_allclose(logits, without.forward(prompt)[0], atol=1e-10)
        count = len(units) // network.config.num_layers
        factors = {unit[0]: mask[i // count * count :][:count].mean() for i, unit in enumerate(units)}
        rescaled = network.with_factors({**factors, **dict.fromkeys(removed, 0)})
        for prompt, logits in zip(PROMPTS, ablated(network, PROMPTS, units, mask, "zero_rescaled"), strict=True):
            np.testing.assert_allclose(logits, rescaled.forward(prompt)[0], atol=1e-10)


def test_units_are_at_their_layers(llama):
    def places(units, layers=None):
        return components(llama, PROMPTS, units=units, layers=layers, value="loss").coordinates

    np.testing.assert_array_equal(places("heads")[:, 0], np.repeat([0, 1, 2], 4))
    np.testing.assert_array_equal(places({"one": "L0H1", "two": ["L2H0", "L1MLP"]}), [[0], [1.5]])
    assert places("heads", [2]) is None


def test_names_of_units(llama):
    def names(units, layers=None):
        return component_units(llama, units, layers).names

    assert names("heads") == tuple(f"L{layer}H{head}" for layer in range(3) for head in range(4))
    assert names("kv_groups", [2]) == ("L2KV0", "L2KV1")
    assert names("mlps", 1) == ("L1MLP",)
    assert names("layers") == ("L0", "L1", "L2")
    assert names("neurons", range(2))[35:37] == ("L0N35", "L1N0")
    assert names({"one": "L0H1", "two": ["L2H0:2", "L1MLP"]}) == ("one", "two")
    assert names(["L0H1", ["L2KV1"]]) == ("L0H1", "L2KV1")


# To more than the longest prompt, and to it alone.
PADDED = {
    "lists": (PROMPTS, None),
    "right": (
        np.array([[*p, *[23] * (8 - len(p))] for p in PROMPTS]),
        [[1] * len(p) + [0] * (8 - len(p)) for p in PROMPTS],
    ),
    "left": (
        np.array([[*[23] * (7 - len(p)), *p] for p in PROMPTS]),
        [[0] * (7 - len(p)) + [1] * len(p) for p in PROMPTS],
    ),
}


def padded(form, positions):
    """Options of the lens for a form of the prompts."""
    mask = PADDED[form][1]
    options = {**CASES["llama kv_groups resampled"][2], "positions": positions}
    if mask is None:
        return {"corrupted": CORRUPTED, **options}
    corrupted = np.full(np.shape(mask), 14)  # other tokens at the padding
    corrupted[np.array(mask, bool)] = np.concatenate(CORRUPTED)
    return {"corrupted": corrupted, "attention_mask": mask, **options}


@pytest.mark.parametrize("form", PADDED)
def test_padding_has_no_influence(form, load):
    model, units, options = load("llama3"), *CASES["llama kv_groups resampled"][1:]
    _, expected, _ = both(model, units, options)
    value_fn = components(model, PADDED[form][0], units=units, **padded(form, options["positions"]))
    masks = some_masks(value_fn.n, seed=1)
    np.testing.assert_allclose(ask(value_fn, masks), expected(masks), atol=1e-4)


@pytest.mark.parametrize("form", ["right", "left"])
def test_positions_as_an_array_are_those_of_the_tokens_as_an_array(form, load):
    """At [P, L] stands whether a part is removed at the token that stands there in `tokens`."""
    model, units, options = load("llama3"), *CASES["llama kv_groups resampled"][1:]
    _, expected, _ = both(model, units, {**options, "positions": AT})
    tokens, mask = PADDED[form]
    positions = np.zeros(tokens.shape, bool)
    positions[np.array(mask, bool)] = np.concatenate([AT[i, : len(prompt)] for i, prompt in enumerate(PROMPTS)])
    value_fn = components(model, tokens, units=units, **padded(form, positions))
    masks = some_masks(value_fn.n)
    np.testing.assert_allclose(ask(value_fn, masks), expected(masks), atol=1e-4)


def test_one_prompt_may_come_without_its_axis(llama):
    alone, first = (
        components(llama, tokens, units="layers", removal="zero", value="logit", target=3, per_prompt=True)
        for tokens in (EVEN[0], [EVEN[0]])
    )
    assert alone.outputs == (1,)
    assert fingerprint(alone.fn, 4) == fingerprint(first.fn, 4)


@pytest.mark.slow
def test_values_do_not_depend_on_the_batch(llama):
    value_fn = components(llama, PROMPTS, units="heads", removal="mean", value="logit", target=5)
    # Those of late layers alone begin there, among others that begin with the first layer.
    masks = np.concatenate([~np.eye(12, dtype=bool), some_masks(12)])
    expected = spex_jax.evaluate(value_fn, masks, batch_size=64, progress=False)
    by_order = by_hand(
        llama, PROMPTS, units_of(Network.of(llama), "heads"), masks, removal="mean", value="logit", target=5
    )
    np.testing.assert_allclose(expected, by_order.mean(axis=1), atol=1e-4)
    order = np.random.default_rng(1).permutation(len(masks))
    for size in (1, 3, 64):
        found = spex_jax.evaluate(value_fn, masks[order], batch_size=size, progress=False)
        np.testing.assert_allclose(found, expected[order], atol=1e-5)
    for row in (11, 12):  # a late head alone in its batch, and nothing removed at all
        found = spex_jax.evaluate(value_fn, masks[row : row + 1], batch_size=3, progress=False)
        np.testing.assert_allclose(found, expected[row], atol=1e-5)


@pytest.mark.parametrize("case", ["gemma2 late groups resampled", "linear heads rescaled"])
def test_gradients_are_those_of_finite_differences(case, load):
    """A number between is a part that is replaced in part."""
    value_fn, expected, _ = both(load(CASES[case][0]), *CASES[case][1:])
    assert value_fn.device.relaxed
    whole = jnp.ones((1, value_fn.n), jnp.float32)
    gradient = jax.jit(jax.grad(lambda masks: value_fn.fn(masks)[0]))(whole)[0]
    assert np.abs(gradient).max() > 1e-2
    step = 1e-4  # from within [0, 1] only, and so by three values to the second order
    rows = np.concatenate([1 - step * np.eye(value_fn.n), 1 - 2 * step * np.eye(value_fn.n), whole])
    once, twice, none = np.split(expected(rows), [value_fn.n, 2 * value_fn.n])
    np.testing.assert_allclose(gradient, (3 * none - 4 * once + twice) / (2 * step), atol=1e-4)


@pytest.mark.slow
def test_states_of_few_layers_are_kept_where_memory_is_short(monkeypatch, load):
    model = load("llama3")
    masks = ~np.eye(model.config.num_layers, dtype=bool)
    lens = functools.partial(components, model, PROMPTS, units="layers", removal="zero", value="logit", target=3)
    whole = lens()
    monkeypatch.setattr(importlib.import_module("spex_jax.lenses.component_lens"), "_TRUNK", 1)
    short = lens()
    assert len(whole.fn.entering) == len(masks) > len(short.fn.entering) == 1
    assert short.device.order_of(masks).tolist() == [0] * len(masks)
    np.testing.assert_allclose(short(masks), whole(masks), atol=1e-5)


def test_identities_tell_what_stands_for_removed_parts_apart(llama):
    """What is recorded is left out of the identity, so that the rest must say what it is of."""
    other = [[2, 5, 9, 11], [3, 1, 4, 1]]
    tokens = [[1, 7, 22, 9], [1, 31, 8, 17]]
    options = [
        {"removal": "zero"},
        {"removal": "zero_rescaled"},
        {"removal": "mean"},
        {"removal": "mean", "mean_over": "prompts"},
        {"removal": "mean", "reference": other},
        {"removal": "mean", "reference": other, "mean_over": "prompts"},
        {"removal": "resample", "corrupted": other},
        {"removal": "resample", "corrupted": tokens},
        {"removal": "zero", "positions": [1]},
        {"removal": "zero", "read": 2},
    ]
    found = [fingerprint(components(llama, tokens, value="logit", target=3, **given).fn, 4) for given in options]
    assert None not in found
    assert len(set(found)) == len(options)
    again = components(llama, np.array(tokens), value="logit", target=[3, 3], **options[3])
    assert fingerprint(again.fn, 4) == found[3]
