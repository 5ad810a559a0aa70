"""A GGUF model in llama.cpp as a backend of `exptilt.engines.language`, with exact log-probabilities.

Exactness. Drawing and scoring apply the same temperature and truncation, in float32 with float64 sums. A draft depends on
its prompt and key alone, up to the rounding of llama.cpp's products, which differs with what else is in the batch. With
weights of float32, log-probabilities move by about 1e-5 nats. With quantised weights, whose activations llama.cpp rounds to
8 bits, they move by 0.03 nats per token in the mean and 0.4 at worst (SmolLM2-135M in Q4_1), and drafts do depend on the
batch. With top_p or top_k, a token at the very edge of the support may be inside it when drawn and outside when scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from exptilt.engines.distribution_numpy import certainty, log_probability
from exptilt.engines.files import file_digest
from exptilt.engines.llamacpp.decode import AnyRow, Decoder, Measured
from exptilt.engines.llamacpp.network import DTYPES, SEQUENCES, Network
from exptilt.engines.llamacpp.tokenizer import GGUFTokenizer
from exptilt.engines.row import LeftToRight, Rated, Row
from exptilt.engines.sampling import Sampling
from exptilt.engines.scheduler import Scheduler
from exptilt.engines.text import Text

MOST_ROWS = SEQUENCES * 3 // 4  # the other sequences are for prefixes that may come again
DEFAULT_ROWS = 64


class Weights:
    """A model in memory with its tokenizer, its scheduler and its memory of prefixes, ready to serve many callers.

    file: the GGUF file.
    name: what errors and settings call it.
    max_rows: rows that decode at once, 192 at most.
    memory: bytes for the key-values of all rows and prefixes, taken at once (None: those of 8192 tokens, 1 GiB at most).
    dtype: of these key-values and of attention, "float32" or "float16", which is faster with many rows.
    device: "cpu", or None for GPUs too where llama.cpp was built for them.
    threads: None takes OMP_NUM_THREADS, or else all cores.
    tokenizer: one of transformers to use instead of the file's own.
    ends: the tokens that end a response; None takes all that llama.cpp counts as ends.

    Raises ModelError where the file cannot be read or is not a causal model with plain attention.
    """

    layout = LeftToRight()

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
        self.context, self.vocabulary = self.network.context, self.network.vocabulary
        own = GGUFTokenizer(self.network)
        self.text = Text(own if tokenizer is None else tokenizer, own.ends if ends is None else ends)
        self.scheduler: Scheduler[AnyRow] = Scheduler(Decoder(self.network, self.text), max_rows=max_rows, name=name)

    @cached_property
    def digest(self) -> str:
        """A digest of the file: the same wherever it is."""
        return file_digest(self.file)

    @property
    def memory_tokens(self) -> int | None:
        """How many tokens' key-values there is room for: the cells that llama.cpp took at the start."""
        return self.network.cells

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "engine": "llamacpp",
            "model": self.name,
            "weights": self.digest,
            "dtype": self.network.dtype,
            "alphabet": self.text.alphabet,
            "ends": sorted(self.text.ends),
        }

    def can(self, sampling: Sampling) -> frozenset[str]:
        return frozenset({"continue", "steps", "logq", "score", "certainty"})

    def check(self, sampling: Sampling) -> None:
        self.text.check_stop(sampling.stop)
        sampling.check_ids(self.vocabulary, self.name)
        if sampling.max_tokens >= self.context:
            raise ValueError(
                f"max_tokens={sampling.max_tokens} leaves no room for a prompt in the {self.context} tokens that {self.name} and "
                "its memory have room for: give fewer, or more memory="
            )

    def draw(self, rows: Sequence[Row]) -> None:
        """Draw rows. Token t is drawn with the t-th uniform of the row, by inverse CDF in the order of ids."""
        self.scheduler.run(rows)

    def rate(self, rows: Sequence[Rated]) -> None:
        """Measure given tokens, in one batch with the rows that are drawn."""
        measures = {"logq": log_probability, "certainty": certainty}
        asked = [
            Measured(
                row.context,
                row.targets,
                partial(measures[row.measure], law=row.sampling),
                row.before if row.sampling.adjusts else None,
            )
            for row in rows
        ]
        self.scheduler.run(asked)
        for row, measured in zip(rows, asked, strict=True):
            row.values, row.cost = np.concatenate(measured.values), measured.cost
            row.cost.forwards += 1

    def close(self) -> None:
        """Stop the worker and free the key-values; calls under way and calls to come raise ModelError."""
        self.scheduler.close()
        self.network.close()
