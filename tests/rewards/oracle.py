"""An engine that says what it is told to: a judge for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from exptilt.blocks import BlockSize
from exptilt.draft import Draft
from exptilt.errors import PromptError
from exptilt.keys import Floats, Key
from exptilt.usage import Work


@dataclass(frozen=True)
class Oracle:
    """An engine whose whole response is a function of the prompt and the key. seen: every prompt it answered."""

    says: Callable[[Any, Key], str]
    finish: Literal["stop", "length"] = "stop"
    room: int = 10**6
    name: str = "oracle"
    max_tokens: int = 10
    alphabet: str = "oracle"
    work: Work = field(default_factory=Work, compare=False)
    seen: list[Any] = field(default_factory=list, compare=False)
    can = frozenset[str]()

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"engine": self.name}

    def with_sampling(self, **changes: Any) -> Oracle:
        return replace(self, **changes)

    def metered(self, work: Work) -> Oracle:
        return replace(self, work=work)

    def prompt_tokens(self, prompt: Any) -> tuple[int, ...]:
        return ()

    def start(self, prompt: Any) -> Draft:
        if len(prompt) > self.room:
            raise PromptError("too long")
        return Draft(prompt)

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        self.seen.extend(draft.prompt for draft in drafts)
        self.work.add(generated=len(drafts))
        pairs = zip(drafts, keys, strict=True)
        return [Draft(draft.prompt, (1,), None, self.says(draft.prompt, key), self.finish) for draft, key in pairs]

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        raise NotImplementedError
