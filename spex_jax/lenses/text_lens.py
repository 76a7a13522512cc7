"""The text lens: which units of a text or a conversation act together in the answer of a model."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.core.masks import check_unicode, check_whole
from spex_jax.engine.details import TextDetails
from spex_jax.engine.packing import Packing
from spex_jax.engine.value_function import DeviceOptions, ValueFunction, as_pytree
from spex_jax.lenses.probes import Remedy, check_rows, logits_of, with_remedies
from spex_jax.lenses.text_parts import layout
from spex_jax.lenses.text_parts.ablated_text import AblatedAnswer, AblatedClass
from spex_jax.lenses.text_parts.answers import Answer, answer_of, own_answer
from spex_jax.lenses.text_parts.layout import BUCKET, Template, rounded
from spex_jax.lenses.text_parts.prompt import Prompt, read_prompt
from spex_jax.lenses.text_parts.removal import REMOVALS, Tokens, always, removable
from spex_jax.lenses.values import check_value, choose_classes
from spex_jax.models.protocols import (
    Classifier,
    HiddenStates,
    PrefixModel,
    Tokenizer,
    max_length_of,
    special_tokens_of,
    takes_partly_kept,
    token_name,
    vocabulary_of,
    width_of,
)
from spex_jax.utils.jax_settings import own_settings

__all__ = ["REMOVALS", "text"]


@jax.jit
def _logits_of_full(fn: AblatedClass, *batch: jax.Array) -> jax.Array:
    return fn.logits(*batch)


@jax.jit
def _logits_of_model(model: Callable[..., jax.Array], tokens: jax.Array, attention_mask: jax.Array) -> jax.Array:
    return model(tokens, attention_mask)


def _is_causal(model: Any) -> bool:
    """Returns whether a model gives logits [B, L, V] rather than [B, C]."""
    if isinstance(model, HiddenStates | Classifier):
        return isinstance(model, HiddenStates)
    shape = (1, min(BUCKET, max_length_of(model)))
    tokens, mask = jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, jnp.bool_)
    one = (jax.ShapeDtypeStruct(shape[1:], jnp.int32), jax.ShapeDtypeStruct(shape[1:], jnp.bool_))
    remedy = Remedy(one, "it takes one text and not several: give jax.vmap(model)")
    found = with_remedies(lambda: _logits_of_model.eval_shape(model, tokens, mask), model, [remedy], "the model")
    expected = "logits [B, C] (a classifier) or [B, L, V] (a language model)"
    found = logits_of(found, "the model", expected, 1)
    if found.ndim not in (2, 3):
        raise ValueError(f"the model must give {expected}; for tokens {shape} it gave {found.shape}")
    return bool(found.ndim == 3)


def _check_independent(model: Any, ids: np.ndarray) -> None:
    """Raises ValueError where the logits of a user's model for a text depend on the text beside it, or on chance."""
    if isinstance(model, HiddenStates | Classifier):
        return
    first = np.resize(ids, min(BUCKET, max_length_of(model))).astype(np.int32)
    batches = (np.stack([first, first]), np.stack([first, first[::-1]]))
    twice, beside = (np.asarray(_logits_of_model(model, batch, np.ones_like(batch, np.bool_))) for batch in batches)
    check_rows(twice, beside, "the model")


def _template(
    tokens: Tokens, n: int, *, kind: str, move: bool, start: int, width: int, alone: int | None
) -> tuple[Template, Packing | None]:
    """Returns the padded template, and how its masks share rows."""
    length = rounded(len(tokens.tokens), width)
    if alone is not None and kind != "packed":
        length = min(length, alone)
    packing = None
    if kind == "packed":
        packing = layout.pack(tokens.unit, tokens.when, n, width=width, alone=alone)
    made = layout.template_of(
        **tokens.arrays,
        start=start,
        kind=kind,
        capacity=length if packing is None else packing.capacity,
        move=move,
        length=length,
    )
    return made, packing


