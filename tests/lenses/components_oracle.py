"""Parts of a decoder removed by brute force: NumPy in float64, one prompt, one head and one query at a time.

A part is (kind, layer, number), kind "heads" or "neurons" with a number, "attention" or "mlp" with None.
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

logsumexp, erf = np.logaddexp.reduce, np.vectorize(math.erf)
ACTIVATIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
}


@dataclasses.dataclass(frozen=True)
class Network:
    """Weights in float64 and the config of a `spex_jax.models.Decoder`."""

    params: Any
    config: Any

    @classmethod
    def of(cls, model):
        return cls(jax.tree.map(lambda leaf: np.array(leaf, np.float64), model.params), model.config)

    @property
    def has_mlps(self):
        return "up" in self.params["layers"]

    def layer(self, number):
        return jax.tree.map(lambda leaf: leaf[number], self.params["layers"])

    def norm(self, params, x):
        c = self.config
        if c.norm == "layer":
            centred = x - x.mean()
            return centred / math.sqrt((centred**2).mean() + c.norm_eps) * params["weight"] + params["bias"]
        return x / math.sqrt((x**2).mean() + c.norm_eps) * (params["weight"] + c.norm_offset)

    def turned(self, layer, x, position):
        """Rotary positions of one vector [A]: each pair (i, i + A/2) as a complex number."""
        c = self.config
        if not c.ropes:
            return x
        rope = c.ropes[c.rope_of_layer[layer] if c.rope_of_layer else 0]
        half = len(x) // 2
        turned = np.empty(len(x))
        for i in range(half):
            frequency = rope.theta ** (-2 * i / len(x))
            if rope.low_frequency is None:
                frequency /= rope.factor
            else:  # Llama 3.1: long wavelengths are scaled, short ones not, between them by their turns
                turns = rope.original_length * frequency / (2 * math.pi)
                kept = (turns - rope.low_frequency) / (rope.high_frequency - rope.low_frequency)
                kept = min(max(kept, 0), 1)
                frequency = (1 - kept) * frequency / rope.factor + kept * frequency
            z = complex(x[i], x[i + half]) * complex(math.cos(position * frequency), math.sin(position * frequency))
            turned[i], turned[i + half] = z.real, z.imag
        return turned

    def head(self, number, layer, normed):
        """What one query head mixes at all positions, [L, A]."""
        c, size = self.config, self.config.head_dim
        weights = self.layer(layer)
        own = number // (c.num_heads // c.num_kv_heads)

        def projected(name, which, norm=None):
            product = normed @ weights[name]["weight"][which * size : (which + 1) * size].T
            if "bias" in weights[name]:
                product = product + weights[name]["bias"][which * size : (which + 1) * size]
            if norm in weights:
                product = np.array([self.norm(weights[norm], x) for x in product])
            return product

        q, k = projected("query", number, "norm_query"), projected("key", own, "norm_key")
        q, k = (np.array([self.turned(layer, x, i) for i, x in enumerate(states)]) for states in (q, k))
        v = projected("value", own)
        window = (c.windows[layer] if c.windows else 0) or len(normed)
        mixed = []
        for i in range(len(normed)):
            start = max(0, i - window + 1)
            scores = k[start : i + 1] @ q[i] * c.attention_scale
            if c.attention_softcap is not None:
                scores = c.attention_softcap * np.tanh(scores / c.attention_softcap)
            mixed.append(np.exp(scores - logsumexp(scores)) @ v[start : i + 1])
        return np.array(mixed)

    def forward(self, tokens, edit=None, *, at=None, amount=None, scale=None):
        """One prompt, with some of its parts replaced.

        Args:
          tokens: ids [L].
          edit: what stands for parts: an array [L, ...] or [...], or 0.
          at: bool [L], where; everywhere where None.
          amount: how much of a part is replaced, in [0, 1]; 1 for those that are not in it.
          scale: factors of what heads and neurons do.

        Returns:
          Logits [L, V], and what every part did, before it was replaced, [L, ...] each.
        """
        p, c, length = self.params, self.config, len(tokens)
        at = np.ones(length, bool) if at is None else at
        edit, amount, scale = edit or {}, amount or {}, scale or {}
        record = {}

        def edited(part, own):
            record[part] = own.copy()
            there = at.reshape(-1, *[1] * (own.ndim - 1))
            if part in scale:
                own = np.where(there, own * scale[part], own)
            if part in edit:
                share = amount.get(part, 1.0)
                own = np.where(there, (1 - share) * own + share * np.broadcast_to(edit[part], own.shape), own)
            return own

        def product(params, x):
            return x @ params["weight"].T + params.get("bias", 0.0)

        x = np.array([p["embedding"][token] * c.embedding_scale for token in tokens])
        if "positions" in p:
            x = x + p["positions"][:length]
        for layer in range(c.num_layers):
            weights = self.layer(layer)

            def after(name, added, weights=weights):
                return np.array([self.norm(weights[name], y) for y in added]) if name in weights else added

            normed = np.array([self.norm(weights["norm_attention"], y) for y in x])
            heads = [edited(("heads", layer, h), self.head(h, layer, normed)) for h in range(c.num_heads)]
            added = after("norm_attention_after", product(weights["output"], np.concatenate(heads, axis=1)))
            x = x + edited(("attention", layer, None), added)
            if not self.has_mlps:
                continue
            normed = np.array([self.norm(weights["norm_mlp"], y) for y in x])
            hidden = ACTIVATIONS[c.activation](product(weights["gate" if "gate" in weights else "up"], normed))
            if "gate" in weights:
                hidden = hidden * product(weights["up"], normed)
            neurons = [edited(("neurons", layer, m), hidden[:, m]) for m in range(c.hidden_dim)]
            added = after("norm_mlp_after", product(weights["down"], np.stack(neurons, axis=1)))
            x = x + edited(("mlp", layer, None), added)
        states = np.array([self.norm(p["norm"], y) for y in x])
        logits = states @ p.get("head", p["embedding"]).T
        if c.logit_softcap is not None:
            logits = c.logit_softcap * np.tanh(logits / c.logit_softcap)
        return logits, record

    def with_factors(self, factors):
        """The network whose heads and neurons are multiplied by factors in the weights of the product after them."""
        layers = jax.tree.map(np.copy, self.params["layers"])
        for (kind, layer, number), factor in factors.items():
            if kind == "heads":
                size = self.config.head_dim
                layers["output"]["weight"][layer][:, number * size : (number + 1) * size] *= factor
            else:
                layers["down"]["weight"][layer][:, number] *= factor
        return dataclasses.replace(self, params={**self.params, "layers": layers})


def units_of(network, kind, layers=None):
    """The parts of each unit of a kind, layer by layer."""
    c = network.config
    share = c.num_heads // c.num_kv_heads
    units = []
    for layer in range(c.num_layers) if layers is None else layers:
        if kind == "heads":
            units += [[("heads", layer, h)] for h in range(c.num_heads)]
        elif kind == "kv_groups":
            units += [[("heads", layer, g * share + i) for i in range(share)] for g in range(c.num_kv_heads)]
        elif kind == "mlps":
            units.append([("mlp", layer, None)])
        elif kind == "layers":
            units.append([("attention", layer, None)] + [("mlp", layer, None)] * network.has_mlps)
        elif kind == "neurons":
            units += [[("neurons", layer, m)] for m in range(c.hidden_dim)]
    return units


def kept_shares(network, removed):
    """Factors of heads and neurons in layers where some are removed, by the share of them that is kept."""
    c, factors = network.config, {}
    for kind, count in (("heads", c.num_heads), ("neurons", c.hidden_dim)):
        for layer in range(c.num_layers):
            gone = sum(amount for part, amount in removed.items() if part[:2] == (kind, layer))
            if gone:
                factors |= {(kind, layer, number): 1 - gone / count for number in range(count)}
    return factors


def means(network, prompts, over):
    """What each part does on average."""
    records = [network.forward(prompt)[1] for prompt in prompts]
    if over == "tokens":
        return {part: np.concatenate([record[part] for record in records]).mean(axis=0) for part in records[0]}
    return {part: np.mean([record[part] for record in records], axis=0) for part in records[0]}


def ablated(network, prompts, units, mask, removal, *, at=None, reference=None, over="tokens", corrupted=None):
    """Logits [L, V] of each prompt under a mask of numbers in [0, 1]."""
    removed = {part: 1.0 - share for unit, share in zip(units, mask, strict=True) for part in unit if share < 1}
    stands = dict.fromkeys(removed, 0)
    scale = {}
    if removal == "zero_rescaled":
        scale = kept_shares(network, removed)
    elif removal == "mean":
        stands = means(network, prompts if reference is None else reference, over)
    found = []
    for i, prompt in enumerate(prompts):
        if removal == "resample":
            stands = network.forward(corrupted[i])[1]
        edit = {part: stands[part] for part in removed}
        where = None if at is None else at[i]
        found.append(network.forward(prompt, edit, at=where, amount=removed, scale=scale)[0])
    return found


def value_at(name, z, y, contrast, whole, choices=None):
    """The value of logits [V] where y should come next; `whole` are those of the whole network."""
    if choices is not None:
        z, whole = z[list(choices)], whole[list(choices)]
        y, contrast = (None if t is None else list(choices).index(t) for t in (y, contrast))
    if name == "kl":
        p, q = whole - logsumexp(whole), z - logsumexp(z)
        return (np.exp(p) * (p - q)).sum()
    if y is None:
        y = int(whole.argmax())
    if name == "logit":
        return z[y]
    if name == "margin":
        return z[y] - logsumexp(np.delete(z, y))
    if name == "logprob":
        return z[y] - logsumexp(z)
    if name == "loss":
        return logsumexp(z) - z[y]
    if name == "logit_diff":
        return z[y] - z[contrast]
    return float(z.argmax() == y)


def read_out(name, logits, whole, prompts, *, read=None, target=None, contrast=None, choices=None):
    """The value of each prompt [P]: its mean over places; `read`, `target` and `contrast` are lists of lists [P, K]."""
    found = []
    for i, prompt in enumerate(prompts):
        own = name == "loss" and target is None
        if read is None:
            places = range(len(prompt) - 1) if own else [len(prompt) - 1]
        else:
            places = [place % len(prompt) for place in read[i]]
        total = 0.0
        for j, place in enumerate(places):
            y = prompt[place + 1] if own else None if target is None else target[i][j]
            against = None if contrast is None else contrast[i][j]
            total += value_at(name, logits[i][place], y, against, whole[i][place], choices)
        found.append(total / len(places))
    return np.array(found)
