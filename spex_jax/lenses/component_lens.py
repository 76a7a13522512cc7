"""The mechanistic lens: which heads, MLPs and neurons of a language model act together."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.engine.details import ComponentsDetails
from spex_jax.engine.value_function import DeviceOptions, ValueFunction
from spex_jax.lenses.component_parts.ablated_components import AblatedComponents, Reading
from spex_jax.lenses.component_parts.component_units import ComponentUnits, component_units
from spex_jax.lenses.component_parts.prompt_batch import PromptBatch, at_places, prompt_batch, token_ids
from spex_jax.lenses.values import VALUES
from spex_jax.models.components import record
from spex_jax.models.decoder import Decoder
from spex_jax.utils.jax_settings import own_settings

__all__ = ["COMPONENT_REMOVALS", "COMPONENT_VALUES", "components"]

COMPONENT_REMOVALS = ("zero", "zero_rescaled", "mean", "resample")
COMPONENT_VALUES = (*VALUES, "loss", "kl", "accuracy")
_MEANS = ("tokens", "prompts")
_TRUNK = 2**30  # bytes of states that are kept, so that masks can begin at late layers


@own_settings()
def components(  # noqa: PLR0913
    model: Decoder,
    tokens: Any,
    *,
    units: Any = "heads",
    layers: Iterable[int] | int | None = None,
    removal: str = "mean",
    target: Any = None,
    contrast: Any = None,
    value: str = "logit_diff",
    attention_mask: Any = None,
    positions: Any = None,
    reference: Any = None,
    mean_over: str = "tokens",
    corrupted: Any = None,
    read: Any = None,
    choices: Sequence[int] | None = None,
    per_prompt: bool = False,
) -> ValueFunction:
    """Returns a value function for the parts of a network: each part is kept, or its output is replaced.

    Masks are an argument of the forward pass: all masks of a batch go through the layers together. The layers before
    the first unit are computed once; masks that remove parts of late layers only are evaluated together and begin
    there.

    Args:
      model: a `spex_jax.models.Decoder`.
      tokens: ids of P prompts: int [P, L], lists of different lengths, or one prompt [L].
      units: "heads"; "kv_groups", the heads that share a head of keys and values (grouped-query attention); "mlps";
        "layers", attention and MLP together; "neurons", the hidden units of the MLPs, one by one; or your own
        groups, a sequence or a mapping from names, of members "L5" (a layer), "L5ATTN", "L5MLP", "L5H3", "L5KV1",
        "L5N7", "L5H0:4", "L5N0:128". The output of a layer's attention or MLP is a part of its own beside its heads and
        neurons: "L5" and "L5H3" may be two units, and removing the first also removes the effect of the second.
      layers: the layers for a kind of units; all where None.
      removal: what replaces the output of a removed part (for a head the mixed values, before the output product, whose
        bias stays; for a neuron its activation). "zero"; "zero_rescaled": zero, and the layer's other heads or neurons
        are multiplied by the share of all that is kept (Butler et al. 2025, https://arxiv.org/abs/2505.17495); "mean":
        the mean over `reference`; "resample": the output at the same place in `corrupted`.
      target: the token that should come next: an id, one for each prompt, or [P, K] for each place that is read. None:
        for "loss" the prompt's own next token, else what the whole network predicts. Not for "kl".
      contrast: for "logit_diff", in the form of target.
      value: the mean over places that are read, and then over prompts, of "logit" z_y, "margin" z_y - logsumexp of the
        others, "logprob" log softmax, "logit_diff" z_y - z_contrast, "loss" -logprob, "kl" the divergence of the
        whole network's prediction from the ablated one's (Conmy et al. 2023, https://arxiv.org/abs/2304.14997), or
        "accuracy" the share of places where y is predicted.
      attention_mask: nonzero at real tokens of an array [P, L], and of `corrupted`; padding may be on any side. None
        where all are real.
      positions: where parts are removed: numbers of tokens, for all prompts (negative from the end), or bool in the
        shape of tokens (for lists [P, longest], False where there is none); everywhere where None.
      reference: for "mean", the prompts over which it is taken, in the form of tokens; the prompts where None.
      mean_over: for "mean": "tokens", one mean over all tokens of all prompts, or "prompts", a mean for each position
        (Wang et al. 2022, https://arxiv.org/abs/2211.00593), for prompts of one length.
      corrupted: for "resample", other prompts of the same lengths.
      read: the token of a prompt after which the next one is predicted: a number (negative from the end), one for each
        prompt, or [P, K]. None is the last; for "loss" without a target all that have a next one.
      choices: tokens among which the model chooses (the letters of a multiple choice), as if there were no others; all
        where None.
      per_prompt: whether the value is one number for each prompt, [P], and not their mean.

    Raises:
      ValueError: an option is unknown, or does not belong to the removal or value; a part, layer, position or token is
        missing; a mean is over nothing; corrupted prompts have other lengths; the model is not a decoder or has no such
        unit.
    """
    chosen = component_units(model, units, layers)
    _check_options(removal, value, target, contrast, reference, corrupted, mean_over)
    prompts = prompt_batch(model, tokens, attention_mask, "tokens")
    source = _source(model, prompts, removal, reference, corrupted, attention_mask, mean_over)
    reading = _reading(model, prompts, value, target, contrast, read, choices, per_prompt)
    tables = {kind: chosen.table(kind, model.config) for kind in chosen.kinds}
    slot = np.searchsorted(chosen.layers, np.arange(model.config.num_layers)).clip(max=len(chosen.layers) - 1)
    starts = _starts(model, prompts, chosen.layers)
    first = np.searchsorted(starts, chosen.first(), side="right") - 1
    entering = record(model, prompts.tokens, prompts.segments, layers=starts, kinds=("states",))["states"]
    fn = AblatedComponents(
        model=model,
        tokens=prompts.tokens,
        segments=prompts.segments,
        source=None if source is None else (source.tokens, source.segments),
        entering=entering,
        instead={},
        slot=jnp.asarray(slot, jnp.int32),
        starts=jnp.asarray(starts, jnp.int32),
        first=jnp.asarray(first, jnp.int32),
        unit={kind: jnp.asarray(table) for kind, table in tables.items()},
        at=None if positions is None else jnp.asarray(prompts.chosen(positions)),
        reading=reading,
        earliest=starts[0],
        removal=f"mean over {mean_over}" if removal == "mean" else removal,
    )
    fn = _with_clean(fn.of(model, chosen.layers), target)
    return ValueFunction(
        fn,
        chosen.n,
        names=chosen.names,
        on_device=True,
        outputs=(prompts.count,) if per_prompt else (),
        device=DeviceOptions(
            order_of=lambda masks: np.where(masks, len(starts), first).min(axis=1),
            relaxed=True,
        ),
        details=ComponentsDetails(
            units=chosen.noun,
            removal=removal,
            value=value,
            prompts=prompts.count,
            own_target=target is None and value not in ("loss", "kl"),
            layers=tuple(tuple(sorted({layer for _, layer, _ in parts})) for parts in chosen.parts),
            columns=tuple(chosen.columns),
        ),
        coordinates=_depth(chosen),
    )


def _depth(units: ComponentUnits) -> np.ndarray | None:
    """Returns the mean layer of each unit, float64 [n]; None where all are in one.

    The numbers of the heads in a layer do not say which of them act together, and as a second coordinate do not help
    (docs/decisions/65).
    """
    layers = np.array([np.mean([layer for _, layer, _ in parts]) for parts in units.parts])
    return None if (layers == layers[0]).all() else layers


@jax.jit
def _clean_logits(fn: AblatedComponents, masks: jax.Array) -> jax.Array:
    return fn.reading.logits(fn.model, fn.states(masks))[0]


def _starts(model: Decoder, prompts: PromptBatch, layers: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the layers at which masks may begin: the first, and as many of the others as `_TRUNK` allows."""
    states = prompts.tokens.size * model.config.dim * model.params["embedding"].dtype.itemsize
    return layers[:: -(-len(layers) // max(1, _TRUNK // states))]


def _check_options(
    removal: str, value: str, target: Any, contrast: Any, reference: Any, corrupted: Any, mean_over: str
) -> None:
    if removal not in COMPONENT_REMOVALS:
        raise ValueError(f"unknown removal {removal!r}; expected one of {', '.join(COMPONENT_REMOVALS)}")
    if value not in COMPONENT_VALUES:
        raise ValueError(f"unknown value {value!r}; expected one of {', '.join(COMPONENT_VALUES)}")
    if (contrast is not None) != (value == "logit_diff"):
        raise ValueError(
            "value 'logit_diff' needs contrast, the token whose logit is subtracted, and only it does; got value "
            f"{value!r}, contrast {contrast!r}"
        )
    if value == "kl" and target is not None:
        raise ValueError("value 'kl' compares whole predictions and has no target; leave target out")
    if mean_over not in _MEANS:
        raise ValueError(f"unknown mean_over {mean_over!r}; expected one of {', '.join(_MEANS)}")
    if (reference is not None or mean_over != "tokens") and removal != "mean":
        raise ValueError(f"reference= and mean_over= are for removal 'mean'; this is {removal!r}")
    if (corrupted is not None) != (removal == "resample"):
        raise ValueError(f"removal 'resample' needs corrupted=, and only it does; got removal {removal!r}")


def _source(
    model: Decoder,
    prompts: PromptBatch,
    removal: str,
    reference: Any,
    corrupted: Any,
    attention_mask: Any,
    mean_over: str,
) -> PromptBatch | None:
    """Returns the prompts whose parts replace those that are removed."""
    if removal == "resample":
        found = prompt_batch(model, corrupted, attention_mask, "corrupted")
        if found.count != prompts.count or (found.lengths != prompts.lengths).any():
            raise ValueError(
                f"corrupted must hold a prompt of the same length for each of the prompts: these have "
                f"{prompts.shown_lengths()} tokens, those {found.shown_lengths()}"
            )
        return found
    if removal != "mean":
        return None
    found = prompts if reference is None else prompt_batch(model, reference, None, "reference")
    if mean_over == "prompts" and {*found.lengths, *prompts.lengths} != {int(prompts.lengths[0])}:
        raise ValueError(
            "mean_over='prompts' takes a mean at each position and needs prompts and reference of one length, got "
            f"{prompts.shown_lengths()} and {found.shown_lengths()} tokens; use mean_over='tokens'"
        )
    return found


def _reading(
    model: Decoder,
    prompts: PromptBatch,
    value: str,
    target: Any,
    contrast: Any,
    read: Any,
    choices: Any,
    per_prompt: bool,
) -> Reading:
    """Returns where the network is read and what is expected there; a target of None is filled in later."""
    vocabulary = model.config.vocab_size
    own = value == "loss" and target is None
    places, weight = prompts.places(read, successors=own)
    zeros = np.zeros(places.shape, np.int32)
    expected = prompts.next_of(places) if own else zeros
    if target is not None:
        expected = at_places(target, places.shape, vocabulary, "target")
    is_choice = None
    if choices is not None:
        is_choice = np.zeros(vocabulary, np.bool_)
        is_choice[token_ids(choices, vocabulary, "choices")] = True
        if is_choice.sum() < 2:
            raise ValueError(f"choices must hold at least 2 tokens among which the model chooses, got {list(choices)}")
    against = zeros if contrast is None else at_places(contrast, places.shape, vocabulary, "contrast")
    if contrast is not None and target is not None and (same := (expected == against) & (weight > 0)).any():
        raise ValueError(
            f"contrast and target are both {expected[same][0]} where they are compared; give another contrast"
        )
    known = {"target": target is not None or own, "contrast": contrast is not None}
    for role, tokens in (("target", expected), ("contrast", against)):
        if is_choice is not None and known[role] and not is_choice[chosen := tokens[weight > 0]].all():
            wrong = chosen[~is_choice[chosen]][0]
            raise ValueError(f"{role} {wrong} is not among the choices {list(choices)}")
    return Reading(
        places=jnp.asarray(places),
        weight=jnp.asarray(weight),
        target=jnp.asarray(expected),
        contrast=jnp.asarray(against),
        is_choice=None if is_choice is None else jnp.asarray(is_choice),
        clean=None,
        value=value,
        per_prompt=bool(per_prompt),
    )


def _with_clean(fn: AblatedComponents, target: Any) -> AblatedComponents:
    """Returns the function with the predictions of the whole network, where the value needs them."""
    reading = fn.reading
    if target is not None or reading.value == "loss":
        return fn
    logits = _clean_logits(fn, np.ones((1, len(fn.first)), np.bool_))
    if reading.value == "kl":
        reading = dataclasses.replace(reading, clean=jax.nn.log_softmax(logits))
    else:
        reading = dataclasses.replace(reading, target=logits.argmax(axis=-1).astype(jnp.int32))
    return dataclasses.replace(fn, reading=reading)
