"""A masked-diffusion language model as an engine: the law of a path of decisions, with exact log-probabilities.

`MaskedWeights` is a model in memory with its tokenizer and its scheduler; `DiffusionEngine` is a law over responses:
weights and sampling parameters (`exptilt.engines.diffusion.sampling` says what the law is). Many engines may share
weights, and their rows decode in one batch.

Exactness. The recorded log-probabilities are those of softmax(logits/temperature) at the state before the step, in
float32 or better, and `score` evaluates the same states: they agree to about 1e-6 nats in float32. A draft depends on its
prompt and key alone up to that rounding, which differs with the batch: an order that follows the logits may then, where
two positions tie within it, take another turn. `extend` may stop anywhere, also within a step: the next call restores
the state before the step, so extend(a) and extend(b) in a row follow the law of extend(a + b). The exception is
"low-confidence", whose steps cannot be parted: there `extend` stops between steps only.

So the redraw of a suffix of the decisions (QAlign) is a valid move for every order with a density: the conditional law of
what follows the first i decisions of a path is exactly what `extend` draws, whichever positions they are.

Scoring costs as many evaluations as drawing, one for each step; but the states are all known beforehand, so those of one
draft go through the network side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from exptilt.draft import MASK, Draft
from exptilt.engines.checkpoints import digest
from exptilt.engines.diffusion.decode import MaskedDecoder
from exptilt.engines.diffusion.network import MaskedNetwork
from exptilt.engines.diffusion.row import Path, Row
from exptilt.engines.diffusion.sampling import DiffusionSampling
from exptilt.engines.hf.engine import ROWS_MEMORY
from exptilt.engines.ledger import Ledger
from exptilt.engines.scheduler import Scheduler
from exptilt.engines.text import Text, check_cap, check_room, check_system
from exptilt.errors import CapabilityError, ModelError
from exptilt.keys import Floats, Key
from exptilt.usage import Work

MOST_ROWS = 64  # rows that decode at once, where not given


class MaskedWeights:
    """A masked-language model in memory, ready to serve many callers.

    model: maps token ids [rows, length] to an object with `.logits`, reading in both directions; it has a `config`.
    tokenizer: of transformers. mask: the id of the mask token; ends: ids of end-of-text tokens; name: what errors call
    it. max_rows: rows that decode at once. rows_memory: bytes that their block caches may take, each row reckoned without
    what it shares; rows beyond either number wait. shifted, thin: see `MaskedNetwork`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        mask: int,
        ends: Iterable[int],
        name: str,
        max_rows: int | None = None,
        rows_memory: int = ROWS_MEMORY,
        shifted: bool = False,
        thin: bool = True,
    ) -> None:
        model.eval()
        self.name = name
        self.model = model
        self.network = MaskedNetwork(model, mask, shifted=shifted, thin=thin)
        self.text = Text(tokenizer, ends)
        decoder = MaskedDecoder(self.network, self.text.ends)
        self.scheduler: Scheduler[Row] = Scheduler(
            decoder, max_rows=max_rows or MOST_ROWS, max_memory=rows_memory, size=self._kept_bytes, name=name
        )
        self.ledger = Ledger()

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    @cached_property
    def digest(self) -> str:
        """A digest of the configuration and of some values of each tensor."""
        return digest(self.model)

    def _kept_bytes(self, row: Row) -> int:
        """The most that a row keeps between steps: keys and values of prompt and response, twice with guidance."""
        if row.sampling.cache == "none":
            return 0
        return self.network.kept_bytes * (len(row.prompt) + row.sampling.max_tokens) * (2 if row.sampling.guidance else 1)

    def close(self) -> None:
        """Stop the worker; calls under way and calls to come raise ModelError."""
        self.scheduler.close()


