"""Checkpoints as people have them: keys left out, old names, other heads, quantised weights, settings of variants."""

import json

import jax
import numpy as np
import pytest
from models.directories import GOLDEN, MODELS, WORDS, write_model, write_word_tokenizer
from safetensors.numpy import load_file, save_file

from spex_jax import lenses, models
from spex_jax.models.checkpoints.loading import ARCHITECTURES

pytestmark = pytest.mark.usefixtures("quick_compilation")

TRANSFORMERS = json.loads((GOLDEN / "config_defaults.json").read_text(encoding="utf-8"))
forward = jax.jit(lambda model, tokens, attention: model(tokens, attention))


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "huggingface.npz") as arrays:
        return dict(arrays)


def check(model, name, golden):
    attention = golden["attention"]
    found, expected = np.asarray(forward(model, golden["tokens"].astype(np.int32), attention)), golden[name]
    if isinstance(model, models.Decoder):
        found, expected = found[attention], expected[attention]
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def edit(folder, remove=(), **changes):
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in remove}))
    return folder


def rename(folder, new_name, more=()):
    weights = load_file(folder / "model.safetensors")
    renamed = {new_name(name): value for name, value in weights.items()}
    save_file({**renamed, **dict(more)}, folder / "model.safetensors")
    return folder


DEFAULTS = {known.settings.model_type: known.settings.defaults for known in ARCHITECTURES.values()}


@pytest.mark.parametrize("version", TRANSFORMERS)
@pytest.mark.parametrize("model_type", DEFAULTS)
def test_defaults_are_those_of_transformers(version, model_type):
    theirs = TRANSFORMERS[version][model_type]
    assert {key: theirs[key] for key in DEFAULTS[model_type]} == DEFAULTS[model_type]
    # Of older versions, where rotations are keys of their own.
    theta = 1_000_000.0 if model_type == "gemma3_text" else 10_000.0
    assert theirs.get("rope_theta", theta) == theta
    assert theirs.get("rope_local_base_freq", 10_000.0) == 10_000.0


def left_out(config):
    """config.json without the keys that are as in transformers' config class, as it writes nested ones."""
    theirs = TRANSFORMERS["5.24.0"][config["model_type"]]
    return {key: value for key, value in config.items() if key not in theirs or value != theirs[key]}


@pytest.mark.parametrize("name", MODELS)
def test_keys_that_are_left_out(name, tmp_path):
    folder = write_model(tmp_path, name)
    whole = models.load(folder)[0].config
    config = left_out(MODELS[name]["config"])
    assert len(config) < len(MODELS[name]["config"])
    (folder / "config.json").write_text(json.dumps(config))
    assert models.load(folder)[0].config == whole


@pytest.mark.parametrize("prefix", ["language_model.", "model.language_model."])
def test_a_multimodal_gemma_whose_settings_are_defaults(prefix, golden, tmp_path):
    folder = write_model(tmp_path, "gemma3_defaults")
    text = left_out(MODELS["gemma3_defaults"]["config"])
    assert not {"head_dim", "num_attention_heads", "sliding_window", "query_pre_attn_scalar", "rms_norm_eps"} & set(
        text
    )
    text["rope_parameters"] = None
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text}
    config |= {"mm_tokens_per_image": 256, "vision_config": {"hidden_size": 8}, "image_token_index": 262144}
    (folder / "config.json").write_text(json.dumps(config))
    vision = {"vision_tower.patch.weight": np.zeros(3, np.float32)}
    rename(folder, lambda name: prefix + (name if prefix.startswith("l") else name.removeprefix("model.")), vision)
    check(models.load(folder)[0], "gemma3_defaults", golden)


def test_a_window_that_is_left_out_is_the_default(tmp_path):
    folder = edit(write_model(tmp_path / "mistral", "mistral"), remove=["sliding_window"])
    assert models.load(folder)[0].config.windows == (4096,) * 3
    assert models.load(edit(folder, sliding_window=None))[0].config.windows == ()
    folder = edit(
        write_model(tmp_path / "gemma", "gemma2"), remove=["attn_logit_softcapping", "final_logit_softcapping"]
    )
    config = models.load(folder)[0].config
    assert (config.attention_softcap, config.logit_softcap) == (50.0, 30.0)


def test_names_of_sizes_that_transformers_also_knows(tmp_path):
    for name, aliases in {
        "gpt2": {"n_embd": "hidden_size", "n_layer": "num_hidden_layers"},
        "distilbert": {"dim": "hidden_size"},
    }.items():
        folder = write_model(tmp_path / name, name)
        whole = models.load(folder)[0].config
        given = MODELS[name]["config"]
        edit(folder, remove=list(aliases), **{alias: given[key] for key, alias in aliases.items()})
        assert models.load(folder)[0].config == whole


