"""Any causal language model of transformers as an engine: the law p(y|x) with exact log-probabilities.

`Weights` is a model in memory with its tokenizer, its scheduler and its memory of prefixes; `HFEngine` is a law over
responses: weights and sampling parameters. Many engines may share weights, and their rows decode in one batch.

Exactness. Logits are float32 or better; drawing and scoring apply the same temperature and truncation. A draft depends
on its prompt and key alone, up to the rounding of the network, which differs with the size of the batch: in float32
log-probabilities move by about 1e-6 nats, so about one draft in thousands takes another turn when its neighbours
change. In bfloat16 that is 1e-2 nats, and drafts do depend on the batch. With top_p or top_k, a token at the very edge
of the support may for the same reason be inside it when drawn and outside (-inf) when scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exptilt.draft import Draft
from exptilt.engines.certainty import Certainty
from exptilt.engines.checkpoints import digest
from exptilt.engines.distribution_torch import Laws, certainty, log_probability
from exptilt.engines.hf import fast as fast_paths
from exptilt.engines.hf.decode import Decoder
from exptilt.engines.hf.network import Network, groups
from exptilt.engines.hf.slots import SPARE_COLUMNS
from exptilt.engines.hf.tree import own_tree
from exptilt.engines.ledger import Cost, Ledger
from exptilt.engines.row import Row, begun, extended
from exptilt.engines.sampling import Sampling, check_count
from exptilt.engines.scheduler import Scheduler
from exptilt.engines.text import Text, check_cap, check_room, check_system, check_tokens, end_ids
from exptilt.keys import Floats, Key
from exptilt.usage import Work

MEMORY = 2**30  # bytes for the key-values of prefixes
ROWS_MEMORY = 2**32  # bytes for the key-values of the rows in flight
MOST_ROWS = 256  # rows in flight


class Weights:
    """A model in memory, ready to serve many callers.

    model, tokenizer: of transformers, the model on its device and in its dtype. name: what errors and settings call
    it. max_rows: rows that decode at once. rows_memory: bytes that their key-values may take, each row reckoned at its
    full length and without what it shares; rows beyond either number wait. memory: bytes kept for the key-values of
    prefixes that may come again. fast: whether to use the fast paths (`exptilt.engines.hf.fast`), which change no draft.
    ours: whether nobody else uses the model, so that it may be changed and its weights need not be held twice; the model of
    a caller is left as it is, and must keep its weights while the engine lives. Raises ModelError where it is no causal
    language model, which a trial finds out (`exptilt.engines.hf.trial`).
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        max_rows: int | None = None,
        rows_memory: int = ROWS_MEMORY,
        memory: int = MEMORY,
        fast: bool = True,
        ours: bool = False,
    ) -> None:
        fast = fast_paths.wanted(fast)
        self.name = name
        self.digest = digest(model)  # before the weights are laid out anew
        self.model = (model if ours else own_tree(model, name)).eval()
        if fast:
            fast_paths.prepare(self.model)
        self.network = Network(self.model, memory, name=name, fast=fast)
        fast_paths.settle(self.model)
        self.text = Text(tokenizer, _ends(model, tokenizer))
        self.decoder = Decoder(self.network, self.text)
        token = self.network.token_bytes
        self.scheduler: Scheduler[Row] = Scheduler(
            self.decoder,
            max_rows=max_rows or MOST_ROWS,
            max_memory=rows_memory,
            size=lambda row: token * (len(row.context.tokens) + len(row.uniforms) + SPARE_COLUMNS),
            name=name,
        )
        self.ledger = Ledger()

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    def close(self) -> None:
        """Stop the worker; calls under way and calls to come raise ModelError."""
        self.scheduler.close()


