"""Every compiled function of the package lowers for TPU and CUDA, on a machine that has neither."""

import dataclasses
import importlib
import pkgutil
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from lenses import trained_decoder
from lenses.retraining_data import apply, clouds, init
from models.directories import write_model

import spex_jax
from spex_jax.lenses.values import VALUES
from spex_jax.proxyspex import perceptrons
from spex_jax.proxyspex.extraction import _BATCH
from spex_jax.proxyspex.out_of_core.block_products import Sums, Terms
from spex_jax.proxyspex.walsh_gp import Scales
from spex_jax.proxyspex.walsh_gp.index_gain import Targets
from spex_jax.proxyspex.walsh_gp.prior import PriorSets
from spex_jax.proxyspex.walsh_gp.scales import Draws
from spex_jax.proxyspex.walsh_gp.windows import Windows
from spex_jax.spex.bch import bch

# The engine compiles what others give it (its programs are the masked forwards below), so that its functions have no
# example arguments of their own.
ENGINE = {"engine"}

# N rows, n features, B fits, R kernels, K terms, P candidates besides, D draws, C stops of a training.
N, n, B, R, K, P, D, C = 64, 16, 2, 3, 8, 4, 5, 3


def real(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def whole(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def mask(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.bool_)


def together(arguments):
    """B of each."""
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct((B, *array.shape), array.dtype), arguments)


KEY = jax.eval_shape(lambda: jax.random.key(0))
KEYS = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), B))
SCALES = Scales(log_scale=real(R, n), log_amplitude=real(R), log_first=real(n), log_constant=real(), log_noise=real())
WINDOWS = Windows(whole(C, 4), mask(C, 4))
PLACED = dataclasses.replace(SCALES, log_window_scale=real(C, 4), log_window_amplitude=real(C), windows=WINDOWS)
SETS = PriorSets(real(K, n), real(K))
KNOWN = dataclasses.replace(SCALES, log_sets=real(), sets=SETS, power=real(R + 2), relevance=real(n))
TARGETS = Targets(whole(K), whole(K), real(K, C), real(C))
PARAMS = jax.eval_shape(
    lambda keys: jax.vmap(lambda key: perceptrons.Perceptron().init(key, jnp.zeros((1, n))))(keys), KEYS
)
DRAWS = Draws(real(R, n), whole(4, 32))
TABLE = (real(N, n), real(N))  # signs and targets
FITS = (*TABLE, real(B, N), real(B, N))  # with the rows of each fit and those on which it is scored
POOL = (mask(P, n), real(N, P))
BITS = jax.ShapeDtypeStruct((N, n // 8), jnp.uint8)
TERMS = Terms(whole(K, 3), real(K, 3), real(K, 3))


def peeling(b, t, uniform, every=0):
    """Arguments of a design of 2^b bins whose code corrects t errors, with so many sets that are tried."""
    code = bch(n, t)
    masks = 3 * (code.checks + 1) * 2**b + uniform
    arguments = (
        real(masks),
        whole(3, code.checks + 1, 2**b),
        mask(3, n, b),
        mask(uniform, n),
        real(t + 1),
        mask(every, n),
    )
    return arguments, {"code": code, "most_terms": 6 * 2**b}


# Module and function, and after a space what is different about these arguments: arguments and static arguments.
CASES = {
    "proxyspex.walsh_gp.acquisition.greedy_information": (
        (SCALES, real(N, n), mask(N), real(P, n), mask(P), mask(n)),
        {"count": 3},
    ),
    "proxyspex.walsh_gp.acquisition.greedy_information index": (
        (SCALES, real(N, n), mask(N), real(P, n), mask(P), mask(n), TARGETS),
        {"count": 3},
    ),
    "proxyspex.walsh_gp.index_gain.covariances": ((KNOWN, TARGETS, real(N, n), mask(n)), {}),
    "proxyspex.extraction.grow": (
        (*TABLE, mask(n), real(R, n), real(R), real(n)),
        {"max_degree": 3, "front": K},
    ),
    "proxyspex.extraction._evaluate": ((real(2 * _BATCH, n), mask(K, n), real(K)), {}),
    "proxyspex.extraction._least_squares": ((*TABLE, mask(K, n)), {}),
    "proxyspex.regression.lasso.lasso_path": ((*FITS, mask(n)), {"max_degree": 3}),
    "proxyspex.regression.lasso.lasso_path pool": ((*FITS, mask(n), whole(), POOL), {"max_degree": 3}),
    "proxyspex.perceptrons.train": ((PARAMS, *TABLE, whole(B, 10, 2, K), real(B)), {}),
    "proxyspex.perceptrons.answers": ((PARAMS, real(N, n)), {}),
    "proxyspex.out_of_core.block_products._accumulate": (
        (
            Sums(real(n, 4), real(K, 4), real(2, 4)),
            BITS,
            real(N, 1),
            real(N, 2),
            whole(4),
            TERMS,
            (real(n, 4), real(K, 4)),
        ),
        {},
    ),
    "proxyspex.out_of_core.block_products._predict": ((BITS, TERMS, (real(n, 4), real(K, 4))), {}),
    "proxyspex.out_of_core.block_products._add_pairs": ((real(n, n), BITS, BITS, real(N, 1)), {}),
    "proxyspex.out_of_core.block_products._add_extensions": (((real(K, n), real(K)), BITS, real(N, 1), TERMS), {}),
    "proxyspex.out_of_core.block_products._add_gram": (
        ((real(2, K, K), real(2, K)), BITS, real(N, 1), real(N, 2), TERMS),
        {},
    ),
    "proxyspex.out_of_core.block_products._add_correlations": ((real(2, K), BITS, real(N, 1), real(N, 2), TERMS), {}),
    "proxyspex.regression.pursuit.pursue": ((*FITS, mask(n)), {"max_degree": 3, "most_terms": K}),
    "proxyspex.regression.pursuit.pursue pool": (
        (*FITS, mask(n), whole(), POOL),
        {"max_degree": 3, "most_terms": K, "at_once": 2},
    ),
    "proxyspex.regression.screening._best_partners": ((*TABLE, mask(n)), {"start": 4, "block": 8}),
    "proxyspex.regression.screening.characters_on_rows": ((real(N, n), mask(K, n)), {}),
    "proxyspex.trees.boost": ((*FITS, real(B)), {"depth": 3, "most_trees": 8}),
    "proxyspex.walsh_gp.scales.learn_scales": ((DRAWS, *TABLE, mask(N), mask(n)), {}),
    "proxyspex.walsh_gp.scales.learn_scales known": ((DRAWS, *TABLE, mask(N), mask(n), real(n), SETS), {}),
    "proxyspex.walsh_gp.scales.learn_scales_of_windows": (
        (SCALES, WINDOWS, whole(2, N), *TABLE, mask(N), mask(n)),
        {},
    ),
    "proxyspex.walsh_gp.posteriors.posterior": ((SCALES, *TABLE, mask(N), mask(n)), {}),
    "proxyspex.walsh_gp.posteriors.held_out_predictions": ((real(N, N), SCALES, real(N), whole(N)), {}),
    "proxyspex.walsh_gp.posteriors.spectrum_terms": (
        (PLACED, real(N), real(N, n), mask(n)),
        {"max_degree": 3, "front": K},
    ),
    "proxyspex.walsh_gp.prior.prior_variances": ((SCALES, mask(n), mask(K, n)), {}),
    "proxyspex.walsh_gp.prior.prior_variances known": ((KNOWN, mask(n), mask(K, n)), {}),
    "proxyspex.walsh_gp.posteriors._prior_draws": ((real(K, D), SCALES, real(N, n), mask(n), mask(K, n), whole()), {}),
    "proxyspex.walsh_gp.posteriors._alpha_of_draws": (
        (real(N, D), SCALES, real(N, n), mask(N), mask(n), real(N, N), real(N, D), real()),
        {},
    ),
    "proxyspex.walsh_gp.posteriors._deviation": ((real(N, K), real(K), real(K, D), real(N, D)), {}),
    "proxyspex.walsh_gp.posteriors.predict": ((SCALES, real(N), real(N, n), real(32, n), mask(n)), {}),
    "proxyspex.walsh_gp.posteriors.noise_and_rest": ((SCALES, real(1, n), mask(n), real(3, K)), {}),
    "proxyspex.walsh_gp.posteriors.coefficients_of_all_rows": ((*TABLE, mask(K, n), real(K), real(K), real()), {}),
    "proxyspex.walsh_gp.posteriors._draws_together": (
        (real(B, K, D), together(SCALES), real(B, N, n), mask(B, n), mask(B, K, n), whole(B)),
        {},
    ),
    "proxyspex.walsh_gp.posteriors._alpha_together": (
        (real(B, N, D), together(SCALES), real(B, N, n), mask(B, N), mask(B, n), real(B, N, D), real(B)),
        {},
    ),
    "proxyspex.walsh_gp.posteriors._deviation_together": (
        (real(B, N, K), real(B, K), real(B, K, D), real(B, N, D)),
        {},
    ),
    "proxyspex.walsh_gp.together.solve_together": (
        (Draws(real(B, 1, R, n), whole(B, 1, 4, 32)), *together((*TABLE, whole(N), mask(n)))),
        {"max_degree": 3, "front": K},
    ),
    "proxyspex.walsh_gp.together.solve_together own_scales": (
        (Draws(real(B, 6, R, n), whole(B, 6, 4, 32)), *together((*TABLE, whole(N), mask(n)))),
        {"max_degree": 3, "front": K},
    ),
    "spex.peeling.peel": peeling(b=3, t=2, uniform=10),
    "spex.peeling.peel every_set": peeling(b=3, t=2, uniform=10, every=20),
    "spex.peeling.peel singles": peeling(b=3, t=1, uniform=0),
    "spex.peeling.peel many_bins": peeling(b=8, t=3, uniform=0),
    "spex.peeling.peel_together": (
        (*together(peeling(b=3, t=2, uniform=10)[0][:-1]), mask(20, n)),
        peeling(b=3, t=2, uniform=10)[1],
    ),
}
WITH_A_MODEL = {
    "lenses.text_lens._logits_of_full",
    "lenses.text_lens._prefix",
    "lenses.text_lens._logits_of_model",
    "lenses.patch_lens._logits",
    "lenses.component_lens._clean_logits",
    "lenses.training_data_lens._first_look",
    "baselines.influence_functions._by_conjugate_gradients",
    "baselines.influence_functions._gradients_of_values",
    "baselines.influence_functions._hessian",
    "baselines.influence_functions._kernel",
    "baselines.influence_functions._losses_along",
    "baselines.influence_functions._trained",
    "baselines.influence_functions._values",
    "models.components.record",
    "models.decoder._continue",
}


def program_of(function):
    """The compiled function itself, where a function also runs on the host (`precision.portable`)."""
    return getattr(function, "program", function)


def jitted_functions():
    """The names of all functions of the package, but the engine's, that a module wraps in jax.jit."""
    kind, found = type(jax.jit(lambda: None)), set()
    for info in pkgutil.walk_packages(spex_jax.__path__, "spex_jax."):
        if info.name.split(".")[1] in ENGINE:
            continue
        for name, value in vars(importlib.import_module(info.name)).items():
            if (
                isinstance(program_of(value), kind) and value.__module__ == info.name
            ):  # not what it imports from another
                found.add(f"{info.name}.{name}".removeprefix("spex_jax."))
    return found


def custom_calls(exported):
    """The kernels that a lowered module takes from elsewhere than from XLA."""
    return set(re.findall(r"custom_call[^@]*@(\w+)", exported.mlir_module()))


def check_lowering(function, *arguments, **static):
    """Exports for both platforms in one module, and for TPU alone, where no kernel may be but XLA's own.

    No check of jax.export is disabled: it refuses the kernels of a vendor for which it does not vouch. For the Cholesky
    factors of cuSOLVER it does.
    """
    both = jax.export.export(function, platforms=("tpu", "cuda"))(*arguments, **static)
    assert both.platforms == ("tpu", "cuda")
    alone = jax.export.export(function, platforms=("tpu",))(*arguments, **static)
    assert not custom_calls(alone)


@pytest.mark.parametrize("case", CASES)
def test_lowers_for_tpu_and_cuda(case):
    module, _, name = case.split()[0].rpartition(".")
    arguments, static = CASES[case]
    check_lowering(program_of(getattr(importlib.import_module(f"spex_jax.{module}"), name)), *arguments, **static)


@pytest.mark.parametrize("value", VALUES)
def test_masked_forward_lowers_for_tpu_and_cuda(value, tiny):
    contrast = "negative" if value == "logit_diff" else None
    value_fn = spex_jax.lenses.text(
        *tiny, "It never fails to impress .", value=value, target="positive", contrast=contrast
    )
    # The function is a pytree and an argument, as it is of the engine's programs: weights are no constants of them.
    check_lowering(jax.jit(lambda fn, masks: fn(masks)), value_fn.fn, mask(4, value_fn.width))


def test_logits_of_the_whole_text_lower_for_tpu_and_cuda(tiny):
    value_fn = spex_jax.lenses.text(*tiny, "It never fails to impress .")
    function = importlib.import_module("spex_jax.lenses.text_lens")._logits_of_full
    check_lowering(function, value_fn.fn, mask(1, value_fn.width))


@pytest.mark.parametrize("name", ["llama3", "gemma3", "gpt2"])
def test_prompts_and_answers_lower_for_tpu_and_cuda(name, tmp_path):
    model, tokenizer = spex_jax.models.load(write_model(tmp_path, name))
    generate = importlib.import_module("spex_jax.models.decoder")._continue
    check_lowering(generate, model, whole(16), whole(), whole(2), most=4)
    text = "a b c d e f g h i j k l m n o p q r s t u v"
    value_fn = spex_jax.lenses.text(model, tokenizer, text, within="s t u v", target="a b", removal="delete")
    slots = value_fn.device.packing.slots
    check_lowering(jax.jit(lambda fn, *batch: fn(*batch)), value_fn.fn, mask(2, slots, 16), mask(2, slots))
    lens = importlib.import_module("spex_jax.lenses.text_lens")
    check_lowering(lens._prefix, model, whole(16))
    check_lowering(lens._logits_of_model, model, whole(1, 16), mask(1, 16))


@pytest.mark.parametrize("value", ["kl", "accuracy"])
def test_components_lower_for_tpu_and_cuda(value, tmp_path):
    model, _ = spex_jax.models.load(write_model(tmp_path, "llama3"))
    value_fn = spex_jax.lenses.components(model, [[1, 2, 3, 4], [5, 6, 7]], value=value)
    check_lowering(jax.jit(lambda fn, masks: fn(masks)), value_fn.fn, mask(4, value_fn.n))
    lens, parts = map(importlib.import_module, ("spex_jax.lenses.component_lens", "spex_jax.models.components"))
    check_lowering(lens._clean_logits, value_fn.fn, mask(1, value_fn.n))
    check_lowering(parts.record, model, whole(2, 8), whole(2, 8), layers=(0, 1), kinds=("heads",), mean="tokens")


@pytest.mark.slow
def test_joint_lenses_lower_for_tpu_and_cuda(tmp_path):
    lenses = spex_jax.lenses
    model, tokenizer = spex_jax.models.load(write_model(tmp_path, "llama3"))
    words = lenses.text(model, tokenizer, "a b c d", target="e", removal="delete")
    both = lenses.joint(words, lenses.components(model, [[1, 2, 3]], value="logit", target=3))
    check_lowering(jax.jit(lambda fn, masks: fn(masks)), both.fn, mask(2, both.width))
    (x, y), groups = trained_decoder.four_groups(2)
    training = lenses.training_data(trained_decoder.init, trained_decoder.apply, (x, y), (x, y), groups=groups, steps=2)
    model = trained_decoder.model_of(trained_decoder.init(jax.random.key(0)))
    heads = lenses.components(model, x[:2], value="logit", target=y[:2])
    for asking in (heads, lenses.text(model, tokenizer, "a b c d", target="e", removal="delete")):
        both = lenses.joint(training, asking)
        slots = both.device.packing.slots
        lower = jax.jit(lambda fn, *batch: fn(*batch))
        check_lowering(lower, both.fn, mask(2, slots, both.width), mask(2, slots))


def test_pictures_and_rows_lower_for_tpu_and_cuda(rng):
    weights = jnp.asarray(rng.normal(size=(5, 4, 2)), jnp.float32)

    def classify(images):
        return jnp.einsum("bhwc,hwk->bk", images, weights)

    image = rng.normal(size=(5, 4, 3)).astype("float32")
    value_fn = spex_jax.lenses.patches(classify, image, grid=2)
    check_lowering(jax.jit(lambda fn, masks: fn(masks)), value_fn.fn, mask(4, 4))
    check_lowering(importlib.import_module("spex_jax.lenses.patch_lens")._logits, value_fn.fn, mask(2, 4))
    rows = rng.normal(size=(3, 4))
    value_fn = spex_jax.lenses.tabular(lambda x: x.sum(axis=1), rows[0], rows, removal="marginal", on_device=True)
    check_lowering(jax.jit(lambda fn, masks: fn(masks)), value_fn.fn, mask(4, 4))


def test_every_jitted_function_has_a_case():
    known = {case.split()[0] for case in CASES} | WITH_A_MODEL
    found = jitted_functions()
    assert not found - known, "these functions need example arguments in CASES"
    assert not known - found, "these cases are of functions that are gone"


def test_the_check_sees_and_refuses_kernels_of_one_platform():
    cholesky = jax.export.export(jax.jit(jnp.linalg.cholesky), platforms=("cuda",))(real(n, n))
    assert "cusolver_potrf_ffi" in custom_calls(cholesky)
    kernel = jax.jit(jax.ffi.ffi_call("a_kernel_for_cuda", real(n)))
    with pytest.raises(ValueError, match="a_kernel_for_cuda"):
        check_lowering(kernel, real(n))


@pytest.mark.parametrize("how", [{"epochs": 2, "batch": 8}, {"steps": 2}], ids=str)
def test_trainings_lower_for_tpu_and_cuda(how):
    rng = np.random.default_rng(0)
    value_fn = spex_jax.lenses.training_data(init, apply, clouds(20, rng), clouds(4, rng), dtype=jnp.bfloat16, **how)
    check_lowering(jax.jit(lambda fn, masks: fn(masks)), value_fn.fn, mask(4, value_fn.n))
    check_lowering(importlib.import_module("spex_jax.lenses.training_data_lens")._first_look, value_fn.fn, whole())


def test_gradients_of_trainings_lower_for_tpu_and_cuda():
    rng = np.random.default_rng(0)
    fn = spex_jax.lenses.training_data(init, apply, clouds(20, rng), clouds(4, rng), steps=2).fn
    params = jax.eval_shape(init, KEY)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    baseline = importlib.import_module("spex_jax.baselines.influence_functions")
    check_lowering(baseline._trained, fn, mask(1, 20))
    check_lowering(baseline._values, fn, together(params))
    check_lowering(baseline._gradients_of_values, fn, params)
    check_lowering(baseline._hessian, fn, params)
    check_lowering(baseline._by_conjugate_gradients, fn, params, real(4, size), real(), iterations=5)
    check_lowering(baseline._losses_along, fn, params, real(4, size))
    check_lowering(baseline._kernel, fn, params, KEY, size=8)
