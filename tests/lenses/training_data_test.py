import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from lenses.retraining_data import apply, clouds, init

import spex_jax
from spex_jax.core.masks import all_masks
from spex_jax.engine.evaluation import identity_of
from spex_jax.lenses import measure_seed_noise, training_data
from spex_jax.lenses.training_parts import groups

N, T = 26, 5
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return clouds(N, rng), clouds(T, rng)


@pytest.fixture(scope="module")
def lens(data):
    return functools.partial(training_data, init, apply, *data, optimizer=optax.adam(0.05))


def by_hand(fn, mask, seed=0):
    """One training in a Python loop on the examples that are left alone: no weights, no padding, no vmap."""
    kept = np.flatnonzero(np.asarray(fn.kept(mask[None]))[0])
    x, y = np.asarray(fn.x), np.asarray(fn.y)
    of_init, of_order = jax.random.split(fn.keys[seed])
    params = fn.init(of_init)
    state = fn.optimizer.init(params)
    size = fn.batch or fn.examples
    per_pass, taken, number = -(-fn.examples // size), 0, 0
    total = fn.steps if fn.epochs is None else fn.epochs * -(-len(kept) // size)
    while len(kept) and taken < total:
        order = np.arange(fn.examples)
        if fn.batch is not None:
            order = np.asarray(jax.random.permutation(jax.random.fold_in(of_order, number), fn.examples))
        order = order[np.isin(order, kept)]
        places = np.arange(per_pass * size).reshape(per_pass, size)
        for place in places if fn.epochs is None else places[: -(-len(kept) // size)]:
            if taken == total:
                break
            rows = order[place % len(order)][: len(order)] if fn.epochs is None else order[place[place < len(order)]]
            grads = jax.grad(lambda p, rows=rows: fn.loss(fn.apply(p, x[rows]), y[rows]).mean())(params)
            updates, state = fn.optimizer.update(grads, state, params)
            params, taken = optax.apply_updates(params, updates), taken + 1
        number += 1
    return np.asarray(fn.values(params, fn.x_test, fn.y_test))


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {"epochs": 3, "batch": 8},
        {"steps": 7, "batch": 8},
        {"steps": 5},
        {"epochs": 2, "batch": 5, "optimizer": optax.sgd(0.3, momentum=0.9)},
    ],
    ids=["epochs", "steps", "all at once", "momentum"],
)
def test_a_training_is_the_one_by_hand_on_what_is_kept(how, lens):
    value_fn = lens(groups=np.arange(N) % 6, **how)
    masks = all_masks(6)[[63, 0, 18, 46]]
    values = spex_jax.evaluate(value_fn, masks)
    assert values.shape == (4, T)
    expected = np.stack([by_hand(value_fn.fn, mask) for mask in masks])
    np.testing.assert_allclose(values, expected, atol=2e-5)


@pytest.mark.slow
def test_full_batches_are_those_of_the_smaller_data_set(lens, data):
    (x, y), test = data
    x, y = np.tile(x, (6, 1)), np.tile(y, 6)  # more than one part of a batch
    kept = np.random.default_rng(1).random(len(x)) < 0.4
    whole = training_data(init, apply, (x, y), test, groups=np.where(kept, 0, 1), steps=6)
    alone = training_data(init, apply, (x[kept], y[kept]), test, groups=np.zeros(kept.sum(), int), steps=6)
    np.testing.assert_allclose(whole(np.array([[True, False]])), alone(np.array([[True]])), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"epochs": 2, "batch": 8}, {"steps": 4, "batch": 8}, {"steps": 4}], ids=str)
def test_what_is_not_kept_has_no_influence_at_all(how, lens):
    value_fn = lens(groups=np.arange(N) % 4, **how)
    masks = all_masks(4)[[1, 6, 11, 14]]
    fn, whole = value_fn.fn, value_fn(masks)
    for row, mask in enumerate(masks):
        gone = ~np.asarray(fn.kept(mask[None]))[0]
        spoiled = dataclasses.replace(fn, x=jnp.where(gone[:, None], jnp.nan, fn.x), y=jnp.where(gone, -7, fn.y))
        np.testing.assert_array_equal(np.asarray(spoiled(jnp.asarray(masks)))[row], whole[row])


