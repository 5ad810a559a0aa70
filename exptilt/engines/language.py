"""The one engine of all models of tokens: prompts, caps, texts, drafts, costs and settings, around a *backend* with two methods.

A backend is a model that is ready to serve many callers. It draws rows and rates rows (`exptilt.engines.row`), and knows nothing
of drafts, chats or stop strings in texts. `LanguageEngine` is a distribution over responses: a backend and sampling parameters.
Many engines may share a backend, and their rows run together. `examples/bigram_engine.py` is a whole backend in one file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Self, TypeVar, cast

import numpy as np

from exptilt.blocks import Block, BlockSize
from exptilt.draft import MASK, Chat, Draft, Prompt, Turn, check_characters, check_filled
from exptilt.engines.backend import Backend, Templated
from exptilt.engines.certainty import Certainty
from exptilt.engines.log_probs import check_certain, check_drawn, check_scored
from exptilt.engines.row import LeftToRight, Measure
from exptilt.engines.sampling import Sampling, check_count
from exptilt.engines.template_kwargs import check_template_kwargs
from exptilt.engines.text import Text, check_cap, check_room, check_system, check_tokens
from exptilt.errors import CapabilityError, PromptError
from exptilt.keys import Floats, Key
from exptilt.usage import Work
from exptilt.watching import show

B = TypeVar("B", bound=Backend)


@dataclass(frozen=True)
class LanguageEngine(Generic[B]):
    """p(y|x): a model under the given sampling parameters.

    backend: the model.
    sampling: temperature, truncation, stop rule and cap (`exptilt.engines.sampling.Sampling`; diffusion models have parameters of
        their own).
    system: the system turn of plain strings, and of chats that have none.
    template: whether the chat template is applied; False feeds plain strings as they are.
    template_kwargs: variables of the chat template, such as {"enable_thinking": False}; those that it does not read are refused.

    Closing an engine closes its backend, and with it every other engine that shares it.

    Work is counted so that prompt + generated + scored is the number of tokens the network evaluated: the last token
    of a prefix is evaluated by the step that draws the next token and is counted there, not under `prompt` or `cached`.
    """

    backend: B
    sampling: Any = field(default_factory=Sampling)
    system: str | None = None
    template: bool = True
    template_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    work: Work = field(default_factory=Work, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_system(self.backend.text.has_template, self.system, self.template, self.name)
        self._try_system()
        check_template_kwargs(self.backend.text, self.template_kwargs, self.template, self.name)
        self.backend.check(self.sampling)
        check_cap(self.max_tokens, self.backend.context, self.name)

    def _try_system(self) -> None:
        """Refuse a system text that the chat template refuses or leaves out, here and not prompt by prompt."""
        if self.system is not None and isinstance(self.backend.text, Text):
            try:
                self._encode(Chat((Turn("system", self.system), Turn("user", "x"))))
            except PromptError as error:
                raise ValueError(f"system={self.system[:80]!r} cannot be given to {self.name}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release what the model holds; calls under way and calls to come raise ModelError."""
        self.backend.close()

    @property
    def name(self) -> str:
        return self.backend.name

    @property
    def can(self) -> frozenset[str]:
        return self.backend.can(self.sampling)

    @property
    def max_tokens(self) -> int:
        return self.sampling.max_tokens

    @property
    def alphabet(self) -> str:
        return self.backend.layout.alphabet(self.backend.text.alphabet, self.sampling)

    @property
    def settings(self) -> Mapping[str, Any]:
        own = {"system": self.system, "template": self.template}
        if self.template_kwargs:  # files of runs without them do not name them
            own["template_kwargs"] = dict(self.template_kwargs)
        return {**self.backend.settings, **own, **self.sampling.settings()}

    @property
    def advice(self) -> str | None:
        """What would draw faster, in plain words; None where nothing is known."""
        return getattr(self.backend, "advice", None)

    def with_sampling(self, **changes: Any) -> LanguageEngine[B]:
        """The same model under other sampling parameters."""
        return replace(self, sampling=replace(self.sampling, **changes))

    def metered(self, work: Work) -> LanguageEngine[B]:
        return replace(self, work=work)

    def prompt_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        """The token ids that the model reads before the response; those of a prefill are the last of them.

        Raises PromptError where the prompt is empty, leaves no room for a response, or is a chat that the model cannot take.
        """
        ids = self._encode(self._asked(prompt))
        check_room(len(ids), self.max_tokens, self.backend.context, self.name)
        return ids

    def start(self, prompt: Prompt) -> Draft:
        """The empty draft of a prompt. Raises PromptError as `prompt_tokens` does."""
        self.prompt_tokens(prompt)
        return self.backend.layout.start(prompt, self.sampling)

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        """Decide up to `tokens` more tokens of each draft, or a step of text (None: to its end), one key per draft.

        All randomness of a draft comes from its key's generator, in the order of its decisions.
        """
        self._check_extent(tokens)
        prompts = self._prompts([draft for draft in drafts if draft.finish is None])
        start = self.backend.layout.row
        rows = [
            start(draft, prompts[draft.prompt], self.sampling, key, tokens) if draft.finish is None else None
            for draft, key in zip(drafts, keys, strict=True)
        ]
        begun = [row for row in rows if row is not None]
        show(
            lambda: sum(row.cost.generated for row in begun),
            lambda: list(self._texts(begun)),
            grows=isinstance(self.backend.layout, LeftToRight),
        )
        self._run(self.backend.draw, [row for row in begun if row.left])
        texts = iter(self._texts(begun))
        grow = self.backend.layout.extended
        grown = [draft if row is None else grow(draft, row, next(texts)) for draft, row in zip(drafts, rows, strict=True)]
        check_drawn(self.name, grown, [draft.decided for draft in drafts])
        return grown

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        """Log-probability (nats) of the decisions of each draft from number `starts[i]` on; -inf where p excludes one."""
        scores = [values[:, 0] for values in self._rate(drafts, starts or [0] * len(drafts), "logq", 1)]
        check_scored(self.name, scores)
        return scores

    def certainty(self, drafts: Sequence[Draft]) -> list[Certainty]:
        """How sure the model was at every token of each draft, at this temperature and before truncation."""
        if "certainty" not in self.can:
            raise CapabilityError(f"{self.name} cannot measure certainty: use a local model, which sees whole distributions")
        rated = self._rate(drafts, [0] * len(drafts), "certainty", 3)
        certainties = [Certainty(*np.ascontiguousarray(values.T)) for values in rated]
        check_certain(self.name, certainties)
        return certainties

    def _check_extent(self, tokens: BlockSize | None) -> None:
        """Refuse what cannot be drawn in one call."""
        if not isinstance(tokens, Block):
            check_count(tokens)
            return
        text = self.backend.text
        if "steps" not in self.can or not isinstance(text, Text):
            raise CapabilityError(f"{self.name} cannot end a step by its text: give the block as a number of tokens")
        text.check_stop(tokens.texts, "block=")
        size = self.backend.vocabulary
        if size is not None and max(tokens.ids, default=0) >= size:
            raise ValueError(f"the block ends at token {max(tokens.ids)}, but {self.name} has 0 to {size - 1}: give one of those")

    def _encode(self, prompt: Prompt) -> tuple[int, ...]:
        if self.template_kwargs:  # which are given to `Templated` texts alone
            return cast(Templated, self.backend.text).encode(prompt, self.template_kwargs)
        return self.backend.text.encode(prompt)

    def _asked(self, prompt: Prompt) -> Prompt:
        """The prompt as the tokenizer gets it: a text as it is, or a chat with its system turn."""
        templated = self.template and self.backend.text.has_template
        check_filled(prompt)
        check_characters(prompt)
        if isinstance(prompt, str):
            if not templated:
                return prompt
        elif not templated:
            why, cure = ("has no chat template", "") if self.template else ("runs without it", ", or leave template=True")
            raise PromptError(f"the prompt is a chat, and {self.name} {why}: give the prompt as one string{cure}")
        turns = (Turn("user", prompt),) if isinstance(prompt, str) else prompt.turns
        if self.system is not None and all(turn.role != "system" for turn in turns):
            turns = (Turn("system", self.system), *turns)
        return Chat(turns)

    def _prompts(self, drafts: Iterable[Draft]) -> dict[Prompt, tuple[int, ...]]:
        """The token ids of the prompts of drafts, whose tokens must be of this vocabulary and fit the context."""
        found: dict[Prompt, tuple[int, ...]] = {}
        for draft in drafts:
            if draft.prompt not in found:
                found[draft.prompt] = self.prompt_tokens(draft.prompt)
            if self.backend.vocabulary is not None:
                check_tokens([token for token in draft.tokens if token != MASK], self.backend.vocabulary, self.name)
            check_room(len(found[draft.prompt]), len(draft.tokens), self.backend.context, self.name)
        return found

    def _run(self, verb: Callable[[Sequence[Any]], None], rows: Sequence[Any]) -> None:
        """Have the backend draw or rate rows, and count what they cost, also where it fails."""
        try:
            if rows:
                verb(rows)
        finally:
            for row in rows:
                self.work.add(**vars(row.cost))

    def _texts(self, rows: Sequence[Any]) -> Iterable[str]:
        """The text of each row's response: as the backend told it, else decoded."""
        text, layout = self.backend.text, self.backend.layout
        untold = [row for row in rows if row.text is None]
        decoded = dict(zip(untold, text.decode([layout.response(row, text.ends) for row in untold]), strict=True))
        return [decoded[row] if row.text is None else row.text for row in rows]

    def _rate(self, drafts: Sequence[Draft], starts: Sequence[int], measure: Measure, size: int) -> list[Floats]:
        """Measure `size` values of each decision of each draft from `starts[i]` on: float64 [decisions, size].

        Equal drafts are measured once.
        """
        pairs = list(zip(drafts, starts, strict=True))
        prompts = self._prompts(draft for draft, start in pairs if draft.decided > start)
        names = [(draft.prompt, draft.tokens, draft.order, start) for draft, start in pairs]
        parts = {
            name: self.backend.layout.rated(draft, prompts[draft.prompt], self.sampling, start, measure)
            for name, (draft, start) in dict(zip(names, pairs, strict=True)).items()
            if draft.decided > start
        }
        self._run(self.backend.rate, [row for some in parts.values() for row in some])
        values = [np.concatenate([np.zeros((0, size)), *(row.values for row in parts.get(name, []))]) for name in names]
        # Rows may begin before the start, for example those of a diffusion step that was under way.
        wanted = [
            found[len(found) - max(0, draft.decided - start) :] for found, (draft, start) in zip(values, pairs, strict=True)
        ]
        self.work.add(scored=sum(map(len, wanted)))
        return wanted
