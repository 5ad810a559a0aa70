"""The network itself: evaluate tokens given key-value memory, each shared prefix once.

A *context* is a prompt and what follows it so far. To draw the token after a context, the key-values of all its tokens
but the last must be known; the last is fed by the decoding step, or by scoring (`exptilt.engines.hf.rating`). So `prefill` never
needs logits.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exptilt.engines.hf.banks import Layout
from exptilt.engines.hf.blocks import BLOCK_LOGITS, BLOCK_TOKENS, groups
from exptilt.engines.hf.fast.attention import NAME, sharing
from exptilt.engines.hf.fast.lean import LeanStep, lean_step
from exptilt.engines.hf.fast.private import attends_by_interface
from exptilt.engines.hf.forest import Forest, Tree
from exptilt.engines.hf.prefixes import KeyValues, Prefixes, shared_beginnings
from exptilt.engines.hf.scaling import beside, beyond_border, find_border
from exptilt.engines.hf.slots import Slots
from exptilt.engines.hf.trial import Texts, Trial, kept_layout, try_rows, try_trees, words
from exptilt.engines.row import Context
from exptilt.engines.sampling import Sampling
from exptilt.usage import Work

OLD_CACHE = "past_key_values"  # transformers calls it cache from 5.24 on, and takes both names before 5.40

logger = logging.getLogger("exptilt")


@dataclass(frozen=True)
class _Job:
    """Tokens whose key-values are wanted, and those that are known of their prefix."""

    tokens: tuple[int, ...]
    known: KeyValues | None

    @property
    def new(self) -> int:
        return len(self.tokens) - (0 if self.known is None else self.known.length)


class Network:
    """A causal language model of transformers, with the key-values of prefixes that may come again.

    name: what errors call the model.
    memory: bytes for those key-values.
    fast: whether rows may share trunks, and those of equal tokens one forward.
    scales: whether to look for a border, see below.

    A trial finds out what the model can do (`exptilt.engines.hf.trial`): `shares`, whether rows may share trunks; `trees`,
    whether what is scored may share beginnings; `caches`, whether key-values may be kept at all; `border`, the length at which
    the scaling of positions changes, with `beyond`, a network for texts that may be longer; `why` what was switched off, and why.
    Not thread-safe: the scheduler's worker calls it. Raises ModelError where the model is not a causal language model.
    """

    def __init__(self, model: Any, memory: int, *, name: str, fast: bool = True, scales: bool = True) -> None:
        config = model.config.get_text_config(decoder=True)
        self.model = model
        self.fast = fast
        self.device: torch.device = model.device
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self._accepted = _accepted(model)
        self.lean: LeanStep | None = None
        self._cache = OLD_CACHE if OLD_CACHE in self._accepted or "cache" not in self._accepted else "cache"
        self.why: dict[str, str] = {}
        self.prefixes = Prefixes(memory)
        trial = Trial(self.plain, config, model.dtype, name)
        self.vocabulary = trial.first.logits[0].shape[-1]
        self._try_rows(trial, fast, name)
        self.prefixes = Prefixes(memory)  # the key-values of the trial are dropped
        self.border: int | None = None
        self.beyond: Network | None = None
        if scales:
            self._try_positions(trial.first, name, fast)

    def of(self, prompt: Sequence[int], sampling: Sampling) -> Network:
        """The network for the responses to a prompt: by what they and the prompt may grow to."""
        short = self.border is None or len(prompt) + sampling.max_tokens <= self.border
        return self if short or self.beyond is None else self.beyond

    @torch.inference_mode()
    def _try_positions(self, texts: Texts, name: str, fast: bool) -> None:
        """Find out whether position scaling changes at some length; texts beyond it get a network, or are refused."""
        if self.context is None or "position_ids" not in self._accepted:
            return
        read = beside(self.model, texts)
        try:
            self.border = find_border(read, texts, self.context)
        except Exception as error:  # noqa: BLE001 - some models take no positions of two texts, or none that far away
            self.why["border"] = words(error)
        if self.border is None:
            return
        model = beyond_border(self.model, name, read, texts, self.border, self.context)
        if model is None:
            self.why["context"] = f"how positions are scaled changes at {self.border} tokens, for the whole text"
            logger.warning("the context of %s ends at %d tokens: %s", name, self.border, self.why["context"])
            self.context = self.border
        else:
            self.beyond = Network(model, self.prefixes.memory, name=name, fast=fast, scales=False)

    def _try_rows(self, trial: Trial, fast: bool, name: str) -> None:
        """Find out whether rows of different lengths may be evaluated together, and over trunks."""
        found = kept_layout(self.model, trial.first.tokens[0][:2])
        self.layout = Layout() if isinstance(found, str) else found
        self.caches, self.shares, self.trees = not isinstance(found, str), False, False
        if isinstance(found, str):
            self.why["caches"] = found
        if self.caches and fast and _can_share(self.model):
            self._try_sharing(trial)
        if self.caches and not self.shares:
            self._try_caching(trial)
        if not self.caches:
            logger.warning("%s reads the whole text again for every token, which is slow: %s", name, self.why["caches"])

    def _try_sharing(self, trial: Trial) -> None:
        self.shares = True
        self.model.set_attn_implementation(NAME)
        try:
            self.lean = lean_step(self.model)
        except AttributeError as error:  # a release that names the parts of a layer in another way
            self.why["lean"] = words(error)
        reason = try_rows(self, trial, share=True)
        if reason is not None and self.lean is not None:
            self.lean, self.why["lean"] = None, reason
            self.prefixes = Prefixes(self.prefixes.memory)
            reason = try_rows(self, trial, share=True)
        if reason is not None:
            self.shares, self.why["shares"] = False, reason
            self.model.set_attn_implementation("sdpa")
            self.prefixes = Prefixes(self.prefixes.memory)
            return
        reason = try_trees(self, trial)
        self.trees = reason is None
        if reason is not None:
            self.why["trees"] = reason

    def _try_caching(self, trial: Trial) -> None:
        reason = try_rows(self, trial, share=False)
        if reason is not None:
            self.caches, self.why["caches"] = False, f"with key-values kept {reason}"

    def plain(self, ids: Tensor, keep: int = 0) -> Tensor:
        """Logits [rows, tokens, vocabulary] of whole texts int64 [rows, tokens], of one length, as the plain model has them.

        keep: how many of the last tokens are wanted, 0 for all; some models leave out the others.
        """
        kept = {"logits_to_keep": keep} if "logits_to_keep" in self._accepted else {}
        return self.model(input_ids=ids.to(self.device), use_cache=False, **kept).logits[:, -keep:]

    @torch.inference_mode()
    def whole(self, texts: Sequence[tuple[int, ...]], keep: Sequence[int]) -> list[Tensor]:
        """The logits [keep[i], vocabulary] of the last tokens of each text, every text read whole, of one length together."""
        found: dict[int, Tensor] = {}
        alike: dict[int, list[int]] = {}
        for i, text in enumerate(texts):
            alike.setdefault(len(text), []).append(i)
        for length, members in alike.items():
            most = max(1, min(BLOCK_TOKENS, BLOCK_LOGITS // self.vocabulary) // length)
            for first in range(0, len(members), most):
                some = members[first : first + most]
                logits = self.plain(torch.tensor([texts[i] for i in some]), max(keep[i] for i in some))
                found |= {i: row[-keep[i] :] for i, row in zip(some, logits, strict=True)}
        return [found[i] for i in range(len(texts))]

    def block(self, texts: Sequence[tuple[int, ...]], known: Sequence[KeyValues | None] | None = None) -> tuple[Slots, Tensor]:
        """Slots with what is known of these texts, and the ids int64 [rows, count] that are still to be fed, in one block."""
        return self._laid_out([_Job(text, prefix) for text, prefix in zip(texts, known or [None] * len(texts), strict=True)])

    def planted(self, trees: Sequence[Tree], known: Sequence[KeyValues | None]) -> tuple[Slots, Forest]:
        """Slots with what is known of each tree's context, all but its last token, and the trees to be fed after that."""
        forest = Forest(trees, self.device)
        width = max(len(tree.context.tokens) for tree in trees) - 1
        slots = self.slots(len(trees), width + forest.count)
        slots.reserve(len(trees), width, after=forest.count)
        for tree, state in zip(trees, known, strict=True):
            slots.join(state, len(tree.context.tokens) - 1)
        return slots, forest

    @torch.inference_mode()
    def slots(self, capacity: int = 1, columns: int = 64, *, share: bool = False) -> Slots:
        """Memory for rows; `share` lets them share trunks where the model can, for one token at a time."""
        return Slots(self.layout, self.device, capacity=capacity, columns=columns, share=share and self.shares)

    @torch.inference_mode()
    def feed(self, slots: Slots, ids: Tensor, keep: int, inputs: Mapping[str, Any] | None = None) -> Tensor:
        """Evaluate one block of tokens int64 [rows, count] after what the slots hold, and add it to them.

        inputs: positions and mask, where these are not those of rows.
        Returns the logits [rows, keep, vocabulary] of the last `keep` columns.
        """
        inputs, shared = inputs or slots.inputs(ids.shape[1]), slots.shared()
        if self.lean is not None and shared is not None and ids.shape[1] == 1:
            logits = self.lean(ids, inputs["position_ids"], inputs["attention_mask"], shared, slots.places(1))[:, None]
            slots.end += 1
            return logits
        inputs = {**inputs, "logits_to_keep": keep}
        inputs = {name: value for name, value in inputs.items() if name in self._accepted}
        with sharing(shared):
            output = self.model(input_ids=ids, use_cache=True, **{self._cache: slots.cache}, **inputs)
        slots.end += ids.shape[1]
        return output.logits[:, -keep:]

    # ------------------------------------------------------------------------------------------------ prefilling

    @torch.inference_mode()
    def prefill(self, contexts: Sequence[Context]) -> tuple[list[KeyValues | None], list[Work]]:
        """Key-values of each context's tokens but the last (None where there are none), and what each took.

        What is known from earlier calls is reused; what several contexts share is computed once, for the first.
        """
        costs = [Work() for _ in contexts]
        if not self.caches:
            return [None] * len(contexts), costs
        first: dict[tuple[int, ...], Work] = {}  # the cost of each distinct sequence goes to its first row
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
        if missing:  # these pieces are new, or were split for new ones
            found = {wanted: self.prefixes.find(wanted) for wanted in first}
            self.prefixes.trim()
        return [found[context.tokens[:-1]] for context in contexts], costs

    def _compute(self, jobs: Sequence[_Job]) -> list[KeyValues]:
        results: list[KeyValues | None] = [None] * len(jobs)
        for group in groups([(job.new, len(job.tokens)) for job in jobs]):
            members = [jobs[i] for i in group]
            slots, ids = self._laid_out(members)
            self.feed(slots, ids, keep=1)
            for row, i in enumerate(group):
                results[i] = slots.snapshot(row, jobs[i].known)
        return [known for known in results if known is not None]

    def _laid_out(self, jobs: Sequence[_Job]) -> tuple[Slots, Tensor]:
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


def _accepted(model: Any) -> frozenset[str]:
    """The arguments that a model takes; an adapter around it passes on what it does not know."""
    inner = getattr(model, "get_base_model", None)  # of peft
    return frozenset(inspect.signature(model.forward if inner is None else inner().forward).parameters)


def _can_share(model: Any) -> bool:
    """Whether rows can share trunks: every layer attends to all tokens, through transformers' interface and sdpa."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return attends_by_interface(model) and kinds == {"full_attention"} and window is None