def _width(n: int) -> int:
    """Returns the number of columns of the masks, rounded so that texts of similar length share one program."""
    return -(-n // BUCKET) * BUCKET


def _padded(values: Sequence[float], dtype: type) -> jax.Array:
    """Pads to a power of two, so that answers of similar length share one program."""
    size = 1 << (len(values) - 1).bit_length()
    return jnp.asarray(np.pad(np.asarray(values, dtype), (0, size - len(values))))


@own_settings()
def text(  # noqa: PLR0913
    model: Any,
    tokenizer: Tokenizer,
    text_or_messages: str | Sequence[Mapping[str, str]],
    *,
    units: Any = "word",
    removal: str = "mask",
    target: Any = None,
    contrast: Any = None,
    value: str = "logprob",
    within: Any = None,
    protect: Sequence[str] = ("system",),
    replacement: str | Sequence[str] | None = None,
    max_new_tokens: int = 32,
    share_prefix: bool = True,
) -> ValueFunction:
    """Returns a value function for a text or a conversation: units are kept or removed, a model's answer is the value.

    The answer of a language model is read in the same pass as the prompt (teacher forcing); only the logits that the
    value needs are computed.

    Args:
      model: a pure JAX function, model(tokens int32 [B, L], attention_mask bool [B, L]) -> class logits [B, C], or the
        next token's logits [B, L, V] of a causal language model. One that is a registered pytree, as all of
        `spex_jax.models` are, shares its compiled program between texts. See `models.protocols` for methods that make
        it faster.
      tokenizer: called as the fast tokenizers of Hugging Face (input_ids, offset_mapping).
      text_or_messages: a text, which for a language model begins with the tokenizer's BOS token where it has one; or
        messages [{"role": ..., "content": ...}], which go through the tokenizer's chat template. Text that the
        template adds is always kept; text of the messages that it leaves out is in details.left_out, and in no unit.
      units: "token"; "word" (a run between white space, with its punctuation; for scripts without spaces the
        words of Chinese and Thai, the phrases of Japanese, grapheme clusters of others); "sentence" (see
        `sentences.sentence_borders`); "line"; "paragraph"; "turn" (a message); "document" (each text of `within`); a
        compiled regular expression; or spans [(start, end), ...] of the text, or of the one message that is not
        protected.
      removal: how a unit is removed. "mask": every token becomes the tokenizer's mask token (else its pad or unk
        token). "attention": no other position attends to it, in any layer, and nothing is read from it; the others
        keep their positions. "delete": the text gets shorter. "replace": `replacement` takes its place.
      target: for a classifier, the number or name of a class; None is the class predicted for the whole text. For a
        language model, an answer (a text, a token id, or a list of ids); None is the model's own greedy answer.
      contrast: the class or answer that "logit_diff" subtracts; for that value only.
      value: for the target class y, "logit" z_y, "margin" z_y - logsumexp of the others, "logprob" log softmax, or
        "logit_diff" z_y - z_contrast; for answers with several tokens see `values.value_of_answers`.
      within: the parts of the text in which units may be, as strings that occur once or spans (a retrieved context).
      protect: roles of messages that are always kept.
      replacement: for "replace", a text, or one for each unit.
      max_new_tokens: the largest number of tokens of the model's own answer.
      share_prefix: whether the text before the first unit is computed once for all masks (by a `PrefixModel`, such as
        `Decoder`).

    Raises:
      ValueError: an option is unknown; the text has no units, a lone surrogate, or more tokens than the context; the
        target is not a class or has no tokens; spans overlap or leave the text; a unit has no tokens.
    """
    if removal not in REMOVALS:
        raise ValueError(f"unknown removal {removal!r}; expected one of {', '.join(REMOVALS)}")
    if (replacement is not None) != (removal == "replace"):
        raise ValueError(f"removal 'replace' needs replacement=, and only it does; got removal {removal!r}")
    check_value(value, contrast)
    _check_texts({"target": target, "contrast": contrast, "replacement": replacement})
    if not callable(model):
        raise ValueError(f"the model must be callable (tokens, attention_mask -> logits), got {type(model).__name__}")
    shared = as_pytree(model)
    causal = _is_causal(shared)
    begin = special_tokens_of(tokenizer).begin if causal else None
    units = units.tolist() if isinstance(units, np.ndarray) else units
    prompt = read_prompt(tokenizer, text_or_messages, units=units, within=within, protect=tuple(protect), begin=begin)
    context = max_length_of(model, tokenizer)
    if len(prompt.ids) + causal > context:
        raise ValueError(
            f"the text has {len(prompt.ids)} tokens and the model's context is {context}; "
            "shorten the text, or use a model with a longer context"
        )
    _check_ids(model, tokenizer, prompt.ids, "the text")
    _check_independent(shared, prompt.ids)
    tokens, in_place = removable(tokenizer, prompt, removal, replacement)
    _check_ids(model, tokenizer, tokens.tokens, "replacement")
    _check_ids(model, tokenizer, tokens.stand_in, f"removal {removal!r}")
    if causal and not in_place and not (prompt.unit < 0).any():
        raise ValueError(
            f"with removal {removal!r} nothing is left for the model to answer when all units are removed, since the "
            "tokenizer has no BOS token; keep a part of the text by within=, use messages, or removal='mask'"
        )
    knows_segments = isinstance(shared, HiddenStates | Classifier)
    kind = "in_place" if in_place else "hidden" if removal == "attention" and not knows_segments else "packed"
    options = {
        "kind": kind,
        "move": removal != "attention",
        "width": width_of(model),
        "alone": None if knows_segments else context,
    }
    if causal:
        answers = [_answer(model, tokenizer, prompt, target, "target", context, max_new_tokens)]
        if contrast is not None:
            answers.append(_answer(model, tokenizer, prompt, contrast, "contrast", context, max_new_tokens))
        made: Any = _of_answers(shared, prompt, tokens, answers, value, share_prefix, options)
    else:
        made = _of_classes(shared, model, prompt, tokens, value, target, contrast, options)
    fn, packing, shown = made
    return ValueFunction(
        fn,
        prompt.n,
        names=prompt.names,
        on_device=True,
        device=DeviceOptions(
            width=_width(prompt.n),
            packing=packing,
            relaxed=takes_partly_kept(model) and removal != "delete",
        ),
        details=TextDetails(
            text=prompt.text,
            spans=tuple(prompt.spans),
            units=prompt.noun,
            removal=removal,
            value=value,
            target=shown[0],
            contrast=shown[1],
            own_target=target is None,
            left_out=prompt.left_out,
        ),
        coordinates=np.arange(prompt.n),
    )


def _check_ids(model: Any, tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray, role: str) -> None:
    """Raises ValueError for a token that the model does not embed: some tokenizers have tokens, such as those of
    pictures, that only a larger model knows.
    """
    size = vocabulary_of(model)
    if size is None:
        return
    outside = next((int(token) for token in ids if token >= size), None)
    if outside is not None:
        raise ValueError(
            f"{role} uses the token {token_name(tokenizer, outside)!r} of id {outside}, and the model embeds ids from "
            f"0 to {size - 1}: it does not know this token. Leave it out, or use the tokenizer that belongs to the "
            "model"
        )


def _check_texts(given: Mapping[str, Any]) -> None:
    """Raises ValueError where a text, or one of a list, has a lone surrogate."""
    for role, value in given.items():
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, str):
                check_unicode(part, role)