def test_padding_of_full_batches_reads_nothing_else(data):
    x = np.abs(np.tile(data[0][0], (3, 1))[:70])
    x[0] = 0  # where the root has no derivative
    value_fn = training_data(
        lambda key: {"shift": jnp.zeros(()), "out": 0.1 * jnp.ones((4, 3))},
        lambda params, x: jnp.sqrt(x + params["shift"]) @ params["out"],
        (x, np.arange(70) % 3),
        (np.abs(data[1][0]), data[1][1]),
        groups=np.minimum(np.arange(70), 1),
        steps=2,
    )
    assert np.isfinite(value_fn(np.array([[False, True]]))).all()


def test_nothing_kept_leaves_the_initial_network(lens):
    value_fn = lens(groups=np.arange(N) % 4, epochs=2, batch=8)
    params = init(jax.random.split(value_fn.fn.keys[0])[0])
    expected = value_fn.fn.values(params, value_fn.fn.x_test, value_fn.fn.y_test)
    np.testing.assert_allclose(value_fn(np.zeros((1, 4), bool))[0], expected, atol=1e-6)


@pytest.mark.slow
def test_values_do_not_depend_on_batches_and_order(lens):
    value_fn = lens(groups=np.arange(N) % 7, epochs=2, batch=8)
    masks = all_masks(7)[:40]
    together = spex_jax.evaluate(value_fn, masks)
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_allclose(spex_jax.evaluate(value_fn, masks[order], batch_size=7), together[order], atol=1e-5)


@pytest.mark.slow
def test_renumbering_the_groups_permutes_the_masks(lens):
    labels = np.arange(N) % 5
    order = np.random.default_rng(2).permutation(5)
    masks = all_masks(5)
    one, other = (lens(groups=given, steps=4, batch=8) for given in (labels, order[labels]))
    np.testing.assert_allclose(one(masks), other(masks[:, np.argsort(order)]), atol=1e-5)


@pytest.mark.slow
def test_seeds_are_averaged(lens):
    masks = all_masks(3)
    several = lens(groups=np.arange(N) % 3, steps=4, batch=8, seeds=3)
    alone = []
    for seed in range(3):
        fn = dataclasses.replace(several.fn, keys=several.fn.keys[seed : seed + 1])
        alone.append(np.asarray(fn(jnp.asarray(masks))))
    np.testing.assert_allclose(several(masks), np.mean(alone, axis=0), atol=1e-5)
    assert np.std(alone, axis=0).max() > 0.01
    np.testing.assert_array_equal(lens(groups=np.arange(N) % 3, steps=4, batch=8, seeds=3)(masks), several(masks))
    assert np.abs(lens(groups=np.arange(N) % 3, steps=4, batch=8, seeds=3, seed=1)(masks) - several(masks)).max() > 0.01


@pytest.mark.slow
def test_seed_noise_falls_with_the_root_of_the_seeds(lens):
    one, four = (lens(groups=np.arange(N) % 8, steps=10, batch=8, seeds=seeds) for seeds in (1, 4))
    single, mean = (measure_seed_noise(value_fn, masks=32, repeats=4) for value_fn in (one, four))
    assert single.deviation.shape == (T,)
    ratio = np.sqrt((single.deviation**2).mean() / (mean.deviation**2).mean())
    assert 1.6 < ratio < 2.5
    assert (mean.share < single.share + 0.05).all()
    assert one.details.outputs[2].seed_noise.deviation == single.deviation[2]


@pytest.mark.slow
@pytest.mark.parametrize("value", ["margin", "logit", "logprob", "loss", "accuracy"])
def test_values_of_the_test_points(value, lens):
    value_fn = lens(groups=np.arange(N) % 2, steps=3, value=value)
    params = value_fn.fn.trained(jnp.ones((1, 2), bool))
    logits = np.asarray(apply(jax.tree.map(lambda leaf: leaf[0], params), value_fn.fn.x_test), np.float64)
    truth = np.asarray(value_fn.fn.y_test)
    logit = logits[np.arange(T), truth]
    logprob = logit - np.log(np.exp(logits).sum(axis=1))
    expected = {
        "margin": logprob - np.log1p(-np.exp(logprob)),
        "logit": logit,
        "logprob": logprob,
        "loss": -logprob,
        "accuracy": logits.argmax(axis=1) == truth,
    }[value]
    np.testing.assert_allclose(value_fn(np.ones((1, 2), bool))[0], expected, atol=1e-4)


