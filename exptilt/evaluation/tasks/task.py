"""What a task is, and the names that stand for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from exptilt import answers
from exptilt.answers import Answer
from exptilt.draft import Prompt
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
    """

    name: str
    prompts: tuple[Prompt | Example, ...]
    references: tuple[str, ...]
    answer: Answer
    correct: Callable[[str, str], bool]
    max_tokens: int
    stop: tuple[str, ...] = ()
    utility: Utility = rouge1

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

    def first(self, count: int | None) -> Task:
        """The task with its first `count` problems only; all of them for None."""
        return replace(self, prompts=self.prompts[:count], references=self.references[:count])


@dataclass(frozen=True)
class Named:
    """A set known from papers.

    harness: its name in lm-evaluation-harness.
    answer: the reader of its answers.
    scoring: as in `load_task`, where not the task's first.
    """

    harness: str
    answer: Answer
    scoring: str | None = None


NAMED = {
    "gsm8k": Named("gsm8k", answers.number),
    "math500": Named("minerva_math500", answers.latex, "math_verify"),
    "gpqa-diamond": Named("gpqa_diamond_cot_zeroshot", answers.choice, "flexible-extract:exact_match"),
    "mmlu-redux": Named("mmlu_redux_generative", answers.choice),
    "truthfulqa": Named("truthfulqa_gen", answers.exact, "bleu_acc"),
    "ifeval": Named("ifeval", answers.exact, "prompt_level_strict_acc"),
    "aime24": Named("aime24", answers.number),
}