def old_norms(name):
    if "LayerNorm" not in name:
        return name
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


HEADS = {
    "BertForMaskedLM": "cls.predictions.bias",
    "BertForPreTraining": "cls.seq_relationship.weight",
    "BertForTokenClassification": "classifier.weight",
    "BertForQuestionAnswering": "qa_outputs.weight",
}


@pytest.mark.parametrize("architecture", HEADS)
@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_the_encoder_below_any_head(architecture, prefix, golden, tmp_path):
    """With the names of BERT's first files; bert.pooler is there only where the head reads it."""
    head = {HEADS[architecture]: np.zeros((2, 24), np.float32), "bert.embeddings.position_ids": np.arange(64)}
    folder = edit(write_model(tmp_path, "bert"), architectures=[architecture])
    rename(folder, lambda name: prefix + old_norms(name), head)
    with pytest.warns(UserWarning, match=f"the head of {architecture} is not used: {HEADS[architecture]}"):
        model, _ = models.load(folder)
    assert not model.class_names
    check(model, "bert", golden)


def test_old_names_below_a_classifier(golden, tmp_path):
    folder = rename(write_model(tmp_path, "bert_classifier"), old_norms)
    model, _ = models.load(folder)
    assert model.class_names == ("a", "b", "c")
    check(model, "bert_classifier", golden)
    rename(folder, lambda name: name, {"bert.embeddings.LayerNorm.weight": np.zeros(24, np.float32)})
    with pytest.raises(ValueError, match=r"holds both bert.embeddings.LayerNorm.gamma and bert.embeddings.LayerNorm.w"):
        models.load(folder)


@pytest.mark.parametrize("family", ["Roberta", "XLMRoberta", "Camembert"])
def test_relatives_of_roberta(family, golden, tmp_path):
    kind = {"Roberta": "roberta", "XLMRoberta": "xlm-roberta", "Camembert": "camembert"}[family]
    folder = edit(write_model(tmp_path, "roberta"), architectures=[f"{family}ForMaskedLM"], model_type=kind)
    rename(folder, lambda name: "roberta." + name, {"lm_head.dense.weight": np.zeros((24, 24), np.float32)})
    with pytest.warns(UserWarning, match=r"is not used: lm_head.dense.weight"):
        model, _ = models.load(folder)
    assert model.max_length == 62  # the rows of the first two ids are never used
    check(model, "roberta", golden)


def test_an_encoder_without_architectures(golden, tmp_path):
    check(models.load(edit(write_model(tmp_path, "bert"), remove=["architectures"]))[0], "bert", golden)


def test_the_number_of_classes_without_names(tmp_path):
    folder = edit(write_model(tmp_path, "bert_classifier"), remove=["id2label"], num_labels=3)
    assert models.load(folder)[0](np.array([[2, 7, 3]]), np.ones((1, 3), bool)).shape == (1, 3)


# What a file may ask for beyond what is computed here; the message names the key.
VARIANTS = {
    "llama2": {
        "attention_multiplier": 0.015625,  # of Granite
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
        "partial_rotary_factor": 0.5,
        "attn_logit_softcapping": 30.0,
        "final_logit_softcapping": 30.0,
        "no_rope_layers": [1, 1, 0],
        "use_parallel_residual": True,
        "qk_norm": True,
        "sliding_window": 4,
        "layer_types": ["full_attention", "chunked_attention", "full_attention"],
        "attention_sinks": 4,
        "num_local_experts": 8,
        "is_causal": False,
        "is_decoder": True,
        "alibi": True,
    },
    "mistral": {"attention_bias": True, "layer_types": ["sliding_attention", "full_attention", "full_attention"]},
    "qwen3": {"layer_types": ["sliding_attention"] * 3, "num_experts": 64, "mlp_bias": True},
    "gemma3": {"use_bidirectional_attention": True, "layer_types": ["full_attention"]},
    "gpt2": {
        "scale_attn_by_inverse_layer_idx": True,
        "scale_attn_weights": False,
        "add_cross_attention": True,
        "rope_theta": 500.0,
    },
    "bert": {"position_embedding_type": "relative_key", "is_decoder": True, "embedding_size": 12},
    "distilbert": {"position_embedding_type": "relative_key_query"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: write_model(tmp_path_factory.mktemp(name), name) for name in VARIANTS}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in VARIANTS.items() for key in keys])
def test_settings_of_variants_are_refused_by_name(name, key, folders):
    folder, described = folders[name], MODELS[name]["config"]
    (folder / "config.json").write_text(json.dumps({**described, key: VARIANTS[name][key]}))
    with pytest.raises(ValueError, match=key):
        models.load(folder)


