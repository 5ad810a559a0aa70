"""What a task is: problems with known answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

from exptilt.answers import Answer
from exptilt.draft import Draft, Prompt, shortened
from exptilt.keys import digest
from exptilt.populations.utilities import Utility, rouge1
from exptilt.running.example import Example

OFFLINE = ("word-problems", "chains", "gsm-symbolic", "humaneval", "humaneval-completion")


@dataclass(frozen=True)
class Task:
    """Problems with known answers.

    prompts: what the model is asked, as prompts or as examples with columns.
    references: for each prompt, what `correct` needs to judge a response to it.
    answer: reads the canonical answer of a response, for votes and agreement rewards.
    correct: whether a response is right, given the reference; it may be slow, as running unit tests is.
    max_tokens: the cap on a response that suits the task.
    stop: strings that end a response.
    utility: how good one response is where another was wanted, for minimum Bayes risk.
    seeds: over how many seeds its accuracy is usually told: 32 for "avg@32".
    """

    name: str
    prompts: tuple[Prompt | Example, ...]
    references: tuple[str, ...]
    answer: Answer
    correct: Callable[[str, str], bool]
    max_tokens: int
    stop: tuple[str, ...] = ()
    utility: Utility = rouge1
    seeds: int = 1

    def __post_init__(self) -> None:
        if not self.prompts or len(self.prompts) != len(self.references):
            raise ValueError(
                f"the task {self.name!r} has {len(self.prompts)} prompts and {len(self.references)} references: give one "
                "reference for each prompt, and at least one prompt"
            )

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts, of a task whose prompts are texts. Raises TypeError for chats and examples."""
        texts = tuple(prompt for prompt in self.prompts if isinstance(prompt, str))
        if len(texts) < len(self.prompts):
            raise TypeError(f"the task {self.name!r} has prompts that are not texts, but chats or examples with columns")
        return texts

    @property
    def verifier(self) -> Verifier:
        """The task's own judge as a reward. Raises ValueError for a prompt that has two right answers."""
        return Verifier(self)

    def first(self, count: int | None) -> Task:
        """The task with its first `count` problems only; all of them for None."""
        return replace(self, prompts=self.prompts[:count], references=self.references[:count])


@dataclass(frozen=True)
class Verifier:
    """1.0 for a right response to a problem of a task, else 0.0: what a perfect verifier would say, for experiments.

    known: a digest of the task's name, prompts and references, by which a results file knows it.
    """

    task: Task = field(compare=False, repr=False)
    known: str = field(init=False, default="")
    reward_max: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        pairs = [(repr(prompt), reference) for prompt, reference in self._references.items()]
        object.__setattr__(self, "known", digest(f"{self.task.name} {pairs}"))

    @cached_property
    def _references(self) -> dict[Prompt, str]:
        found: dict[Prompt, str] = {}
        for given, reference in zip(self.task.prompts, self.task.references, strict=True):
            prompt = given.prompt if isinstance(given, Example) else given
            if found.setdefault(prompt, reference) != reference:
                raise ValueError(
                    f"the task {self.task.name!r} has the prompt {shortened(str(prompt), 60)!r} twice, with different right "
                    "answers: a verifier cannot tell which is asked for"
                )
        return found

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        return [float(self.task.correct(draft.text, self._references[prompt])) for draft in drafts]
