"""What a model can do, found out by trying it when it is loaded, because its configuration and its code do not always say so.

The reference is the plain model, which reads a whole text at once, alone. Compared with it are the ways in which an engine
evaluates tokens, the fastest first: rows of different lengths together over trunks, then without trunks. A model for which
neither works is read whole for every token, which is slow and always right; one whose logits depend on what comes after them is
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from exptilt.engines.hf.banks import Layout
from exptilt.engines.hf.forest import Forest, Tree
from exptilt.engines.hf.prefixes import KeyValues
from exptilt.engines.hf.slots import Slots
from exptilt.engines.row import Context
from exptilt.errors import ModelError

LONG, SHORT, STEM = 20, 8, 6  # tokens of the longest text, of the shortest, of their common prefix
STEPS = 3  # of decoding
NEAR = 15.0  # tokens more nats below the likeliest one count as unlikely
TOLERANCES = {torch.float32: 2e-4, torch.float64: 2e-4}  # of the spread of log-probabilities
HALF_TOLERANCE = 3e-2


class Evaluates(Protocol):
    """The part of `network.Network` that is tried."""

    def plain(self, ids: Tensor) -> Tensor: ...

    def slots(self, capacity: int = 1, columns: int = 64, *, share: bool = False) -> Slots: ...

    def feed(self, slots: Slots, ids: Tensor, keep: int, inputs: Mapping[str, Any] | None = None) -> Tensor: ...

    def planted(self, trees: Sequence[Tree], known: Sequence[KeyValues | None]) -> tuple[Slots, Forest]: ...

    def prefill(self, contexts: Sequence[Context]) -> tuple[list[KeyValues | None], Any]: ...

    def block(self, texts: Sequence[tuple[int, ...]]) -> tuple[Slots, Tensor]: ...


@dataclass(frozen=True)
class Texts:
    """Texts of different lengths with the logits before and after each of their tokens, as the plain model has them.

    tokens: of each text.
    logits: float32 [tokens, vocabulary] of each.
    bound: how far log-probabilities may be `off` (nats).
    half: whether the model computes in half precision.
    """

    tokens: Sequence[tuple[int, ...]]
    logits: Sequence[Tensor]
    bound: float
    half: bool

    def off(self, found: Tensor, wanted: Tensor) -> float:
        """How far log-probabilities [tokens, vocabulary] are apart (nats); NaN where some are not numbers."""
        return difference(found, wanted, half=self.half)


@torch.inference_mode()
def read_plainly(read: Callable[[Tensor], Tensor], ids: Sequence[int], dtype: torch.dtype, name: str) -> Texts:
    """Texts made of `ids`, read whole by the plain model. Raises ModelError where that is not causal, or not possible."""
    long, short = tuple(ids[:LONG]), (*ids[:STEM], *ids[-(SHORT - STEM) :])
    middle = long[: (LONG + SHORT) // 2]
    other = (*middle, *reversed(long[len(middle) :]))  # as long as the longest: rounding changes with the length
    try:
        *logits, changed = [read(torch.tensor([text]))[0].float() for text in (long, middle, short, other)]
    except Exception as error:
        raise ModelError(f"{name} cannot read a text by itself: {type(error).__name__}: {error}") from error
    if any(bool(each.isnan().any()) for each in logits):
        raise ModelError(f'{name} gave logits that are NaN: its numbers overflow. Load it with dtype="float32".')
    near = _near(logits[0])
    spread = float(near[near > -NEAR].std())
    half, tolerance = dtype not in TOLERANCES, TOLERANCES.get(dtype, HALF_TOLERANCE)
    beginning = logits[0][: len(middle)]
    ahead = difference(beginning, changed[: len(middle)], half=half)
    if ahead > 10 * tolerance * spread:
        raise ModelError(
            f"{name} is not a causal language model: log-probabilities of its tokens change by up to {ahead:.2g} nats with "
            "the tokens after them. It is an encoder, which reads in both directions, or its configuration lacks is_decoder=True."
        )
    rounding = difference(beginning, logits[1], half=half)
    return Texts([long, middle, short], logits, tolerance * spread + 4 * rounding, half)


def trial_ids(config: Any) -> list[int]:
    """Token ids from the whole vocabulary for the trial, with padding and end of text: some models treat those differently."""
    ids = [(11 + 131 * i + 7 * i * i) % config.vocab_size for i in range(LONG + SHORT)]
    for position, name in ((LONG // 2 - 1, "pad_token_id"), (LONG // 2 + 2, "eos_token_id")):
        token = getattr(config, name, None)  # some configurations have none
        if isinstance(token, int) and 0 <= token < config.vocab_size:
            ids[position] = token
    return ids


@torch.inference_mode()
def kept_layout(model: Any, ids: Sequence[int]) -> Layout | str:
    """What layers keep as keys and values, as the model's own cache has it.

    A reason instead where it keeps none, or something else besides, such as the state of a recurrent layer.
    """
    given = torch.tensor([list(ids)], device=model.device)
    try:
        output = model(input_ids=given, use_cache=True)
    except Exception as error:  # noqa: BLE001 - that a model cannot keep a cache is what the trial finds out
        return words(error)
    cache = getattr(output, "cache", None)
    if cache is None:  # releases before 5.24
        cache = getattr(output, "past_key_values", None)
    layers = getattr(getattr(cache, "self_attention_cache", cache), "layers", [])
    kept = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in layers]
    pairs = [(keys, values) for keys, values in kept if keys is not None and values is not None]
    if not kept or len(pairs) < len(kept) or any(states.shape[-2] != len(ids) for pair in pairs for states in pair):
        return "it keeps no key-values, or keeps another state as well"
    return Layout.of(pairs)


def try_rows(network: Evaluates, texts: Texts, *, share: bool) -> str | None:
    """Decode and score texts of different lengths together; returns why that is not as the plain model has it, or None."""
    return _reason(lambda: max(_decoded(network, texts, share), _scored(network, texts)), texts.bound)


def try_trees(network: Evaluates, texts: Texts) -> str | None:
    """Score texts as one tree after their first tokens, in two blocks; the reason as in `try_rows`."""
    return _reason(lambda: _scored_as_tree(network, texts), texts.bound)


@torch.inference_mode()
def _reason(measure: Callable[[], float], bound: float) -> str | None:
    """Why something is not as the plain model has it: its error, or that log-probabilities are off by more than `bound` nats."""
    try:
        off = measure()
    except Exception as error:  # noqa: BLE001 - that a model fails in this way is what the trial finds out
        return words(error)
    return f"log-probabilities were off by {off:.2g} nats" if not off <= bound else None


def _scored_as_tree(network: Evaluates, texts: Texts) -> float:
    context = Context(texts.tokens[0][:STEM], texts.tokens[0][: STEM // 2])
    rest = [text[STEM // 2 :] for text in texts.tokens]
    known, _ = network.prefill([context])
    tree = Tree(context)
    for number, response in enumerate(rest):
        tree.add(number, response)
    slots, forest = network.planted([tree], known)
    blocks = slice(0, forest.count // 2), slice(forest.count // 2, forest.count)
    found = torch.cat([network.feed(slots, forest.ids[:, b], b.stop - b.start, forest.inputs(slots, b)) for b in blocks], 1)[0]
    return max(texts.off(found[way], texts.logits[number][STEM // 2 - 1 : -1]) for number, way in tree.ways.items())


def _decoded(network: Evaluates, texts: Texts, share: bool) -> float:
    """The greatest difference over some steps of decoding, after prefilling some texts alone and others together."""
    before = [text[:-STEPS] for text in texts.tokens]
    network.prefill([Context(before[-1], before[-1])])
    known, _ = network.prefill([Context(text, text) for text in before])
    slots = network.slots(share=share)
    trunk = None
    if share and slots.trunks is not None and known[0] is not None:
        trunk = slots.trunks.add(before[0][:STEM], known[0])
    trunks = [trunk if text[:STEM] == before[0][:STEM] and len(text) > STEM else None for text in before]
    slots.reserve(len(before), max(len(text) - 1 - slots.skipped(own) for text, own in zip(before, trunks, strict=True)))
    for text, state, own in zip(before, known, trunks, strict=True):
        slots.join(state, len(text) - 1, trunk=own)
    worst = 0.0
    for step in range(-STEPS - 1, -1):
        last = torch.tensor([[text[step]] for text in texts.tokens], device=texts.logits[0].device)
        found = network.feed(slots, last, keep=1)[:, 0]
        worst = max(worst, texts.off(found, torch.stack([logits[step] for logits in texts.logits])))
    return worst


def _scored(network: Evaluates, texts: Texts) -> float:
    """The greatest difference where texts are read in one block, the shorter ones padded."""
    slots, ids = network.block(texts.tokens)
    found = network.feed(slots, ids, keep=ids.shape[1])
    return max(texts.off(row[-len(logits) :], logits) for row, logits in zip(found, texts.logits, strict=True))


def difference(found: Tensor, wanted: Tensor, *, half: bool) -> float:
    """How far log-probabilities [tokens, vocabulary] are apart (nats), unlikely ones counted as equal; NaN where some are none.

    The greatest difference. In half precision the greatest root mean square of a token: of 49,152 rounded numbers some are
    three quarters of a nat off.
    """
    apart = _near(found.float()) - _near(wanted)
    return float((apart.square().mean(-1).sqrt() if half else apart.abs()).max())


def _near(logits: Tensor) -> Tensor:
    """Log-probabilities relative to that of the likeliest token, but not below -NEAR: [tokens, vocabulary]."""
    return (logits - logits.amax(-1, keepdim=True)).clamp(min=-NEAR)


def words(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