def test_own_losses_values_and_pytrees_of_inputs(data):
    (x, _), (x_test, _) = data
    target, target_test = x.sum(axis=1), x_test.sum(axis=1)

    def regress(params, inputs):
        return inputs["points"] @ params

    value_fn = training_data(
        lambda key: 0.1 * jax.random.normal(key, (4, 1)),
        regress,
        ({"points": x}, target),
        ({"points": x_test}, target_test),
        loss_fn=lambda out, y: (out[:, 0] - y) ** 2,
        value=lambda out, y: out[:, 0],
        groups=np.arange(N) % 3,
        optimizer=optax.sgd(0.05),
        steps=400,
        average=True,
    )
    assert value_fn.outputs == ()
    np.testing.assert_allclose(value_fn(np.ones((1, 3), bool)), target_test.mean(), atol=1e-2)


@pytest.mark.slow
def test_half_precision_stays_near(lens):
    masks = all_masks(3)
    whole, half = (lens(groups=np.arange(N) % 3, steps=8, dtype=dtype)(masks) for dtype in (None, jnp.bfloat16))
    assert 0 < np.abs(whole - half).max() < 0.1


def test_one_explanation_for_each_test_point_from_the_same_trainings(lens, tmp_path):
    value_fn = lens(groups=np.arange(N) % 5, steps=6, identity="clouds")
    several = spex_jax.explain_many(value_fn, budget=32, store=tmp_path, progress=False)
    assert [e.details.test_point for e in several] == list(range(T))
    assert all(e.exact for e in several)
    values = value_fn(several[0].masks)
    for point, e in enumerate(several):
        np.testing.assert_allclose(e.values, values[:, point], atol=1e-6)
        np.testing.assert_allclose(e.spectrum(e.masks), values[:, point], atol=1e-5)
    again = spex_jax.explain_many(value_fn, budget=32, store=tmp_path, progress=False)
    assert again[3].timings == several[3].timings  # out of the folder
    with pytest.raises(ValueError, match="explain_many explains each"):
        spex_jax.explain(value_fn, budget=32)


def test_a_training_that_diverges_is_named_and_left_out_if_asked(data, tmp_path):
    (x, y), test = data
    x = np.where((np.arange(N) % 6 == 2)[:, None], 1e18, x).astype(np.float32)
    value_fn = training_data(
        init, lambda params, x: x @ params["in"] @ params["out"], (x, y), test, groups=np.arange(N) % 6, average=True,
        optimizer=optax.sgd(1.0), steps=3, identity="diverges",
    )  # fmt: skip
    masks = all_masks(6)
    with pytest.raises(ValueError, match=r"32 of 64 values are not finite.*nonfinite='keep'"):
        spex_jax.evaluate(value_fn, masks)
    with pytest.warns(UserWarning, match="32 of 64 values are not finite"):
        values = spex_jax.evaluate(value_fn, masks, nonfinite="keep", store=tmp_path / "a")
    np.testing.assert_array_equal(np.isnan(values), masks[:, 2])
    with pytest.warns(UserWarning, match="not finite"):
        e = spex_jax.explain(value_fn, budget=64, nonfinite="keep")
    assert not e.exact
    assert e.failed.shape == (32, 6)
    assert e.failed[:, 2].all()
    assert (len(e.masks), len(e.ablations.tested)) == (32, 20)
    assert e.faithfulness.r2 < 1
    e.save(tmp_path / "saved")
    np.testing.assert_array_equal(spex_jax.Explanation.load(tmp_path / "saved").failed, e.failed)
    with pytest.raises(ValueError, match="unknown nonfinite 'drop'"):
        spex_jax.evaluate(value_fn, masks, nonfinite="drop")


def initially_silent(key):
    """A last layer of zeros hides what the layers before do with a batch."""
    params = init(key)
    return {**params, "out": jnp.zeros_like(params["out"])}