@dataclass(frozen=True)
class DiffusionEngine:
    """The law p(y|x) of a masked-diffusion language model under the given sampling parameters.

    weights: the model; sampling: what is decided when, and how tokens are drawn. system: a text for the system turn of
    the chat template; template=False feeds prompts as they are.

    Drafts have `max_tokens` positions, MASK where nothing has been decided; `order` lists the decided positions and
    `logq` their log-probabilities. A finished draft may have undecided positions, in the blocks after its end.

    In `work`, `prompt` counts all positions fed, `cached` those whose keys and values were kept instead.
    """

    weights: MaskedWeights
    sampling: DiffusionSampling = field(default_factory=DiffusionSampling)
    system: str | None = None
    template: bool = True
    work: Work = field(default_factory=Work, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_system(self.weights.text, self.system, self.template, self.name)
        check_cap(self.max_tokens, self.weights.network.context, self.name)
        if self.sampling.cache != "none" and (reason := self.weights.network.no_cache):
            raise ModelError(
                f'{self.name} cannot decode with cache="{self.sampling.cache}": {reason}. Give cache="none", or a model whose '
                "code attends through transformers' attention interface in all layers and directions, such as EuroBERT or BERT."
            )

    @property
    def name(self) -> str:
        return self.weights.name

    @property
    def can(self) -> frozenset[str]:
        """Everything, without "logq" and "score" where paths have no density."""
        return frozenset({"continue", "seed"} | ({"logq", "score"} if self.sampling.has_density else set()))

    @property
    def max_tokens(self) -> int:
        return self.sampling.max_tokens

    @property
    def alphabet(self) -> str:
        """Vocabulary and blocks: a draft that is decided in other blocks cannot be read by this law."""
        return f"{self.weights.text.alphabet}-blocks-{self.sampling.block or self.max_tokens}"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "engine": "diffusion",
            "model": self.name,
            "weights": self.weights.digest,
            "dtype": self.weights.dtype,
            "system": self.system,
            "template": self.template,
            **self.sampling.settings(),
        }

    def with_sampling(self, **changes: Any) -> DiffusionEngine:
        """The same weights under another law: any of the fields of `DiffusionSampling`."""
        return replace(self, sampling=replace(self.sampling, **changes))

    def metered(self, work: Work) -> DiffusionEngine:
        return replace(self, work=work)

    def start(self, prompt: str) -> Draft:
        """The empty draft of a prompt. Raises PromptError where the prompt is empty or leaves no room for a response."""
        self._encode(prompt)
        return Draft(prompt, (MASK,) * self.max_tokens, () if self.sampling.has_density else None, order=())

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: int | None = None) -> list[Draft]:
        """Decide up to `tokens` more positions of each draft (None: to its end), one key per draft.

        All randomness of a draft comes from its key's generator, in the order of its decisions.
        """
        if tokens is not None and tokens < 0:
            raise ValueError(f"cannot decide tokens={tokens} positions: give a number of 0 or more, or None to go to the end")
        rows = [self._row(draft, key, tokens) for draft, key in zip(drafts, keys, strict=True)]
        busy = [row for row in rows if row is not None]
        self.weights.scheduler.run([row for row in busy if row.stop > len(row.places)])
        self.weights.ledger.count(self.work, (row.cost for row in busy), generated=sum(len(row.logq) for row in busy))
        texts = iter(self.weights.text.decode([_response(row, self.weights.text.ends) for row in busy]))
        return [draft if row is None else _extended(draft, row, next(texts)) for draft, row in zip(drafts, rows, strict=True)]

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        """Log-probability (nats) under this law of the decisions of each draft from `starts[i]` on, along its recorded order."""
        if not self.sampling.has_density:
            raise CapabilityError(
                f'{self.name} with order="low-confidence" cannot score: the positions it keeps depend on the drawn tokens, '
                'so paths have no product density. Choose another order, such as "max-probability".'
            )
        first = starts or [0] * len(drafts)
        parts = [self._parts(draft, start) for draft, start in zip(drafts, first, strict=True)]
        rows = [row for part in parts for row in part]
        self.weights.scheduler.run(rows)
        logs = [np.array([value for row in part for value in row.logq], dtype=np.float64) for part in parts]
        # A step that was under way at the start is evaluated whole: what it decided before is cut off.
        scores = [log[len(log) - max(0, draft.decided - start) :] for log, draft, start in zip(logs, drafts, first, strict=True)]
        self.weights.ledger.count(self.work, (row.cost for row in rows), scored=sum(map(len, scores)))
        return scores

    def _encode(self, prompt: str) -> tuple[int, ...]:
        ids = self.weights.text.encode(prompt, self.system, self.template)
        check_room(len(ids), self.max_tokens, self.weights.network.context, self.name)
        return ids

    def _row(self, draft: Draft, key: Key, tokens: int | None) -> Row | None:
        if draft.finish is not None:
            return None
        path = self._path(draft)
        decided = len(path.places)
        stop = self.max_tokens if tokens is None else min(self.max_tokens, decided + tokens)
        start = self.sampling.step_start(decided)
        if not self.sampling.has_density:
            self._check_whole_steps(decided, stop)
        return Row(
            self._encode(draft.prompt), self.sampling, list(path.places), list(path.tokens), start, stop, key.rng()
        )  # fmt: skip

    def _check_whole_steps(self, decided: int, stop: int) -> None:
        for count in (decided, stop):
            if count < self.max_tokens and self.sampling.step_start(count) != count:
                raise CapabilityError(
                    f'{self.name} with order="low-confidence" and per_step={self.sampling.per_step} cannot stop or go on after '
                    f"{count} decisions, within a step: the tokens kept depend on those left out. Use blocks of whole steps, "
                    "per_step=1, or another order; SuffixMCMC needs one of the last two."
                )

    def _path(self, draft: Draft) -> Path:
        """The decisions of a draft. Raises ValueError where it is no draft of an engine like this."""
        order = draft.order
        if order is None or len(draft.tokens) != self.max_tokens:
            raise ValueError(
                f"{self.name} reads drafts of {self.max_tokens} positions with a recorded order, not one of {len(draft.tokens)} "
                f"{'without' if order is None else 'with'} it: start drafts with an engine of the same kind and max_tokens"
            )
        tokens = [draft.tokens[place] for place in order]
        if tokens and not (min(tokens) >= 0 and max(tokens) < self.weights.network.vocabulary):
            raise ValueError(f"a draft has tokens from {min(tokens)} to {max(tokens)} that {self.name} does not know")
        for count, place in enumerate(order):
            first, last = self.sampling.span(count)
            if not first <= place < last:
                raise ValueError(
                    f"decision {count} of a draft is at position {place}, but blocks of {self.sampling.block} have positions "
                    f"{first} to {last - 1} decided then: score and continue it with the same blocks"
                )
        return Path(order, tokens)

    def _parts(self, draft: Draft, first: int) -> list[Row]:
        """Rows that score a draft: one for each step where steps are known, one for each block where a threshold sets them."""
        path, prompt = self._path(draft), self._encode(draft.prompt)
        total, rows = len(path.places), []
        start = self.sampling.step_start(first) if first < total else total
        while start < total:
            end = self.sampling.span(start)[1]
            if self.sampling.threshold is None:
                end = min(end, start + self.sampling.per_step)
            stop, before = min(end, total), slice(0, start)
            done = list(path.places[before]), list(path.tokens[before])
            rows.append(Row(prompt, self.sampling, *done, start, stop, np.random.default_rng(0), given=path))
            start = end
        return rows


def _response(row: Row, ends: frozenset[int]) -> list[int]:
    """The decided tokens in the order of their positions, up to the first end of text."""
    tokens = [token for _, token in sorted(zip(row.places, row.tokens, strict=True))]
    return tokens[: next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))]


def _extended(draft: Draft, row: Row, text: str) -> Draft:
    """The draft with what its row decided; without log-probabilities where it had none before."""
    tokens = list(draft.tokens)
    for place, token in zip(row.places, row.tokens, strict=True):
        tokens[place] = token
    logq = None if draft.logq is None else (*draft.logq, *row.logq)
    return Draft(draft.prompt, tuple(tokens), logq, text, row.finish, tuple(row.places))