def _answer(
    model: Any, tokenizer: Tokenizer, prompt: Prompt, given: Any, role: str, context: int, max_new_tokens: int
) -> Answer:
    """Returns a given answer, or the model's own where it is None.

    Raises:
      ValueError: see `answer_of` and `own_answer`; or the answer does not fit into the context.
    """
    if given is None:
        check_whole("max_new_tokens", max_new_tokens, 1)
        return own_answer(model, tokenizer, prompt, max_new_tokens, context)
    answer = answer_of(tokenizer, prompt, given, vocabulary_of(model) or len(tokenizer), role)
    _check_ids(model, tokenizer, answer.ids, role)
    if len(prompt.ids) + len(answer.ids) > context:
        raise ValueError(
            f"the prompt has {len(prompt.ids)} tokens, the {role} {len(answer.ids)}, and the model's context is "
            f"{context}; shorten them, or use a model with a longer context"
        )
    return answer


def _of_answers(
    model: Any,
    prompt: Prompt,
    tokens: Tokens,
    answers: list[Answer],
    value: str,
    share_prefix: bool,
    options: dict[str, Any],
) -> tuple[AblatedAnswer, Packing | None, tuple[str, str | None]]:
    """Returns the function of one answer, or of two of which one is subtracted, its packing, and the texts of both."""
    sources: list[int] = []
    first = int(np.flatnonzero(tokens.unit >= 0)[0])
    # One token before the first unit stays in the template, to be read when all units are removed.
    start = max(0, first - 1) // BUCKET * BUCKET if share_prefix and isinstance(model, PrefixModel) else 0
    prefix_tokens = prefix = None
    if start:
        prefix_tokens = jnp.asarray(prompt.ids[:start])
        prefix = _prefix(model, prefix_tokens)
        body = tokens[start:]
        tokens = dataclasses.replace(body, position=body.position - start)
    for branch, answer in enumerate(answers, start=1):
        sources += [-1, *range(len(tokens.tokens), len(tokens.tokens) + len(answer.ids) - 1)]
        tokens = tokens.then(always(answer.ids[:-1], branch))
    template, packing = _template(tokens, prompt.n, start=start, **options)
    signs = [sign for sign, answer in zip((1.0, -1.0), answers, strict=False) for _ in answer.ids]
    fn = AblatedAnswer(
        model=model,
        template=template,
        prefix_tokens=prefix_tokens,
        prefix=prefix,
        sources=_padded(sources, np.int32),
        tokens=_padded([token for answer in answers for token in answer.ids], np.int32),
        weight=_padded(signs, np.float32),
        value=value,
    )
    return fn, packing, (answers[0].text, answers[1].text if len(answers) > 1 else None)


@jax.jit
def _prefix(model: PrefixModel, tokens: jax.Array) -> Any:
    return model.prefix(tokens, jnp.arange(len(tokens)))


def _of_classes(
    shared: Any,
    model: Any,
    prompt: Prompt,
    tokens: Tokens,
    value: str,
    target: Any,
    contrast: Any,
    options: dict[str, Any],
) -> tuple[AblatedClass, Packing | None, tuple[str, str | None]]:
    """Returns the function of a class, or of two of which one is subtracted, its packing, and the names of both."""
    template, packing = _template(tokens, prompt.n, start=0, **options)
    fn = AblatedClass(
        model=shared,
        template=template,
        target=jnp.asarray(0, jnp.int32),
        contrast=jnp.asarray(0, jnp.int32),
        value=value,
    )
    width = _width(prompt.n)
    batch = [np.ones((1, width), np.bool_)]
    if packing is not None:
        used = np.arange(packing.slots)[None] == 0
        batch = [np.ones((1, packing.slots, width), np.bool_), used]
    full = np.asarray(_logits_of_full(fn, *batch), np.float32)[0, 0]
    classes = choose_classes(model, full, value, target, contrast)
    chosen, against = (jnp.asarray(number, jnp.int32) for number in classes[:2])
    return dataclasses.replace(fn, target=chosen, contrast=against), packing, classes[2:]