@dataclass(frozen=True)
class HFEngine:
    """The law p(y|x) of a causal language model under the given sampling parameters.

    weights: the model; sampling: temperature, truncation, stop rule and cap (`exptilt.engines.sampling`).
    system: a text for the system turn of the chat template; template=False feeds prompts as they are.

    Work is counted so that prompt + generated + scored is the number of tokens the network evaluated: the last token
    of a prefix is evaluated by the step that draws the next token and is counted there, not under `prompt` or `cached`.
    """

    weights: Weights
    sampling: Sampling = field(default_factory=Sampling)
    system: str | None = None
    template: bool = True
    work: Work = field(default_factory=Work, compare=False, repr=False)

    can = frozenset({"continue", "logq", "score", "seed", "certainty"})

    def __post_init__(self) -> None:
        check_system(self.weights.text, self.system, self.template, self.name)
        check_cap(self.max_tokens, self.weights.network.context, self.name)

    @property
    def name(self) -> str:
        return self.weights.name

    @property
    def max_tokens(self) -> int:
        return self.sampling.max_tokens

    @property
    def alphabet(self) -> str:
        return self.weights.text.alphabet

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "engine": "hf",
            "model": self.name,
            "weights": self.weights.digest,
            "dtype": self.weights.dtype,
            "system": self.system,
            "template": self.template,
            **self.sampling.settings(),
        }

    def with_sampling(self, **changes: Any) -> HFEngine:
        """The same weights under other sampling parameters: any of the fields of `Sampling`."""
        return replace(self, sampling=replace(self.sampling, **changes))

    def metered(self, work: Work) -> HFEngine:
        return replace(self, work=work)

    def start(self, prompt: str) -> Draft:
        """The empty draft of a prompt. Raises PromptError where the prompt is empty or leaves no room for a response."""
        self._encode(prompt)
        return Draft(prompt)

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: int | None = None) -> list[Draft]:
        """Draw up to `tokens` more tokens of each draft (None: to its end), one key per draft.

        Token t of the call is drawn with the t-th uniform of its key's generator, by inverse CDF in the order of ids.
        """
        check_count(tokens)
        rows = [self._row(draft, key, tokens) for draft, key in zip(drafts, keys, strict=True)]
        drawn = [row for row in rows if row is not None]
        self.weights.scheduler.run([row for row in drawn if row.uniforms])
        self.weights.ledger.count(self.work, (row.cost for row in drawn), generated=sum(len(row.tokens) for row in drawn))
        return extended(drafts, rows, self.weights.text)

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        """Log-probability (nats) of the tokens of each draft from number `starts[i]` on; -inf outside the law's support."""
        first = starts or [0] * len(drafts)
        rated = self._rate(
            drafts, first, lambda logits, tokens: log_probability(logits, self._laws(len(logits)), tokens)[:, None]
        )
        return [values[:, 0] for values in rated]

    def certainty(self, drafts: Sequence[Draft]) -> list[Certainty]:
        """How sure the model was at every token of each draft, at this temperature and before truncation."""
        rated = self._rate(drafts, [0] * len(drafts), lambda logits, _: certainty(logits, self._laws(len(logits))))
        return [Certainty(*np.ascontiguousarray(values.T)) for values in rated]

    def _laws(self, rows: int) -> Laws:
        network = self.weights.network
        law = Laws.of([self.sampling], network.vocabulary, network.device)
        return law.take(torch.zeros(rows, dtype=torch.int64, device=network.device))

    def _encode(self, prompt: str) -> tuple[int, ...]:
        ids = self.weights.text.encode(prompt, self.system, self.template)
        check_room(len(ids), self.max_tokens, self.weights.network.context, self.name)
        return ids

    def _prompt(self, draft: Draft) -> tuple[int, ...]:
        """The prompt of a draft, whose tokens must be of this vocabulary."""
        check_tokens(draft.tokens, self.weights.network.vocabulary, self.name)
        return self._encode(draft.prompt)

    def _row(self, draft: Draft, key: Key, tokens: int | None) -> Row | None:
        return begun(draft, self._prompt(draft), self.sampling, key, tokens) if draft.finish is None else None

    def _rate(
        self, drafts: Sequence[Draft], starts: Sequence[int], measure: Callable[[Tensor, Tensor], Tensor]
    ) -> list[np.ndarray]:
        """Measure the tokens of each draft from `starts[i]` on: float64 [tokens, values].

        Blocks of drafts take turns with the rows in flight.
        """
        results = [np.zeros((0, 3))] * len(drafts)
        full = [i for i, (draft, start) in enumerate(zip(drafts, starts, strict=True)) if len(draft.tokens) > start]
        prompts = {i: self._prompt(drafts[i]) for i in full}
        sizes = [(len(drafts[i].tokens) - starts[i], len(prompts[i]) + len(drafts[i].tokens) - 1) for i in full]
        costs: list[Cost] = []
        for group in groups(sizes):
            members = [full[place] for place in group]
            values, spent = self.weights.scheduler.call(
                lambda members=members: self.weights.network.rate(
                    [prompts[i] for i in members], [drafts[i].tokens for i in members], [starts[i] for i in members], measure
                )
            )
            costs += spent
            for i, value in zip(members, values, strict=True):
                results[i] = value
        self.weights.ledger.count(self.work, costs, scored=sum(len(drafts[i].tokens) - starts[i] for i in full))
        return results


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """The end-of-text ids that the model's configurations and the tokenizer name."""
    generation = model.generation_config
    named = None if generation is None else generation.eos_token_id
    return end_ids(model.config.get_text_config(decoder=True).eos_token_id, tokenizer.eos_token_id, named)