def test_settings_that_change_nothing(golden, folders):
    neutral = {"embedding_multiplier": 1.0, "partial_rotary_factor": 1.0, "use_parallel_residual": False, "alibi": None}
    neutral |= {
        "attention_sinks": [],
        "use_qk_norm": False,
        "image_token_id": 7,
        "unsloth_version": "1",
        "is_llama_config": True,
        "torch_dtype": "x",
    }
    folder = edit(folders["llama2"], **{**MODELS["llama2"]["config"], **neutral})
    check(models.load(folder)[0], "llama2", golden)
    with pytest.warns(UserWarning, match="does not know and ignores: color, mood"):
        models.load(edit(folder, mood="good", color=3))


ROTATIONS = {
    "yarn": ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "type 'yarn'"),
    "dynamic": ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "type 'dynamic'"),
    "part of a head": ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}, "partial_rotary"),
    "sections": ({"rope_scaling": {"type": "default", "mrope_section": [16, 24]}}, "have mrope_section"),
    "no factor": ({"rope_scaling": {"type": "linear"}}, "need factor, a number above 0"),
    "both": (
        {"rope_scaling": {"type": "linear", "factor": 4.0}},
        "rope_parameters .* and rope_scaling .* which differ",
    ),
    "no number": ({"rope_parameters": None, "rope_theta": "10000"}, "need rope_theta, a number above 0"),
}


@pytest.mark.parametrize("kind", ROTATIONS)
def test_rotations_that_are_not_known(kind, folders):
    changes, message = ROTATIONS[kind]
    if kind in ("yarn", "dynamic", "sections", "no factor"):
        changes = {"rope_parameters": None, **changes}
    (folders["llama2"] / "config.json").write_text(json.dumps({**MODELS["llama2"]["config"], **changes}))
    with pytest.raises(ValueError, match=message):
        models.load(folders["llama2"])


def test_the_original_length_of_llama3_is_that_of_the_config(tmp_path):
    given = {k: v for k, v in MODELS["llama3"]["config"]["rope_parameters"].items() if not k.startswith("original")}
    folder = edit(write_model(tmp_path, "llama3"), rope_parameters=given)
    assert models.load(folder)[0].config.ropes[0].original_length == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "24"}, "hidden_size of config.json must be int"),
        ({"num_hidden_layers": None}, "num_hidden_layers of config.json must be int"),
        ({"num_attention_heads": 0}, "num_attention_heads of config.json must be int"),
        ({"num_key_value_heads": 3}, "must be a multiple"),
        ({"rms_norm_eps": True}, "rms_norm_eps of config.json must be float"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings of config.json must be bool"),
        ({"text_config": [1]}, "text_config of config.json must hold settings"),
    ],
)
def test_values_of_another_type(changes, message, folders):
    (folders["llama2"] / "config.json").write_text(json.dumps({**MODELS["llama2"]["config"], **changes}))
    with pytest.raises(ValueError, match=message):
        models.load(folders["llama2"])


QUANTISED = {
    "bitsandbytes": {"quantization_config": {"load_in_8bit": True}},
    "gptq with 4 bits": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "awq": {"quantization_config": {"quant_method": "awq"}},
    "fp8": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
    "compressed-tensors": {"quantization_config": {"quant_method": "compressed-tensors"}},
    "pack-quantized": {"compression_config": {"format": "pack-quantized"}},
    "an unnamed method with 4 bits": {"quantization": {"bits": 4, "group_size": 64}},  # of MLX
}


@pytest.mark.parametrize("method", QUANTISED)
def test_quantised_weights_are_refused_by_their_method(method, folders):
    for nested in (False, True):
        described = {**MODELS["llama2"]["config"], **QUANTISED[method]}
        config = {"architectures": described["architectures"], "text_config": described} if nested else described
        (folders["llama2"] / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=f"quantised by {method}, which models.load does not read"):
            models.load(folders["llama2"])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "float8_e4m3fn"])
