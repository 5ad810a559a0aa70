"""ProcessReward: a process reward model of transformers, which judges a response step by step.

Such a model reads the prompt and the steps so far and gives P(good) of the last step (Lightman et al., 2305.20050). Published
ones differ in how they are asked; a `StepFormat` says how, and FORMATS holds three:

    "trl"            a token classifier, read at a separator after each step, as TRL's PRMTrainer trains them
    "math-shepherd"  a causal model, read at the marker "ки" after each step: P("+") against P("-") (Wang et al., 2312.08935)
    "rlhflow"        a causal model in a chat: each step is the user's turn, and P("+") against P("-") begins the answer to it
                     (Dong et al., 2405.07863)

A response that is not finished is judged by the steps it has, the last of them as far as it goes. So the same object serves as
the reward and as the value of partial drafts, `ETS(value=...)` and `SMC(value=...)`, whose weights are proper whatever it says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from exptilt.draft import Draft, Prompt, question
from exptilt.engines.requirements import prepare_torch
from exptilt.errors import ModelError, RewardError
from exptilt.keys import Floats
from exptilt.rewards.model.classifier import BATCH_TOKENS, check_length, label_number
from exptilt.rewards.model.pairs import Cutter, Long, Memory, Pair, Reduce, check_form, check_reduce, fill, reduced
from exptilt.usage import Work

if TYPE_CHECKING:
    from exptilt.rewards.model.loading import Tokenizer
    from exptilt.rewards.model.network import Network, Reading


@dataclass(frozen=True)
class StepFormat:
    """How a process reward model is asked.

    layout: "pieces", prompt, steps and markers are encoded one by one and joined, without a template; "text", they are encoded as
        one text, in the `template`; "turns", each step is a turn of a chat, answered by `good`.
    head: "labels", a token classifier; "words", the next-token distribution of a causal model.
    separator: the text between the steps of a response; it is not part of them.
    marker: the text that replaces the separator after each step.
    good, bad: of "labels" two numbers or names of labels, of "words" two words of one token each, or token ids.
    template: of the layout "text", as of `ClassifierReward`, without "pair".
    """

    layout: Literal["pieces", "text", "turns"] = "pieces"
    head: Literal["labels", "words"] = "labels"
    separator: str = "\n"
    marker: str = "\n"
    good: int | str = 1
    bad: int | str = 0
    template: str = "{prompt} {response}"

    def __post_init__(self) -> None:
        for name, known in (("layout", ("pieces", "text", "turns")), ("head", ("labels", "words"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: give one of {', '.join(known)}")
        if not (self.separator and self.marker):
            raise ValueError(f"separator={self.separator!r} and marker={self.marker!r}: neither may be empty")
        if self.layout == "turns" and self.head != "words":
            raise ValueError('layout="turns" asks for an answer in words: give head="words"')
        if self.template != "chat":
            check_form(self.template, "prompt", "response")

    def steps(self, response: str) -> list[str]:
        """The steps of a response that are not empty; one empty step where it has none."""
        return [step for step in response.split(self.separator) if step.strip()] or [""]


FORMATS: Mapping[str, StepFormat] = {
    "trl": StepFormat(),
    "math-shepherd": StepFormat("text", "words", separator="\n", marker=" ки\n", good="+", bad="-"),
    "rlhflow": StepFormat("turns", "words", separator="\n\n", good="+", bad="-"),
}


@dataclass(frozen=True)
class ProcessReward:
    """P(good) of a response's steps, reduced to one number in [0, 1].

    source: a hub id, or a folder as `save_pretrained` writes it.
    format: one of FORMATS by its name, or a `StepFormat`.
    reduce: "min", the weakest step; "last"; "product", of a whole chain of steps; or "mean".
    max_length, long, dtype, device, batch_tokens, errors and `work`: as of `ClassifierReward`. Steps that a cut took from the
        start of a response do not count.
    """

    source: str | Path = field(compare=False)
    format: StepFormat | str = "trl"
    reduce: Reduce = "min"
    max_length: int | None = None
    long: Long = "cut"
    dtype: str = "float32"
    device: str | None = field(default=None, compare=False)
    batch_tokens: int = field(default=BATCH_TOKENS, compare=False)
    weights: str = field(init=False)
    _parts: _Parts = field(init=False, repr=False, compare=False)
    reads: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        name = f"ProcessReward({str(self.source)!r})"
        check_reduce(self.reduce)
        form = _known_format(self.format)
        cutter = Cutter(name, self.long)
        prepare_torch(name)
        from exptilt.rewards.model import loading, network

        loaded = loading.read(self.source, form.head, name=name, dtype=self.dtype, device=self.device)
        model, tokenizer = loaded.model, loaded.tokenizer
        if (form.layout == "turns" or form.template == "chat") and not tokenizer.has_template:
            raise ModelError(f"{name} has no chat template, which its format needs: give the format that it was trained with")
        if form.layout == "pieces" and not tokenizer.encode(form.marker, special=False):
            raise ModelError(f"{name} has no token for the marker {form.marker!r}: give the one that it was trained with")
        if form.head == "labels":
            measure = network.labels(model)
            columns = tuple(label_number(label, model.config.id2label, name) for label in (form.good, form.bad))
        else:
            measure, columns = network.words(model, [_word(word, tokenizer, name) for word in (form.good, form.bad)]), (0, 1)
        reader = network.Network(model, measure, name=name, batch_tokens=self.batch_tokens)
        limit = check_length(self.max_length, loaded.context)
        layout = _LAYOUTS[form.layout]
        object.__setattr__(self, "format", form)
        object.__setattr__(self, "weights", loaded.weights)
        object.__setattr__(self, "_parts", _Parts(form, layout, tokenizer, reader, Memory(name), cutter, columns, limit))

    @property
    def work(self) -> Work:
        """Tokens and rows that the model has read so far."""
        return self._parts.network.work

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        return self._parts.memory.scores([(question(prompt), draft.text) for draft in drafts], self._rate)

    def steps(self, prompt: Prompt, response: str) -> Floats:
        """P(good) of every step of one response: float64 [steps], in their order."""
        return self._parts.read([(question(prompt), response)])[0]

    def _rate(self, pairs: list[Pair]) -> list[float]:
        return [reduced(scores, self.reduce) for scores in self._parts.read(pairs)]


@dataclass(frozen=True)
class _Parts:
    """What a loaded reward works with. columns: those of good and bad among the logits."""

    format: StepFormat
    layout: Callable[[Pair, StepFormat, Tokenizer], Reading]
    tokenizer: Tokenizer
    network: Network
    memory: Memory
    cutter: Cutter
    columns: tuple[int, ...]
    limit: float

    def read(self, pairs: Sequence[Pair]) -> list[Floats]:
        """P(good) of every step of each response."""
        fitting = [self.cutter.fit(pair, lambda each: len(self._reading(each).ids) <= self.limit) for pair in pairs]
        logits = self.network.read([self._reading(pair) for pair in fitting])
        good, bad = self.columns
        return [np.exp(-np.logaddexp(0.0, each[:, bad] - each[:, good])) for each in logits]

    def _reading(self, pair: Pair) -> Reading:
        return self.layout(pair, self.format, self.tokenizer)


# --------------------------------------------------------------------------------------------------------- layouts


def _pieces(pair: Pair, form: StepFormat, tokenizer: Tokenizer) -> Reading:
    """Read at the last token of each marker."""
    from exptilt.rewards.model.network import Reading

    prompt, response = pair
    ids = [*tokenizer.start, *tokenizer.encode(prompt, special=False)]
    marker = tokenizer.encode(form.marker, special=False)
    places = []
    for step in form.steps(response):
        ids += [*tokenizer.encode(step, special=False), *marker]
        places.append(len(ids) - 1)
    return Reading(ids, places)


def _text(pair: Pair, form: StepFormat, tokenizer: Tokenizer) -> Reading:
    """Read at the token that holds the last letter of each marker; its last character where it has no letters."""
    from exptilt.rewards.model.network import Reading

    prompt, response = pair
    steps, reach = form.steps(response), len(form.marker.rstrip() or form.marker)
    marked = "".join(step + form.marker for step in steps)
    marked = marked.rstrip() if form.marker.strip() else marked  # templates strip white space at the end
    chat = form.template == "chat"
    if chat:
        whole = tokenizer.chat([{"role": "user", "content": prompt}, {"role": "assistant", "content": marked}])
        begin = whole.rfind(marked)
    else:
        whole = fill(form.template, prompt=prompt, response=marked)
        begin = len(fill(form.template.partition("{response}")[0], prompt=prompt))
    if whole[begin : begin + len(marked)] != marked:
        raise RewardError(f"the chat template rewrites the marked steps {marked[:80]!r}: give a template in plain text")
    ids, spans = tokenizer.places(whole, special=not chat)
    places = []
    for step in steps:
        last = begin + len(step) + reach - 1
        holders = [number for number, (start, end) in enumerate(spans) if start <= last < end]
        if not holders:
            raise RewardError(f"the tokenizer has no token for the end of the marker {form.marker!r}: give another marker")
        places.append(holders[-1])
        begin += len(step) + len(form.marker)
    return Reading(ids, places)


def _turns(pair: Pair, form: StepFormat, tokenizer: Tokenizer) -> Reading:
    """Read at the last token before each answer."""
    from exptilt.rewards.model.network import Reading

    prompt, response = pair
    turns: list[dict[str, str]] = []
    ids: list[int] = []
    places = []
    for number, step in enumerate(form.steps(response)):
        turns.append({"role": "user", "content": step if number else f"{prompt} {step}"})
        earlier, ids = ids, tokenizer.encode(tokenizer.chat(turns, asks=True), special=False)
        if ids[: len(earlier)] != earlier:
            raise RewardError(
                "the chat template changes earlier turns when later ones follow: this format cannot be read with it"
            )
        places.append(len(ids) - 1)
        turns.append({"role": "assistant", "content": str(form.good)})
    return Reading(ids, places)


_LAYOUTS = {"pieces": _pieces, "text": _text, "turns": _turns}


def _known_format(format: StepFormat | str) -> StepFormat:
    if isinstance(format, str):
        if format not in FORMATS:
            raise ValueError(f"format={format!r} is unknown: give {', '.join(FORMATS)} or a StepFormat")
        return FORMATS[format]
    return format


def _word(word: int | str, tokenizer: Tokenizer, model: str) -> int:
    if isinstance(word, int):
        return word
    ids = tokenizer.encode(word, special=False)
    if len(ids) != 1:
        raise ValueError(f"{word!r} is {len(ids)} tokens of {model} ({ids}): good and bad are words of one token, or token ids")
    return ids[0]
