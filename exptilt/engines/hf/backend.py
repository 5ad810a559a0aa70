"""Any causal language model of transformers as a backend of `exptilt.engines.language`, with exact log-probabilities.

Exactness. Logits are float32 or better; drawing and scoring apply the same temperature and truncation. A draft depends
on its prompt and key alone, up to the rounding of the network, which differs with the size of the batch: in float32
log-probabilities change by about 1e-6 nats, so about one draft in thousands differs when its neighbours
change. In bfloat16 that is 1e-2 nats, and drafts do depend on the batch. With top_p or top_k, a token at the very edge
of the support may for the same reason be inside it when drawn and outside (-inf) when scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from exptilt.engines.adjustments import adjustments
from exptilt.engines.checkpoints import digest, dtype_name
from exptilt.engines.distribution_torch import Laws, adjust, certainty, log_probability
from exptilt.engines.hf import fast as fast_paths
from exptilt.engines.hf.adapters import adapter_state, check_adapters
from exptilt.engines.hf.blocks import groups
from exptilt.engines.hf.decode import Decoder, Lanes
from exptilt.engines.hf.fast.private import halves
from exptilt.engines.hf.memory import budgets
from exptilt.engines.hf.network import Network
from exptilt.engines.hf.rating import Measure, rate
from exptilt.engines.hf.slots import SPARE_COLUMNS
from exptilt.engines.hf.watch import Watch
from exptilt.engines.requirements import came_late
from exptilt.engines.row import LeftToRight, Rated, Row
from exptilt.engines.sampling import Sampling
from exptilt.engines.scheduler import Scheduler
from exptilt.engines.text import Text, end_ids
from exptilt.engines.tree import own_tree
from exptilt.errors import ModelError

MOST_ROWS = 256  # rows in flight
LEAST_HALVED = 50_000_000  # weights of the linear layers of a model that half precision makes faster


class Weights:
    """A model in memory with its tokenizer, its scheduler and its memory of prefixes, ready to serve many callers.

    model, tokenizer: of transformers, the model on its device and in its dtype.
    name: what errors and settings call it.
    max_rows: rows that decode at once.
    rows_memory: bytes that their key-values may take, each row counted at its full length and without what it shares; rows
        beyond either number wait. None takes 4 GiB, on CUDA 60 % of what the card has free once the model is there.
    memory: bytes kept for the key-values of prefixes that may come again. None takes 1 GiB, on CUDA 15 % of what is free.
    fast: whether to use the fast paths (`exptilt.engines.hf.fast`), which change no draft.
    ours: whether nobody else uses the model, so that it may be changed and its weights need not be held twice; the model of a
        caller is left as it is, and must keep its weights while the engine lives.
    Raises ModelError where it is not a causal language model, which a trial finds out (`exptilt.engines.hf.trial`).
    """

    layout = LeftToRight()

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        max_rows: int | None = None,
        rows_memory: int | None = None,
        memory: int | None = None,
        fast: bool = True,
        ours: bool = False,
    ) -> None:
        fast = fast_paths.wanted(fast)
        self.name = name
        check_adapters(model, name)
        self.digest = digest(model, adapter_state(model))  # before the weights are laid out anew
        self._watch = None if ours else Watch(model)
        self.model = (model if ours else own_tree(model, name)).eval()
        if fast:
            fast_paths.prepare(self.model)
        rows_memory, memory = budgets(self.model.device, rows_memory, memory)
        self.network = Network(self.model, memory, name=name, fast=fast)
        for network in (self.network, self.network.beyond):
            if network is not None:
                fast_paths.settle(network.model)
        self.context, self.vocabulary = self.network.context, self.network.vocabulary
        self.text = Text(tokenizer, _ends(model, tokenizer))
        self.decoder = (Decoder if self.network.beyond is None else Lanes)(self.network, self.text)
        token = self.network.layout.token_bytes
        self.scheduler: Scheduler[Row] = Scheduler(
            self.decoder,
            max_rows=MOST_ROWS if max_rows is None else max_rows,
            max_memory=rows_memory,
            size=lambda row: token * (len(row.context.tokens) + row.room + SPARE_COLUMNS),
            name=name,
        )

    @property
    def memory_tokens(self) -> int | None:
        """How many tokens' key-values the rows in flight may hold together; None for a model that keeps none."""
        token, memory = self.network.layout.token_bytes, self.scheduler.admission.max_memory
        return memory // token if token and memory else None

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"engine": "hf", "model": self.name, "weights": self.digest, "dtype": dtype_name(self.model)}

    @property
    def advice(self) -> str | None:
        """What would make the model faster on this processor, if anything would."""
        return " ".join(self._advice()) or None if self.model.device.type == "cpu" else None

    def _advice(self) -> Iterator[str]:
        """Half precision where products take most of the time (`bench/step.py`), threads that wait awake (`bench/waiting.py`)."""
        layers = (module for module in self.model.modules() if hasattr(module, "in_features"))
        weights = sum(layer.in_features * layer.out_features for layer in layers)
        if self.model.dtype == torch.float32 and halves() and weights >= LEAST_HALVED:
            yield (
                'This processor multiplies in bfloat16: dtype="bfloat16" would draw 1.1 to 1.9 times as fast, the more so the '
                "more rows there are, but a draft would then depend on the rows beside it (docs/models.md)."
            )
        if came_late() and torch.get_num_threads() > 1:
            yield (
                "torch was imported before a model was loaded, so its threads go to sleep after each operation: where the "
                "processor has nothing else to do, a small model draws 1.2 to 1.5 times as fast with OMP_WAIT_POLICY=active and "
                "GOMP_SPINCOUNT=1000 in the environment, or where `exptilt.load` comes before `import torch`."
            )

    def can(self, sampling: Sampling) -> frozenset[str]:
        return frozenset({"continue", "steps", "logq", "score", "certainty"})

    def check(self, sampling: Sampling) -> None:
        """Raise ValueError for a stop string that no response can contain, and for ids of tokens that the model does not have."""
        self.text.check_stop(sampling.stop)
        sampling.check_ids(self.vocabulary, self.name)

    def draw(self, rows: Sequence[Row]) -> None:
        """Draw rows. Token t is drawn with the t-th uniform of the row, by inverse CDF in the order of ids."""
        self._check_unchanged()
        self.scheduler.run(rows)

    def rate(self, rows: Sequence[Rated]) -> None:
        """Measure given tokens: blocks of rows take turns with the rows that are drawn."""
        self._check_unchanged()
        lanes: dict[Network, list[Rated]] = {}
        for row in rows:
            lanes.setdefault(self.network.of(row.context.prompt, row.sampling), []).append(row)
        for network, some in lanes.items():
            sizes = [(len(row.targets), len(row.context.tokens) + len(row.targets) - 1) for row in some]
            for group in groups(sizes):
                members = [some[i] for i in group]
                measure = self._measure(members)
                found, costs = self.scheduler.call(partial(self._rated, network, members, measure))
                for row, values, cost in zip(members, found, costs, strict=True):
                    row.values, row.cost = values, cost

    def _rated(self, network: Network, rows: Sequence[Rated], measure: Measure) -> tuple[Any, Any]:
        self.decoder.settle()  # what rests is known to the prefixes from then on
        return rate(network, [row.context for row in rows], [row.targets for row in rows], measure)

    def _check_unchanged(self) -> None:
        if self._watch is not None and self._watch.changed:
            raise ModelError(
                f"the weights of {self.name} were changed after the engine was made, which keeps what it computed with the old "
                "ones: make another engine of the model"
            )

    def _measure(self, rows: Sequence[Rated]) -> Measure:
        """What to compute of rows, which share sampling and measure."""
        sampling, measure = rows[0].sampling, rows[0].measure
        laws = Laws.of([sampling], self.vocabulary, self.network.device)

        def measured(logits: Tensor, tokens: Tensor, places: Sequence[tuple[int, int]]) -> Tensor:
            if sampling.adjusts:
                logits = adjust(logits, adjustments(rows[row].before(index) for row, index in places))
            alike = laws.take(torch.zeros(len(logits), dtype=torch.int64, device=self.network.device))
            return certainty(logits, alike) if measure == "certainty" else log_probability(logits, alike, tokens)[:, None]

        return measured

    def close(self) -> None:
        """Stop the worker; calls under way and calls to come raise ModelError."""
        self.scheduler.close()


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """The end-of-text ids that the model's configurations and the tokenizer name."""
    generation = model.generation_config
    named = None if generation is None else generation.eos_token_id
    configured = getattr(model.config.get_text_config(decoder=True), "eos_token_id", None)
    return end_ids(configured, tokenizer.eos_token_id, named)
