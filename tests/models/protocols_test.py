"""What lenses see of a model's methods, whatever its class."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from models.directories import write_model

from spex_jax import evaluate, lenses, models
from spex_jax.models import protocols
from spex_jax.models.protocols import ChatTokenizer, Classifier, HiddenStates, PrefixModel

TEXT = "a b c d e f g h i j k l m n o p q r s t u v w x y"  # its first tokens are a prefix worth sharing


@dataclasses.dataclass(frozen=True)
class _Wrapped:
    inner: models.Decoder

    def __call__(self, tokens, attention_mask):
        return self.inner(tokens, attention_mask)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Function(_Wrapped):
    """A decoder of which nothing else is known."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stated(_Wrapped):
    """One that gives states, and has no config."""

    def states(self, tokens, positions, segments, branches=None, *, read=None, prefix=None):
        return self.inner.states(tokens, positions, segments, branches, read=read, prefix=prefix)

    def logits(self, states):
        return self.inner.logits(states)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefixed(Stated):
    """One that also takes a prefix."""

    def prefix(self, tokens, positions):
        return self.inner.prefix(tokens, positions)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return models.load(write_model(tmp_path_factory.mktemp("llama3"), "llama3"))


def test_what_models_can_do(loaded, tmp_path):
    tiny, tokenizer = models.tiny()
    decoder, encoder = loaded[0], models.load(write_model(tmp_path, "bert"))[0]
    able = [
        tuple(isinstance(model, protocol) for protocol in (Classifier, HiddenStates, PrefixModel))
        for model in (tiny, encoder, decoder, Prefixed(decoder), Stated(decoder), Function(decoder), lambda *_: None)
    ]
    classifies, reads, shares, nothing = (
        (True, False, False),
        (False, True, False),
        (False, True, True),
        (False, False, False),
    )
    assert able == [classifies, classifies, shares, shares, reads, nothing, nothing]
    assert [isinstance(one, ChatTokenizer) for one in (tokenizer, loaded[1])] == [False, True]


@pytest.mark.parametrize(
    ("wrap", "packed", "prefixed"), [(Prefixed, True, True), (Stated, True, False), (Function, False, False)]
)
def test_a_model_of_ones_own_is_asked_by_its_methods(wrap, packed, prefixed, loaded, rng):
    decoder, tokenizer = loaded
    options = {"within": "u v w x y", "removal": "attention", "target": "c d"}
    own = lenses.text(wrap(decoder), tokenizer, TEXT, **options)
    known = lenses.text(decoder, tokenizer, TEXT, **options)
    assert (own.fn.template.kind == "packed", own.fn.prefix is not None) == (packed, prefixed)
    masks = rng.random((6, own.n)) < 0.5
    masks[0] = True
    np.testing.assert_allclose(
        evaluate(own, masks, progress=False), evaluate(known, masks, progress=False), rtol=1e-4, atol=1e-4
    )


def test_what_is_not_said_has_a_default(loaded):
    decoder, tokenizer = loaded
    silent = types.SimpleNamespace()
    assert (protocols.vocabulary_of(silent), protocols.width_of(silent), protocols.class_names_of(silent)) == (
        None,
        256,
        (),
    )
    assert protocols.max_length_of(silent, silent) == protocols.max_length_of(silent)
    assert protocols.max_length_of(decoder, types.SimpleNamespace(model_max_length=5)) == 5
    special = protocols.special_tokens_of(silent)
    assert (special.begin, special.mask, special.pad, special.unknown, special.every) == (*[None] * 4, frozenset())
    assert (protocols.token_name(silent, 3), protocols.decoded(silent, [3, 4])) == ("3", "3 4")
    tiny_tokenizer = models.tiny()[1]
    for one in (tokenizer, tiny_tokenizer):
        ids = one("a b", add_special_tokens=False)["input_ids"]
        assert protocols.token_name(one, ids[1]) == "b"
        assert protocols.decoded(one, ids).split() == ["a", "b"]
        assert protocols.special_tokens_of(one).unknown in protocols.special_tokens_of(one).every
