"""A GGUF model in llama.cpp as an engine: the law p(y|x) with exact log-probabilities.

`Weights` is a model in memory with its tokenizer, its scheduler and its memory of prefixes; `LlamaCppEngine` is a law over
responses: weights and sampling parameters. Many engines may share weights, and their rows decode in one batch.

Exactness. Drawing and scoring apply the same temperature and truncation, in float32 with float64 sums. A draft depends on
its prompt and key alone, up to the rounding of llama.cpp's products, which differs with what else is in the batch. With
weights of float32, log-probabilities move by about 1e-5 nats. With quantised weights, whose activations llama.cpp rounds to
8 bits, they move by 0.03 nats per token in the mean and 0.4 at worst (SmolLM2-135M in Q4_1), and drafts do depend on the
batch. With top_p or top_k, a token at the very edge of the support may be inside it when drawn and outside when scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from exptilt.draft import Draft
from exptilt.engines.certainty import Certainty
from exptilt.engines.distribution_numpy import certainty, log_probability
from exptilt.engines.files import file_digest
from exptilt.engines.ledger import Ledger
from exptilt.engines.llamacpp.decode import AnyRow, Decoder, Rated
from exptilt.engines.llamacpp.network import DTYPES, SEQUENCES, Network
from exptilt.engines.llamacpp.tokenizer import GGUFTokenizer
from exptilt.engines.row import Context, Row, begun, extended
from exptilt.engines.sampling import Sampling, check_count
from exptilt.engines.scheduler import Scheduler
from exptilt.engines.text import Text, check_room, check_system, check_tokens
from exptilt.keys import Floats, Key
from exptilt.usage import Work

MOST_ROWS = SEQUENCES * 3 // 4  # the other sequences are for prefixes that may come again
DEFAULT_ROWS = 64


class Weights:
    """A model in memory, ready to serve many callers.

    file: the GGUF file. name: what errors and settings call it. max_rows: rows that decode at once, 192 at most.
    memory: bytes for the key-values of all rows and prefixes, taken at once (None: those of 8192 tokens, 1 GiB at most).
    dtype: of these key-values and of attention, "float32" or "float16", which is faster with many rows.
    device: "cpu", or None for GPUs too where llama.cpp was built for them. threads: None takes OMP_NUM_THREADS, or else
    all cores. tokenizer: one of transformers to use instead of the file's own. ends: the tokens that end a response; None
    takes all that llama.cpp takes for one.

    Raises ModelError where the file cannot be read or is no causal model with plain attention.
    """

    def __init__(
        self,
        file: Path,
        *,
        name: str,
        max_rows: int = DEFAULT_ROWS,
        memory: int | None = None,
        dtype: str = "float32",
        device: str | None = None,
        threads: int | None = None,
        tokenizer: Any = None,
        ends: Iterable[int] | None = None,
    ) -> None:
        if not 1 <= max_rows <= MOST_ROWS:
            raise ValueError(f"max_rows={max_rows} must be from 1 to {MOST_ROWS}: llama.cpp holds {SEQUENCES} sequences at most")
        if dtype not in DTYPES:
            raise ValueError(f"dtype={dtype!r} is not a type of key-values here: give one of {', '.join(DTYPES)}")
        if device not in (None, "cpu"):
            raise ValueError(f'device={device!r}: give "cpu", or nothing for the GPUs that llama.cpp was built for')
        self.name = name
        self.file = file
        self.network = Network(file, name, memory=memory, dtype=dtype, device=device, threads=threads)
        own = GGUFTokenizer(self.network)
        self.text = Text(own if tokenizer is None else tokenizer, own.ends if ends is None else ends)
        self.scheduler: Scheduler[AnyRow] = Scheduler(Decoder(self.network, self.text), max_rows=max_rows, name=name)
        self.ledger = Ledger()

    @cached_property
    def digest(self) -> str:
        """A digest of the file: the same wherever it lies."""
        return file_digest(self.file)

    def close(self) -> None:
        """Stop the worker and free the key-values; calls under way and calls to come raise ModelError."""
        self.scheduler.close()
        self.network.close()


@dataclass(frozen=True)
class LlamaCppEngine:
    """The law p(y|x) of a GGUF model under the given sampling parameters.

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
        if self.max_tokens >= self.weights.network.context:
            raise ValueError(
                f"max_tokens={self.max_tokens} leaves no room for a prompt in the {self.weights.network.context} tokens that "
                f"{self.name} and its memory have room for: give fewer, or more memory="
            )

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
            "engine": "llamacpp",
            "model": self.name,
            "weights": self.weights.digest,
            "dtype": self.weights.network.dtype,
            "alphabet": self.alphabet,
            "ends": sorted(self.weights.text.ends),
            "system": self.system,
            "template": self.template,
            **self.sampling.settings(),
        }

    def with_sampling(self, **changes: Any) -> LlamaCppEngine:
        """The same weights under other sampling parameters: any of the fields of `Sampling`."""
        return replace(self, sampling=replace(self.sampling, **changes))

    def metered(self, work: Work) -> LlamaCppEngine:
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
        rated = self._rate(drafts, starts or [0] * len(drafts), partial(log_probability, law=self.sampling), 1)
        return [values[:, 0] for values in rated]

    def certainty(self, drafts: Sequence[Draft]) -> list[Certainty]:
        """How sure the model was at every token of each draft, at this temperature and before truncation."""
        rated = self._rate(drafts, [0] * len(drafts), partial(certainty, law=self.sampling), 3)
        return [Certainty(*np.ascontiguousarray(values.T)) for values in rated]

    def _encode(self, prompt: str) -> tuple[int, ...]:
        ids = self.weights.text.encode(prompt, self.system, self.template)
        check_room(len(ids), self.max_tokens, self.weights.network.context, self.name)
        return ids

    def _prompt(self, draft: Draft) -> tuple[int, ...]:
        """The prompt of a draft, whose tokens must be of this vocabulary and fit the memory."""
        prompt, network = self._encode(draft.prompt), self.weights.network
        check_tokens(draft.tokens, network.vocabulary, self.name)
        check_room(len(prompt), max(self.max_tokens, len(draft.tokens)), network.context, self.name)
        return prompt

    def _row(self, draft: Draft, key: Key, tokens: int | None) -> Row | None:
        return begun(draft, self._prompt(draft), self.sampling, key, tokens) if draft.finish is None else None

    def _rating(self, draft: Draft, start: int, measure: Callable[..., Floats]) -> Rated | None:
        if len(draft.tokens) <= start:
            return None
        prompt = self._prompt(draft)
        return Rated(Context(prompt, prompt + draft.tokens[:start]), draft.tokens[start:], measure)

    def _rate(self, drafts: Sequence[Draft], starts: Sequence[int], measure: Callable[..., Floats], size: int) -> list[Floats]:
        """Measure `size` values of each token of each draft from `starts[i]` on: float64 [tokens, size]."""
        rows = [self._rating(draft, start, measure) for draft, start in zip(drafts, starts, strict=True)]
        rated = [row for row in rows if row is not None]
        self.weights.scheduler.run(rated)
        for row in rated:
            row.cost.forwards += 1
        self.weights.ledger.count(self.work, (row.cost for row in rated), scored=sum(len(row.targets) for row in rated))
        return [np.zeros((0, size)) if row is None else np.concatenate(row.values) for row in rows]
