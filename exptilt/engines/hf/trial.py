"""What a model can do, found out by trying it when it is loaded, because its configuration and its code do not always say so.

The reference is the plain model, which reads a whole text at once, alone. Compared with it are the ways in which an engine
evaluates tokens, the fastest first: rows of different lengths together over trunks, then without trunks. A model for which
neither works is read whole for every token, which is slow and always right; one whose logits depend on what comes after them is
refused.

In half precision a token may stand on an edge, where rounding decides which experts of a mixture it goes to, and is far off then.
Most tokens of a text must be much nearer than that, and what fails is tried on other texts: a wrong way fails on all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
TRIES = 4  # sets of texts in half precision


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
    ahead: by how much log-probabilities change with the tokens after them (nats), over what rounding may do to them.
    bound, usual: how far a token's log-probabilities may be off, and those of half of a text's tokens (nats).
    half: whether the model computes in half precision.
    """

    tokens: Sequence[tuple[int, ...]]
    logits: Sequence[Tensor]
    ahead: float
    bound: float
    usual: float
    half: bool

    def off(self, found: Tensor, wanted: Tensor) -> Tensor:
        """How far each token's log-probabilities [tokens, vocabulary] are off (nats); NaN where some are not numbers."""
        return difference(found, wanted, half=self.half)

    def alike(self, off: Tensor) -> bool:
        """Whether tokens of a text that are so far off are as the plain model has them."""
        return bool((off <= self.bound).all()) and float(off.median()) <= self.usual


@torch.inference_mode()
def read_plainly(read: Callable[[Tensor], Tensor], ids: Sequence[int], dtype: torch.dtype, name: str) -> Texts:
    """Texts made of `ids`, read whole by the plain model. Raises ModelError where that is not possible."""
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
    ahead = float(difference(beginning, changed[: len(middle)], half=half).max())
    rounding = difference(beginning, logits[1], half=half)
    bound, usual = (tolerance * spread + 4 * float(each) for each in (rounding.max(), rounding.median()))
    return Texts([long, middle, short], logits, ahead - 10 * tolerance * spread, bound, usual if half else bound, half)


class Trial:
    """Texts to try a model with: one set, in half precision up to `TRIES`, read as they are needed.

    first: the first of them of which the model reads no token ahead. Raises ModelError where there is none.
    """

    def __init__(self, read: Callable[[Tensor], Tensor], config: Any, dtype: torch.dtype, name: str) -> None:
        self._made: list[Texts] = []
        self._make = lambda number: read_plainly(read, trial_ids(config, number), dtype, name)
        self._most = 1 if dtype in TOLERANCES else TRIES
        causal = next((texts for texts in self if texts.ahead <= 0), None)
        if causal is None:
            raise ModelError(
                f"{name} is not a causal language model: log-probabilities of its tokens change with the tokens after them, "
                f"by {self._made[0].ahead:.2g} nats more than rounding can. It is an encoder, which reads in both directions, "
                "or its configuration lacks is_decoder=True."
            )
        self.first = causal

    def __iter__(self) -> Iterator[Texts]:
        for number in range(self._most):
            if number == len(self._made):
                self._made.append(self._make(number))
            yield self._made[number]


def trial_ids(config: Any, number: int = 0) -> list[int]:
    """Token ids from the whole vocabulary for the trial, with padding and end of text: some models treat those differently.

    number: of the set of texts.
    """
    ids = [(11 + 131 * i + 7 * i * i + 997 * number * (i + 1)) % config.vocab_size for i in range(LONG + SHORT)]
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


def try_rows(network: Evaluates, trial: Trial, *, share: bool) -> str | None:
    """Decode and score texts of different lengths together; returns why that is not as the plain model has it, or None."""
    return _reason(lambda texts: [*_decoded(network, texts, share), *_scored(network, texts)], trial)


def try_trees(network: Evaluates, trial: Trial) -> str | None:
    """Score texts as one tree after their first tokens, in two blocks; the reason as in `try_rows`."""
    return _reason(lambda texts: _scored_as_tree(network, texts), trial)


@torch.inference_mode()
def _reason(measure: Callable[[Texts], Sequence[Tensor]], trial: Trial) -> str | None:
    """Why something is not as the plain model has it: its error, or that log-probabilities were off on every set of texts.

    measure: how far each token is `off`, text by text.
    """
    worst: list[float] = []
    for texts in trial:
        try:
            off = measure(texts)
        except Exception as error:  # noqa: BLE001 - that a model fails in this way is what the trial finds out
            return words(error)
        if all(map(texts.alike, off)):
            return None
        worst.append(float(torch.cat([*off]).max()))
    return f"log-probabilities were off by {min(worst):.2g} nats"


def _scored_as_tree(network: Evaluates, texts: Texts) -> list[Tensor]:
    context = Context(texts.tokens[0][:STEM], texts.tokens[0][: STEM // 2])
    rest = [text[STEM // 2 :] for text in texts.tokens]
    known, _ = network.prefill([context])
    tree = Tree(context)
    for number, response in enumerate(rest):
        tree.add(number, response)
    slots, forest = network.planted([tree], known)
    blocks = slice(0, forest.count // 2), slice(forest.count // 2, forest.count)
    found = torch.cat([network.feed(slots, forest.ids[:, b], b.stop - b.start, forest.inputs(slots, b)) for b in blocks], 1)[0]
    return [texts.off(found[way], texts.logits[number][STEM // 2 - 1 : -1]) for number, way in tree.ways.items()]


def _decoded(network: Evaluates, texts: Texts, share: bool) -> list[Tensor]:
    """How far some steps of decoding are off, after prefilling some texts alone and others together."""
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
    off: list[Tensor] = []
    for step in range(-STEPS - 1, -1):
        last = torch.tensor([[text[step]] for text in texts.tokens], device=texts.logits[0].device)
        found = network.feed(slots, last, keep=1)[:, 0]
        off.append(texts.off(found, torch.stack([logits[step] for logits in texts.logits])))
    return [*torch.stack(off, 1)]


def _scored(network: Evaluates, texts: Texts) -> list[Tensor]:
    """How far texts are off that are read in one block, the shorter ones padded."""
    slots, ids = network.block(texts.tokens)
    found = network.feed(slots, ids, keep=ids.shape[1])
    return [texts.off(row[-len(logits) :], logits) for row, logits in zip(found, texts.logits, strict=True)]


def difference(found: Tensor, wanted: Tensor, *, half: bool) -> Tensor:
    """How far each token's log-probabilities [tokens, vocabulary] are apart (nats), unlikely ones counted as equal.

    The greatest difference; in half precision the root mean square: of 49,152 rounded numbers some are three quarters of a nat
    off. NaN where some are not numbers.
    """
    apart = _near(found.float()) - _near(wanted)
    return apart.square().mean(-1).sqrt() if half else apart.abs().amax(-1)


def _near(logits: Tensor) -> Tensor:
    """Log-probabilities relative to that of the likeliest token, but not below -NEAR: [tokens, vocabulary]."""
    return (logits - logits.amax(-1, keepdim=True)).clamp(min=-NEAR)


def words(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