def test_weights_that_are_no_floats(dtype, tmp_path):
    from ml_dtypes import float8_e4m3fn

    folder = write_model(tmp_path, "llama2")
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    if dtype == "float8_e4m3fn":  # which safetensors does not write from numpy
        content = bytes(weights[name].astype(float8_e4m3fn).tobytes())
        header = {name: {"dtype": "F8_E4M3", "shape": list(weights[name].shape), "data_offsets": [0, len(content)]}}
        text = json.dumps(header).encode()
        (folder / "second.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content)
        del weights[name]
        save_file(weights, folder / "first.safetensors")
        (folder / "model.safetensors").unlink()
        places = {**dict.fromkeys(weights, "first.safetensors"), name: "second.safetensors"}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    else:
        save_file({**weights, name: weights[name].astype(dtype)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=rf"tensor {name} has the dtype .*8|32; .* They are quantised"):
        models.load(folder)


def test_files_of_other_formats(tmp_path):
    folder = write_model(tmp_path / "gptq", "llama2")
    (folder / "quantize_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"quantised by the method of its quantize_config.json"):
        models.load(folder)
    folder = write_model(tmp_path / "adapter", "llama2")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="has an adapter and no model; merge it first"):
        models.load(folder)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("llama2", "model.layers.0.self_attn.q_norm.weight"),
        ("llama2", "model.layers.0.self_attn.q_proj.bias"),  # attention_bias is false
        ("qwen2", "model.layers.2.self_attn.sinks"),
        ("llama2", "model.embed_norm.weight"),
        ("gpt2", "transformer.h.0.attn.rotary.weight"),
        ("bert", "encoder.layer.0.attention.self.distance_embedding.weight"),
        ("bert", "embeddings.extra.weight"),
    ],
)
def test_tensors_that_the_architecture_does_not_have(name, tensor, tmp_path):
    folder = rename(write_model(tmp_path, name), lambda name: name, {tensor: np.zeros(24, np.float32)})
    with pytest.raises(ValueError, match=f"the weights hold {tensor}, which the architecture does not have"):
        models.load(folder)


def test_biases_that_config_json_promises(tmp_path):
    folder = edit(write_model(tmp_path, "llama2"), attention_bias=True)
    with pytest.raises(ValueError, match=r"the weights lack .*self_attn.k_proj.bias"):
        models.load(folder)


@pytest.fixture(scope="module")
def with_pictures(tmp_path_factory):
    """A model of 40 tokens whose tokenizer has one more, as that of Gemma 3 has for pictures."""
    folder = write_model(tmp_path_factory.mktemp("pictures"), "gemma3", words=[*WORDS, *"01234567", "<image>"])
    model, tokenizer = models.load(folder)
    assert tokenizer.convert_tokens_to_ids("<image>") == model.config.vocab_size == 40
    return model, tokenizer


@pytest.mark.slow
def test_tokens_past_the_embedding_that_no_prompt_uses(with_pictures):
    model, tokenizer = with_pictures
    value_fn = lenses.text(model, tokenizer, "a b c", target="d", removal="delete")
    assert np.isfinite(value_fn(np.array([[True, False, True]]))).all()


@pytest.mark.parametrize(
    ("text", "given", "role"),
    [
        ("a <image> b", {}, "the text"),
        ("a b", {"target": "<image>"}, "target"),
        ("a b", {"contrast": "<image>", "value": "logit_diff"}, "contrast"),
        ("a b", {"removal": "replace", "replacement": "<image>"}, "removal 'replace'"),
        ("a b", {"removal": "replace", "replacement": ["<image> c", "d"]}, "replacement"),
    ],
)
def test_tokens_past_the_embedding_that_a_prompt_uses(text, given, role, with_pictures):
    options = {"target": "d", "removal": "delete", **given}
    with pytest.raises(
        ValueError, match=f"{role} uses the token '<image>' of id 40, and the model embeds ids from 0 to 39"
    ):
        lenses.text(*with_pictures, text, **options)


def test_a_mask_token_past_the_embedding(tmp_path):
    """A token for padding that was added to a tokenizer and not to the model."""
    folder = write_model(tmp_path, "llama2", words=[*WORDS, *"01234567", "[PAD]"])
    model, tokenizer = models.load(folder)
    tokenizer.pad_token = "[PAD]"
    with pytest.raises(ValueError, match=r"removal 'mask' uses the token '\[PAD\]' of id 40"):
        lenses.text(model, tokenizer, "a b", target="c")


def test_ids_past_the_embedding_in_a_direct_call(with_pictures):
    model, _ = with_pictures
    for array in (np.array, jax.numpy.array):
        with pytest.raises(ValueError, match="has the id 40, and the model embeds ids from 0 to 39"):
            model(array([[1, 40, 3]]), np.ones((1, 3), bool))
    with pytest.raises(ValueError, match="the prompt has the id 40, and the model embeds ids from 0 to 39"):
        models.generate(model, [1, 40], most=1)
    assert np.isfinite(model(np.array([[1, -1]]), np.array([[1, 0]]))[0, 0]).all()  # padding may be anything
    with pytest.raises(ValueError, match="the token 40; the model's vocabulary is 0 to 39"):
        lenses.components(model, np.array([[1, 40, 3]]), value="logit", target=2)


def test_another_tokenizer_is_named_by_its_first_word(tmp_path):
    folder = write_model(tmp_path, "llama3")
    write_word_tokenizer(folder, [f"w{i}" for i in range(50)])
    model, tokenizer = models.load(folder)
    with pytest.raises(ValueError, match="the text uses the token 'w40' of id 46"):
        lenses.text(model, tokenizer, "w1 w40", target="w2", removal="delete")
