"""The sets of the papers by their usual names, measured as there: zero-shot, with reasoning before the answer.

All are tasks of lm-evaluation-harness, which has the data and the scoring; under "lm-eval:NAME" they are as the harness has them,
often with few-shot examples or without room for reasoning. The words of the prompts are ours: QAlign (2504.03790, appendix F)
asks for the same things of the same sets. Measures are those of its Table 1, and avg@32 for AIME; stricter ones have names of
their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exptilt import answers
from exptilt.answers import Answer

LETTERS = "ABCDEFGHIJKLMNOP"  # of options; TruthfulQA has more of them than the ten that `answers.choice` reads
_ROOM = 1024  # tokens of a response that reasons, where the harness has 256
_STEPS = "Reason step by step. "
_LETTER = f'{_STEPS}End with a line "The answer is (X).", X being the letter of the right option.'
_NUMBER = f'{_STEPS}End with a line "The answer is N.", N being the number alone.'
_ENDS_WITH = re.compile(r"(?i:answer is):?[\s*_$]{0,4}\(?([A-P])\)?[\s*_$.]{0,8}")
_BOXED = f"{_STEPS}End with the answer alone in \\boxed{{...}}."


def options(choices: Sequence[str]) -> str:
    """The options of a question, a line each, with their letters. Raises ValueError for more than there are letters."""
    if len(choices) > len(LETTERS):
        raise ValueError(f"a question has {len(choices)} options, and only {len(LETTERS)} letters are read")
    return "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def option(text: str) -> str | None:
    """The chosen option: "A" to "P" of a response that ends as it was asked to, else what `answers.choice` reads."""
    last = text.rstrip()[-60:]
    found = [match for match in _ENDS_WITH.finditer(last) if match.end() == len(last)]
    return found[0][1] if found else answers.choice(text)


def multiple_choice(doc: Mapping[str, Any]) -> str:
    """The prompt of a document with a question and choices."""
    question = doc["question"] if "question" in doc else doc["Question"]  # GPQA has a capital
    return f"{question.strip()}\n\n{options(doc['choices'])}\n\n{_LETTER}"


@dataclass(frozen=True)
class HarnessTask:
    """A task of lm-evaluation-harness, and what is asked of it beyond its own file.

    harness: its name there.
    answer: what reads the answers that votes count; the filter of its scoring where not given.
    scoring: "FILTER:METRIC" or "METRIC" of the task, or "answer", which compares what `answer` reads in the response and in the
        task's target; its first filter and first share of right answers where not given.
    prompt_template: a prompt in place of the task's own: in Jinja, or a function of a document.
    shots: few-shot examples; as its file says where not given.
    max_tokens: the cap on a response; as its file says where not given.
    seeds: over how many seeds its accuracy is usually told.
    """

    harness: str
    answer: Answer | None = None
    scoring: str | None = None
    prompt_template: str | Callable[[Mapping[str, Any]], str] | None = None
    shots: int | None = None
    max_tokens: int | None = None
    seeds: int = 1


NAMED = {
    "gsm8k": HarnessTask("gsm8k", answers.number, "answer", f"{{{{question}}}}\n\n{_NUMBER}", 0, _ROOM),
    "math500": HarnessTask("exptilt_math500", answers.latex, "answer", f"{{{{problem}}}}\n\n{_BOXED}", 0, 2 * _ROOM),
    "gpqa-diamond": HarnessTask("gpqa_diamond_cot_zeroshot", answers.choice, "answer", multiple_choice, 0, 2 * _ROOM),
    "gpqa-diamond-strict": HarnessTask("gpqa_diamond_cot_zeroshot", answers.choice, "strict-match:exact_match", multiple_choice,
                                       0, 2 * _ROOM),
    "mmlu-redux": HarnessTask("mmlu_redux_generative", answers.choice, "answer", multiple_choice, 0, _ROOM),
    "truthfulqa": HarnessTask("exptilt_truthfulqa_mc2", option, "mc2", None, 0, _ROOM),
    "truthfulqa-gen": HarnessTask("truthfulqa_gen", answers.exact, "bleu_acc"),
    "ifeval": HarnessTask("ifeval", answers.exact, "prompt_level_loose_acc"),
    "ifeval-strict": HarnessTask("ifeval", answers.exact, "prompt_level_strict_acc"),
    "aime24": HarnessTask("aime24", answers.number, "answer", f"{{{{Problem}}}}\n\n{_BOXED}", 0, seeds=32),
}  # fmt: skip
