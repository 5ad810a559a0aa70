"""The network itself: evaluate tokens given key-value memory, each shared prefix once.

A *context* is a prompt and what follows it so far. To draw the token after a context, the key-values of all its tokens
but the last must be known; the last is fed by the decoding step, or by scoring. So `prefill` never needs logits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exptilt.engines.hf.fast.attention import NAME, sharing
from exptilt.engines.hf.fast.private import attends_by_interface
from exptilt.engines.hf.prefixes import KeyValues, Prefixes, shared_beginnings
from exptilt.engines.hf.slots import Slots
from exptilt.engines.ledger import Cost
from exptilt.engines.row import Context
from exptilt.errors import ModelError

BLOCK_TOKENS = 8192  # tokens evaluated at once when prefilling or scoring
BLOCK_COLUMNS = 32768  # key-value columns in use at once when prefilling or scoring, all rows together
BLOCK_LOGITS = 2**25  # logits computed at once when scoring: 128 MiB in float32
ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True)
class _Job:
    """Tokens whose key-values are wanted, and those that are known of their beginning."""

    tokens: tuple[int, ...]
    known: KeyValues | None

    @property
    def new(self) -> int:
        return len(self.tokens) - (0 if self.known is None else self.known.length)


Measure = Callable[[Tensor, Tensor], Tensor]
"""Takes logits [positions, vocabulary] and tokens int64 [positions]; returns float64 [positions, values]."""


class Network:
    """A causal language model of transformers, with the key-values of prefixes that may come again.

    memory: bytes for those key-values. fast: whether rows may share trunks. Not thread-safe: the scheduler's worker calls it.
    """

    def __init__(self, model: Any, memory: int, *, fast: bool = True) -> None:
        config = model.config.get_text_config(decoder=True)
        kinds = set(getattr(config, "layer_types", None) or ()) - ATTENTION
        if kinds or model._is_stateful:
            raise ModelError(
                f"{type(model).__name__} has layers other than attention ({', '.join(sorted(kinds)) or 'a recurrent state'}): "
                "their state cannot be shared between responses yet. Choose a model with attention layers only."
            )
        self.model = model
        self.device: torch.device = model.device
        self.vocabulary: int = config.vocab_size
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self.layers: int = config.num_hidden_layers
        self.prefixes = Prefixes(memory)
        self._accepted = _accepted(model)
        self.shares = fast and _can_share(model)
        if self.shares:
            model.set_attn_implementation(NAME)

    def slots(self, places: int = 1, columns: int = 64, *, share: bool = False) -> Slots:
        """Memory for rows; `share` lets them share trunks where the model can, for one token at a time."""
        return Slots(self.layers, self.device, places=places, columns=columns, share=share and self.shares)

    @torch.inference_mode()
    def feed(self, slots: Slots, ids: Tensor, keep: int) -> Tensor:
        """Evaluate one block of tokens int64 [rows, count] after what the slots hold, and add it to them.

        Returns the logits [rows, keep, vocabulary] of the last `keep` columns.
        """
        inputs = {**slots.inputs(ids.shape[1]), "logits_to_keep": keep}
        inputs = {name: value for name, value in inputs.items() if name in self._accepted}
        with sharing(slots.shared()):
            output = self.model(input_ids=ids, past_key_values=slots.cache, use_cache=True, **inputs)
        slots.end += ids.shape[1]
        return output.logits[:, -keep:]

    # ------------------------------------------------------------------------------------------------ prefilling

    @torch.inference_mode()
    def prefill(self, contexts: Sequence[Context]) -> tuple[list[KeyValues | None], list[Cost]]:
        """Key-values of each context's tokens but the last (None where there are none), and what each took.

        What is known from earlier calls is reused; what several contexts share is computed once, for the first.
        """
        costs = [Cost() for _ in contexts]
        first: dict[tuple[int, ...], Cost] = {}  # the cost of each distinct sequence goes to its first row
        for context, cost in zip(contexts, costs, strict=True):
            first.setdefault(context.tokens[:-1], cost)
        found = {wanted: self.prefixes.find(wanted) for wanted in first}
        missing = [wanted for wanted, known in found.items() if _Job(wanted, known).new]
        waves = shared_beginnings(missing)
        for wave in [*waves, missing]:
            jobs = [_Job(tokens, self.prefixes.find(tokens) if waves else found[tokens]) for tokens in wave]
            jobs = [job for job in jobs if job.new]
            for job, known in zip(jobs, self._compute(jobs), strict=True):
                self.prefixes.put(job.tokens, known)
                cost = next(cost for wanted, cost in first.items() if wanted[: len(job.tokens)] == job.tokens)
                cost.prompt += job.new
                cost.forwards += 1
        for context, cost in zip(contexts, costs, strict=True):
            cost.cached = len(context.tokens) - 1 - cost.prompt
        if missing:  # what is new, and what was parted for it
            found = {wanted: self.prefixes.find(wanted) for wanted in first}
            self.prefixes.trim()
        return [found[context.tokens[:-1]] for context in contexts], costs

    def _compute(self, jobs: Sequence[_Job]) -> list[KeyValues]:
        results: list[KeyValues | None] = [None] * len(jobs)
        for group in groups([(job.new, len(job.tokens)) for job in jobs]):
            members = [jobs[i] for i in group]
            slots, ids = self._place(members)
            self.feed(slots, ids, keep=1)
            for place, i in enumerate(group):
                results[i] = slots.snapshot(place, jobs[i].known)
        return [known for known in results if known is not None]

    def _place(self, jobs: Sequence[_Job]) -> tuple[Slots, Tensor]:
        """Slots with what is known, and the block of tokens int64 [rows, count] that is to be fed.

        Every row feeds its last `count` tokens, for the row that needs most: so no row has a gap. Rows that need
        fewer compute a few known tokens again; those that have fewer are padded in front.
        """
        count = max(job.new for job in jobs)
        width = max(len(job.tokens) for job in jobs)
        slots = self.slots(len(jobs), width)
        slots.reserve(len(jobs), width - count, after=count)
        ids = np.zeros((len(jobs), count), dtype=np.int64)
        for row, job in zip(ids, jobs, strict=True):
            fed = min(count, len(job.tokens))
            row[count - fed :] = job.tokens[-fed:]
            slots.join(job.known, len(job.tokens) - count)
        return slots, torch.from_numpy(ids).to(self.device)

    # --------------------------------------------------------------------------------------------------- scoring

    @torch.inference_mode()
    def rate(
        self,
        prompts: Sequence[tuple[int, ...]],
        responses: Sequence[tuple[int, ...]],
        starts: Sequence[int],
        measure: Measure,
    ) -> tuple[list[np.ndarray], list[Cost]]:
        """Measure the law before the tokens of each response from number `starts[i]` on, one at least.

        Returns float64 [tokens, values] for each, and its cost. Logits are computed at those positions only, at most
        BLOCK_LOGITS at once; what comes before them is a prefix like any other, reused where it is known.
        """
        before = [(*prompt, *response[:start]) for prompt, response, start in zip(prompts, responses, starts, strict=True)]
        known, costs = self.prefill([Context(prompt, tokens) for prompt, tokens in zip(prompts, before, strict=True)])
        responses = [response[start:] for response, start in zip(responses, starts, strict=True)]
        jobs = [
            _Job((*tokens, *response[:-1]), prefix) for tokens, response, prefix in zip(before, responses, known, strict=True)
        ]
        slots, ids = self._place(jobs)
        rows, count = ids.shape
        targets = torch.zeros_like(ids)
        lengths = torch.tensor([len(response) for response in responses], device=self.device)
        for row, response in zip(targets, responses, strict=True):
            row[count - len(response) :] = torch.tensor(response, device=self.device)
        valid = torch.arange(count, device=self.device) >= count - lengths[:, None]
        parts: list[list[np.ndarray]] = [[] for _ in responses]
        columns = max(1, BLOCK_LOGITS // (rows * self.vocabulary))
        for block in torch.arange(count, device=self.device).split(columns):
            logits = self.feed(slots, ids[:, block], keep=len(block))
            inside = valid[:, block]
            values = measure(logits[inside], targets[:, block][inside]).cpu().numpy()
            for part, piece in zip(parts, np.split(values, inside.sum(dim=1).cumsum(0).tolist()[:-1]), strict=True):
                part.append(piece)
        for cost in costs:
            cost.forwards += 1
        return [np.concatenate(part) for part in parts], costs


def groups(sizes: Sequence[tuple[int, int]]) -> Iterable[list[int]]:
    """Part rows into blocks that are evaluated at once: similar in length, bounded in size.

    sizes: (tokens to evaluate, tokens in all) of each row. Yields lists of indices.
    """
    group: list[int] = []
    widest = 0
    for i in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        new, length = sizes[i]
        rows = len(group) + 1
        wide = max(widest, length)
        if group and (rows * new > BLOCK_TOKENS or rows * wide > BLOCK_COLUMNS or new > 2 * sizes[group[0]][0] + 16):
            yield group
            group, wide = [], length
        group.append(i)
        widest = wide
    if group:
        yield group


def _accepted(model: Any) -> frozenset[str]:
    """The arguments that a model takes; an adapter around it hands on what it does not know."""
    inner = getattr(model, "get_base_model", None)  # of peft
    return frozenset(inspect.signature(model.forward if inner is None else inner().forward).parameters)


def _can_share(model: Any) -> bool:
    """Whether rows can share trunks: every layer attends to all tokens, through transformers' interface and sdpa."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return attends_by_interface(model) and kinds == {"full_attention"} and window is None
