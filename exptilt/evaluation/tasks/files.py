"""A task out of a file of problems: its prompts, and a column with the right answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exptilt import answers
from exptilt.answers import Answer
from exptilt.errors import UsageError
from exptilt.evaluation.tasks.task import Task
from exptilt.running.examples import read_examples

REFERENCE_KEYS = ("answer", "reference", "solution", "target")  # the first that is there, where no other is asked for


@dataclass(frozen=True)
class SameAnswer:
    """Whether a response gives the answer of a reference, both as `answer` reads them."""

    answer: Answer

    def __call__(self, text: str, reference: str) -> bool:
        found = self.answer(text)
        return found is not None and found == answers.reference(self.answer, reference)


def file_task(
    source: str | Path,
    *,
    answer: Answer = answers.number,
    prompt_key: str | None = None,
    id_key: str | None = None,
    reference_key: str | None = None,
    problems: int | None = None,
    max_tokens: int = 256,
) -> Task:
    """The problems of a file, in any format of `exptilt.examples`.

    answer: reads the answers that votes count, and judges them.
    reference_key: the column of the right answers.
    problems: how many, the first ones; all of them where not given.
    Raises UsageError for a problem without a right answer, or with one that `answer` cannot read.
    """
    examples = read_examples(source, prompt_key, id_key)[:problems]
    keys = REFERENCE_KEYS if reference_key is None else (reference_key,)
    references = []
    for number, example in enumerate(examples, 1):
        key = next((key for key in keys if key in example.columns), None)
        if key is None:
            has = ", ".join(example.columns) or "none"
            raise UsageError(
                f"problem {number} of {source} has no right answer under {' or '.join(map(repr, keys))} (columns: {has}): "
                "name the column by --reference-key"
            )
        reference = str(example.columns[key])
        if answers.reference(answer, reference) is None:
            raise UsageError(
                f"problem {number} of {source} has the right answer {reference[:60]!r}, which cannot be read: see --answer"
            )
        references.append(reference)
    return Task(Path(source).stem, tuple(examples), tuple(references), answer, SameAnswer(answer), max_tokens)