def hidden_statistics(params, x):
    return apply(params, (x - x.mean(axis=0)) / (1e-3 + x.std(axis=0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": None}, "either steps=.*or epochs="),
        ({"epochs": 3}, "either steps=.*or epochs="),
        ({"batch": 0}, "batch must be a whole number"),
        ({"seeds": 0}, "seeds must be a whole number"),
        ({"value": "margins"}, "unknown value 'margins'"),
        ({"groups": np.zeros(3, int)}, "one label for each of the 26"),
        ({"groups": {"a": range(20), "b": range(19, 26)}}, "must not overlap: group 'b' holds 19"),
        ({"groups": {"a": range(20)}}, "groups miss 6 of 26"),
        ({"groups": {"a": range(26), "b": []}}, "group 'b' must be a non-empty list of example numbers"),
        ({"groups": np.full(26, -1)}, "all labels are below 0"),
        ({"groups": groups.Groups(np.arange(26) % 3, ("a", "b"))}, "from -1 .* to 1, the last of 2 names"),
        ({"groups": groups.Groups(np.arange(26) % 2, ("a", "b", "c"))}, "'c' has no examples"),
        ({"groups": groups.Groups(np.zeros(26), ("a",))}, "whole numbers"),
        ({"groups": [[0, 1], [2]]}, "one label for each example, or a mapping"),
        ({"groups": [1, -1, "a"]}, "got both"),
        ({"optimizer": optax.adam}, "optimizer must be one of optax"),
        ({"optimizer": optax.lbfgs()}, "with gradients and parameters alone"),
        ({"loss_fn": "mse"}, "loss_fn must be callable"),
        ({"dtype": np.int32}, "dtype must be a float type"),
        ({"dtype": "float33"}, "dtype must be a float type"),
        ({"apply_fn": lambda params, x: (apply(params, x),)}, "gave a tuple"),
        ({"apply_fn": lambda params, x: apply(params, x)[:, :1]}, "classes from 0 to 0"),
        ({"init_fn": lambda key: {"n": jnp.zeros(3, jnp.int32)}}, "parameters that are floats"),
        ({"train": (np.zeros((4, 4), np.float32), np.array([0, 1, 2, 2**32]))}, "beyond 32 bits"),
        ({"train": (np.full((4, 4), 1e39), np.zeros(4, int))}, "not finite in float32"),
        ({"groups": {"a": range(27)}}, "there are 0 to 25"),
        ({"test": (np.zeros((2, 3), np.float32), np.zeros(2, np.int32))}, "test points must have the shape"),
        ({"test": (np.zeros((2, 4), np.float32), np.full(2, 3))}, "classes from 0 to 2"),
        ({"test": (np.zeros((2, 4), np.float32), np.zeros(3, np.int32))}, "same number of examples"),
        ({"train": (np.full((4, 4), np.nan), np.zeros(4, int))}, "not finite"),
        ({"train": np.zeros((4, 4))}, "must be a pair"),
        (
            {"apply_fn": lambda params, x: apply(params, x - x.mean(axis=0))},
            "change with the other inputs of its batch",
        ),
        ({"apply_fn": hidden_statistics, "init_fn": initially_silent}, "change with the other inputs of its batch"),
        ({"apply_fn": lambda params, x: apply(params, x)[:, 0]}, r"shape \[B, C\]"),
        ({"loss_fn": lambda logits, y: jnp.zeros(())}, "one loss for each example"),
        ({"value": lambda logits, y: logits}, "one number for each test point"),
        ({"init_fn": None}, "init_fn must be callable"),
        ({"embedding": np.zeros((5, 2))}, r"embedding must be numbers of shape \(26, d\), one row for each example"),
        ({"embedding": np.full((26, 2), np.nan)}, "embedding must be finite, got nan"),
        ({"embedding": np.ones((26, 2))}, "all 26 features in one place"),
    ],
)
def test_refuses(change, message, data):
    arguments = {"init_fn": init, "apply_fn": apply, "train": data[0], "test": data[1], "steps": 2, **change}
    with pytest.raises(ValueError, match=message):
        training_data(**arguments)


def test_groups_are_at_the_mean_of_their_examples(lens, data):
    embedding, labels = data[0][0], np.arange(N) % 4 - 1
    found = lens(groups=labels, embedding=embedding, steps=2).coordinates
    assert found.shape == (3, embedding.shape[1])
    for group in range(3):
        np.testing.assert_allclose(found[group], embedding[labels == group].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(lens(embedding=embedding, steps=2).coordinates, embedding, rtol=1e-6)
    assert lens(groups=labels, steps=2).coordinates is None


def test_regression_targets_need_a_loss(data):
    (x, y), (x_test, y_test) = data
    with pytest.raises(ValueError, match="give loss_fn="):
        training_data(init, apply, (x, y / 2), (x_test, y_test / 2), steps=2)


def test_stores_know_a_training_by_its_functions_and_data(lens, data, tmp_path):
    one = [lens(steps=2), lens(steps=2), lens(steps=3), lens(steps=2, optimizer=optax.sgd(0.1)), lens(steps=2, seed=1)]
    found = [identity_of(each) for each in one]
    assert found[0] == found[1]
    assert len(set(found)) == 4

    class Network:
        def apply(self, params, x):
            return apply(params, x)

    with pytest.raises(ValueError, match=r"store_key=.*identity=.*Network may hold anything"):
        spex_jax.evaluate(
            training_data(init, Network().apply, *data, steps=2), np.ones((1, N), bool), store=tmp_path / "store"
        )


def test_seed_noise_without_what_a_seed_adds_to_all_masks(data):
    def offset(params, x):
        return apply(params["net"], x) + 5 * jax.lax.stop_gradient(params["offset"]) * jnp.array([1.0, 0, 0])

    def with_offset(key):
        return {"net": init(jax.random.key(0)), "offset": jax.random.normal(key)}

    value_fn = training_data(with_offset, offset, *data, groups=np.arange(N) % 4, steps=5, value="logit")
    noise = measure_seed_noise(value_fn, masks=16, repeats=6)
    zeros = data[1][1] == 0
    assert (noise.deviation[zeros] > 2).all()
    np.testing.assert_allclose(noise.deviation[~zeros], 0, atol=0.05)
    with pytest.raises(ValueError, match="takes no store"):
        measure_seed_noise(value_fn, store="somewhere")


def test_refuses_seed_noise_of_other_functions():
    with pytest.raises(ValueError, match=r"lenses\.training_data"):
        measure_seed_noise(spex_jax.ValueFunction(lambda masks: masks[:, 0], 4))


@pytest.mark.slow
def test_planted_duplicates_are_redundant_and_wrong_labels_harmful():
    rng = np.random.default_rng(3)
    x, y = clouds(60, rng, spread=0.4)
    labels = np.arange(60) // 6  # ten groups
    # Twins: the only examples of class 2 near a spot of their own, twice. Wrong: class 0's spot with class 1's label.
    spot = np.array([-2.0, -2.0, 0, 2.0], np.float32)
    x[labels == 3], y[labels == 3] = spot + 0.1 * rng.normal(size=(6, 4)), 2
    x[labels == 4], y[labels == 4] = x[labels == 3], 2
    x[labels == 5], y[labels == 5] = np.array([2.0, 0, 0, 0]) + 0.1 * rng.normal(size=(6, 4)), 1
    test = (np.stack([spot, np.array([2.0, 0, 0, 0], np.float32)]), np.array([2, 0]))
    value_fn = training_data(init, apply, (x, y), test, groups=labels, steps=60, optimizer=optax.adam(0.03), seeds=4)
    twins, wrong = spex_jax.explain_many(value_fn, budget=1024, progress=False)
    pairs = twins.interactions("FSII", max_order=2).order(2)
    assert pairs.top(1)[0][0] == (3, 4)
    assert pairs[3, 4] < 0
    effects = wrong.interactions("SV").order(1)
    assert min(range(10), key=lambda unit: effects[unit,]) == 5


def test_a_planted_pair_of_groups_is_synergistic():
    """XOR: two opposite corners are of one class, the two others, always kept, of the other. The middle can only be of
    the first class where both of its corners are there.
    """
    rng = np.random.default_rng(0)
    corners = np.array([[-1, -1], [1, 1], [-1, 1], [1, -1]])
    x = np.concatenate([np.repeat(corners, 8, axis=0), np.zeros((32, 2))]) + 0.1 * rng.normal(size=(64, 2))
    x = np.column_stack([x, np.repeat([0, 3], 32), np.ones(64)]).astype(np.float32)  # the second half is far away
    y = np.concatenate([np.repeat([0, 0, 1, 1], 8), np.full(32, 2)])
    divided = np.concatenate([np.repeat([0, 1, -1, -1], 8), 2 + np.arange(32) % 4])
    test = (np.array([[0, 0, 0, 1]], np.float32), np.array([0]))
    value_fn = training_data(init, apply, (x, y), test, groups=divided, steps=150, optimizer=optax.adam(0.03), seeds=4)
    pairs = spex_jax.explain_many(value_fn, budget=64, progress=False)[0].interactions("FSII", max_order=2)
    (first, effect), (_, next_pair) = pairs.top(2, order=2)
    assert first == (0, 1)
    assert effect > 4 * abs(next_pair)
