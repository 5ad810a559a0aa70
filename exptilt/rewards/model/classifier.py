"""ClassifierReward: a reward model of transformers that scores a whole response, such as a Bradley-Terry head.

A Bradley-Terry model (Christiano et al., 1706.03741; Ouyang et al., 2203.02155) is trained so that the probability that
response a is preferred to b is σ(r(a) - r(b)): its one logit is a reward in nats, fixed up to a constant for each prompt,
which changes log Ẑ and not π. A classifier with several labels gives a reward by one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from exptilt.draft import Draft, Prompt, question
from exptilt.engines.requirements import prepare_torch
from exptilt.errors import ModelError
from exptilt.rewards.model.pairs import Cutter, Long, Memory, Pair, Value, check_form, check_value, chosen, fill
from exptilt.usage import Work

if TYPE_CHECKING:
    from exptilt.rewards.model.loading import Tokenizer
    from exptilt.rewards.model.network import Network, Reading

BATCH_TOKENS = 2**14


@dataclass(frozen=True)
class ClassifierReward:
    """The score of a sequence classifier of transformers for (prompt, response).

    source: a hub id, or a folder as `save_pretrained` writes it.
    label: which of several labels, its number or its name; a model with one label needs none.
    value: "logit" of the label; of several labels also "log-odds" (with two: the difference of their logits) or "log-prob", both
        in nats.
    template: "chat", the chat template in the model's tokenizer; "pair", prompt and response as the tokenizer's two texts
        (cross-encoders); or a plain text with {prompt} and {response}. Nothing is assumed where there is no chat template.
    max_length: tokens that the model is given at most, None for as many as it can read.
    long: "cut" or "refuse" what is longer; a cut keeps the end of the response (`exptilt.rewards.model.pairs`).
    dtype, device: as of `exptilt.load`; in bfloat16 scores depend on their batch by about 1e-2.
    batch_tokens: tokens that are evaluated at once, padding included; prompts in flight share batches.

    Scores are remembered by text. Raises ModelError where the model cannot be read, is not a trained sequence classifier or has
    weights that are not numbers, and RewardError for a score that is not finite. `work` counts what it has read.
    """

    source: str | Path = field(compare=False)
    label: int | str | None = None
    value: Value = "logit"
    template: str = "chat"
    max_length: int | None = None
    long: Long = "cut"
    dtype: str = "float32"
    device: str | None = field(default=None, compare=False)
    batch_tokens: int = field(default=BATCH_TOKENS, compare=False)
    weights: str = field(init=False)
    _parts: _Parts = field(init=False, repr=False, compare=False)
    reads: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        name = f"ClassifierReward({str(self.source)!r})"
        check_value(self.value, self.label)
        if self.template not in ("chat", "pair"):
            check_form(self.template, "prompt", "response")
        cutter = Cutter(name, self.long)
        prepare_torch(name)
        from exptilt.rewards.model import loading, network

        loaded = loading.read(self.source, "sequence", name=name, dtype=self.dtype, device=self.device)
        if self.template == "chat" and not loaded.tokenizer.has_template:
            raise ModelError(
                f'{name} has no chat template: give the form it was trained with, as template="pair" or a text with {{prompt}} '
                "and {response}"
            )
        names = loaded.model.config.id2label
        label = None if self.label is None and len(names) == 1 else label_number(self.label, names, name)
        measure = network.whole(loaded.model)
        # Without a padding token transformers' heads cannot tell where a row ends, so rows are read one by one.
        tokens = self.batch_tokens if network.padding(loaded.model) is not None else 1
        reader = network.Network(loaded.model, measure, name=name, batch_tokens=tokens)
        limit = check_length(self.max_length, loaded.context)
        object.__setattr__(self, "weights", loaded.weights)
        object.__setattr__(self, "_parts", _Parts(loaded.tokenizer, reader, Memory(name), cutter, label, limit))

    @property
    def work(self) -> Work:
        """Tokens and rows that the model has read so far."""
        return self._parts.network.work

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        return self._parts.memory.scores([(question(prompt), draft.text) for draft in drafts], self._rate)

    def _rate(self, pairs: list[Pair]) -> list[float]:
        parts = self._parts
        fitting = [parts.cutter.fit(pair, lambda each: len(self._reading(each).ids) <= parts.limit) for pair in pairs]
        logits = parts.network.read([self._reading(pair) for pair in fitting])
        return [chosen(each[0], parts.label, self.value) for each in logits]

    def _reading(self, pair: Pair) -> Reading:
        from exptilt.rewards.model.network import Reading

        tokenizer, (prompt, response) = self._parts.tokenizer, pair
        if self.template == "pair":
            ids, segments = tokenizer.pair(prompt, response)
            return Reading(ids, segments=segments)
        if self.template == "chat":
            text = tokenizer.chat([{"role": "user", "content": prompt}, {"role": "assistant", "content": response}])
            return Reading(tokenizer.encode(text, special=False))  # the template adds the special tokens itself
        return Reading(tokenizer.encode(fill(self.template, prompt=prompt, response=response)))


@dataclass(frozen=True)
class _Parts:
    """The parts of a loaded reward."""

    tokenizer: Tokenizer
    network: Network
    memory: Memory
    cutter: Cutter
    label: int | None
    limit: float


def check_length(wanted: int | None, context: int | None) -> float:
    """The most tokens that the model is given. Raises ValueError where it cannot read as many."""
    if wanted is None:
        return np.inf if context is None else context
    if not (isinstance(wanted, int) and 1 <= wanted <= (context or wanted)):
        raise ValueError(f"max_length={wanted!r}: give a whole number from 1 to {context}, the tokens that the model can read")
    return wanted


def label_number(label: int | str | None, names: Mapping[int, str], model: str) -> int:
    """The number of a label. Raises ValueError where there is no such label, or none was chosen."""
    numbers = {name: number for number, name in names.items()}
    number = numbers.get(label) if isinstance(label, str) else label
    if number is None or number not in names:
        raise ValueError(f"{label!r} is not a label of {model}, which has {numbers}: choose one by its number or name")
    return number
