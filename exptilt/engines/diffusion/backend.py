"""A masked-diffusion language model as a backend of `exptilt.engines.language`, with exact log-probabilities of its paths.

`exptilt.engines.diffusion.sampling` defines the distribution.

Exactness. The recorded log-probabilities are those of softmax(logits/temperature) at the state before the step, in
float32 or better, and `score` evaluates the same states: they agree to about 1e-6 nats in float32. A draft depends on its
prompt and key alone up to that rounding, which differs with the batch: an order that follows the logits may then, where
two positions tie within it, differ. `extend` may stop anywhere, also within a step: the next call restores
the state before the step, so extend(a) and extend(b) in a row follow the distribution of extend(a + b). The exception is
"low-confidence", whose steps cannot be split: there `extend` stops between steps only.

So the redraw of a suffix of the decisions (QAlign) is a valid move for every order with a density: the conditional distribution
of what follows the first i decisions of a path is exactly what `extend` draws, whichever positions they are.

Scoring costs as many evaluations as drawing, one for each step; but the states are all known beforehand, so those of one
draft go through the network side by side. In `Work`, `prompt` counts all positions fed, `cached` those whose keys and values
were kept instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from exptilt.engines.checkpoints import digest, dtype_name
from exptilt.engines.diffusion.decode import MaskedDecoder
from exptilt.engines.diffusion.layout import Masked
from exptilt.engines.diffusion.network import MaskedNetwork
from exptilt.engines.diffusion.row import Row
from exptilt.engines.diffusion.sampling import DiffusionSampling
from exptilt.engines.scheduler import ROWS_MEMORY, Scheduler
from exptilt.engines.text import Text
from exptilt.engines.tree import own_tree
from exptilt.errors import CapabilityError, ModelError

MOST_ROWS = 64  # rows that decode at once, where not given


class MaskedWeights:
    """A masked-language model in memory with its tokenizer and its scheduler, ready to serve many callers.

    model: maps token ids [rows, length] to an object with `.logits`, reading in both directions; it has a `config`.
    tokenizer: of transformers.
    mask: the id of the mask token.
    ends: ids of end-of-text tokens.
    name: what errors call it.
    max_rows: rows that decode at once.
    rows_memory: bytes that their block caches may take, each row counted without what it shares; rows beyond either number wait.
    shifted, thin: see `MaskedNetwork`.
    ours: whether nobody else uses the model, so that it may be changed; the model of a caller is left as it is, its mode too, and
        must keep its weights while the engine lives.
    """

    layout = Masked()

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
        ours: bool = False,
    ) -> None:
        self.name = name
        self.model = (model if ours else own_tree(model, name)).eval()
        self.network = MaskedNetwork(self.model, mask, shifted=shifted, thin=thin)
        self.context, self.vocabulary = self.network.context, self.network.vocabulary
        self.text = Text(tokenizer, ends, closed=True)
        decoder = MaskedDecoder(self.network, self.text.ends)
        self.scheduler: Scheduler[Row] = Scheduler(
            decoder,
            max_rows=MOST_ROWS if max_rows is None else max_rows,
            max_memory=rows_memory,
            size=self._kept_bytes,
            name=name,
        )

    @cached_property
    def digest(self) -> str:
        """A digest of the configuration and of some values of each tensor."""
        return digest(self.model)

    def _kept_bytes(self, row: Row) -> int:
        """The most that a row keeps between steps: keys and values of prompt and response, twice with guidance."""
        if row.sampling.cache == "none":
            return 0
        return self.network.kept_bytes * (len(row.prompt) + row.sampling.max_tokens) * (2 if row.sampling.guidance else 1)

    @property
    def rows_at_once(self) -> int:
        """How many rows are denoised together at most."""
        return self.scheduler.admission.max_rows

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"engine": "diffusion", "model": self.name, "weights": self.digest, "dtype": dtype_name(self.model)}

    def can(self, sampling: DiffusionSampling) -> frozenset[str]:
        """Everything, without "logq" and "score" where paths have no density."""
        return frozenset({"continue"} | ({"logq", "score"} if sampling.has_density else set()))

    def check(self, sampling: DiffusionSampling) -> None:
        if sampling.cache != "none" and (reason := self.network.no_cache):
            raise ModelError(
                f'{self.name} cannot decode with cache="{sampling.cache}": {reason}. Give cache="none", or a model whose '
                "code attends through transformers' attention interface in all layers and directions, such as EuroBERT or BERT."
            )

    def draw(self, rows: Sequence[Row]) -> None:
        """Decide the positions of rows, by the rows' own generators."""
        self.scheduler.run(rows)

    def rate(self, rows: Sequence[Row]) -> None:
        """Score the decisions of rows along their recorded order."""
        if not rows[0].sampling.has_density:
            raise CapabilityError(
                f'{self.name} with order="low-confidence" cannot score: the positions it keeps depend on the drawn tokens, '
                'so paths have no product density. Choose another order, such as "max-probability".'
            )
        self.scheduler.run(rows)

    def close(self) -> None:
        """Stop the worker; calls under way and calls to come raise ModelError."""
        self.scheduler.close()
