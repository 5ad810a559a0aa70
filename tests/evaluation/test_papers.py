"""The papers' sets as the papers measure them, with the harness's own task files on local data in the hub's format."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exptilt.cli import main
from exptilt.errors import ExptiltError
from exptilt.evaluation.tasks import NAMED, Task, load_task
from exptilt.evaluation.tasks import sets as own_sets
from exptilt.evaluation.tasks.papers import LETTERS, option, options

lm_eval_tasks = pytest.importorskip("lm_eval.tasks")
HARNESS = Path(lm_eval_tasks.__file__).parent
OWN = Path(own_sets.__file__).parent

GSM = {"question": "Ann has 3 boxes of 6 eggs. How many eggs?", "answer": "3 * 6 = <<3*6=18>>18\n#### 18"}
MATH = {"problem": "What is half of one?", "solution": "It is $\\boxed{\\frac{1}{2}}$.", "answer": "\\frac{1}{2}"}
AIME = {"ID": "1", "Problem": "What is 17 times 12?", "Solution": "It is 204.", "Answer": 204}
GPQA = {
    "Question": "Which is a noble gas?", "Correct Answer": "neon", "Incorrect Answer 1": "iron", "Incorrect Answer 2": "oxygen",
    "Incorrect Answer 3": "gold",
}  # fmt: skip
MMLU = {"question": "Which is a prime?", "choices": ["4", "6", "7", "9"], "answer": 2}
TQA = {
    "question": "Are all swans white?",
    "mc2_targets": {"choices": ["No", "Some are black", "Yes", "Yes, by law"], "labels": [1, 1, 0, 0]},
}
GROUP = "group: mmlu_redux_generative\ntask:\n  - local_mmlu\n"


def local(folder: Path, task: str, base: Path, doc: dict[str, Any], *, split: str = "test", of: str | None = None) -> None:
    """A task file that differs from another one only in where its data is: one problem, in a file."""
    (folder / "data.jsonl").write_text(json.dumps(doc) + "\n")
    text = f"include: {base}\ntask: {of or task}\ndataset_path: json\ndataset_name: null\ntraining_split: null\n"
    text += "validation_split: null\ntest_split: null\nfewshot_split: null\n".replace(
        f"{split}_split: null", f"{split}_split: {split}"
    )
    text += f"dataset_kwargs:\n  data_files:\n    {split}: {folder / 'data.jsonl'}\n"
    (folder / f"{task}.yaml").write_text(text)


def gsm8k(folder: Path) -> None:
    local(folder, "gsm8k", HARNESS / "gsm8k" / "gsm8k.yaml", GSM)


def math500(folder: Path) -> None:
    local(folder, "exptilt_math500", OWN / "math500.yaml", MATH)


def aime(folder: Path) -> None:
    local(folder, "aime24", HARNESS / "aime" / "aime24.yaml", AIME)


def gpqa(folder: Path) -> None:
    base = HARNESS / "gpqa" / "cot_zeroshot" / "_gpqa_cot_zeroshot_yaml"
    local(folder, "gpqa_diamond_cot_zeroshot", base, GPQA, split="validation")


def mmlu(folder: Path) -> None:
    local(folder, "mmlu", HARNESS / "mmlu-redux" / "generative" / "_default_template_yaml", MMLU, of="local_mmlu")
    (folder / "group.yaml").write_text(GROUP)


def truthful(folder: Path) -> None:
    local(folder, "exptilt_truthfulqa_mc2", OWN / "truthfulqa_mc2.yaml", TQA, split="validation")


CASES = {
    "gsm8k": (gsm8k, ["3 boxes of 6 make 18.\nThe answer is 18.", "#### 18"], ["The answer is 81.", "#### 17"]),
    "math500": (math500, ["Half is \\boxed{\\frac12}.", "So $\\boxed{0.5}$"], ["So \\boxed{2}"]),
    "aime24": (aime, ["17·12 is \\boxed{204}.", "It is \\boxed{0204}"], ["It is \\boxed{205}", "I cannot tell."]),
    "mmlu-redux": (mmlu, ["After long thought: a prime.\nThe answer is (C).", "**C**"], ["Clearly a prime.\nThe answer is (A)."]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_set_is_asked_with_reasoning_and_scored_by_its_answer(name: str, tmp_path: Path) -> None:
    write, right, wrong = CASES[name]
    write(tmp_path)
    task = load_task(name, include=str(tmp_path))
    (prompt,), (reference,) = task.texts, task.references
    assert "Reason step by step." in prompt
    assert task.max_tokens >= 1024  # the harness leaves 256 for most, which a solution in words does not fit into
    assert [task.correct(text, reference) for text in right] == [True] * len(right)
    assert [task.correct(text, reference) for text in wrong] == [False] * len(wrong)
    assert task.seeds == (32 if name == "aime24" else 1)


def lettered(prompt: str) -> dict[str, str]:
    """The letters of the options in a prompt, by their texts."""
    return {line[4:]: line[1] for line in prompt.splitlines() if line[:1] == "(" and line[2:4] == ") "}


def test_gpqa_by_its_answer_and_by_the_strict_rule(tmp_path: Path) -> None:
    gpqa(tmp_path)
    task, strict = (load_task(name, include=str(tmp_path)) for name in ("gpqa-diamond", "gpqa-diamond-strict"))
    letters = lettered(task.texts[0])
    assert set(letters) == {"neon", "iron", "oxygen", "gold"}
    sure, loose = f"So.\nThe answer is ({letters['neon']}).", f"Neon is option {letters['neon']}"
    assert task.correct(sure, task.references[0])
    assert task.correct(f"So it must be ({letters['neon']})", task.references[0])
    assert not task.correct(f"The answer is ({letters['iron']}).", task.references[0])
    assert strict.correct(sure, strict.references[0])
    assert not strict.correct(loose, strict.references[0])


def test_options_that_the_harness_shuffles_have_one_order(tmp_path: Path) -> None:
    """GPQA's are shuffled as they are loaded, by Python's generator: prompts differed from run to run, and no run went on."""
    import datasets

    datasets.disable_caching()  # which would hide it here, and not on another machine
    gpqa(tmp_path)
    random.seed(5)
    one, state = load_task("gpqa-diamond", include=str(tmp_path)).texts, random.getstate()
    random.seed(6)
    assert load_task("gpqa-diamond", include=str(tmp_path)).texts == one
    random.seed(5)
    assert random.getstate() == state  # and nobody else's draws changed


def test_truthfulqa_counts_true_answers_whichever_they_are(tmp_path: Path) -> None:
    truthful(tmp_path)
    task = load_task("truthfulqa", include=str(tmp_path))
    letters = lettered(task.texts[0])
    assert list(letters) != TQA["mc2_targets"]["choices"]  # the data has the true ones first
    right = {
        text: task.correct(f"Let me see.\nThe answer is ({letter}).", task.references[0]) for text, letter in letters.items()
    }
    assert right == {"No": True, "Some are black": True, "Yes": False, "Yes, by law": False}
    assert not task.correct("Who knows?", task.references[0])


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("(A) is wrong.\nThe answer is (M).", "M"), ("The answer is **K**.", "K"), ("The answer is (B).", "B"),
        ("The answer is (M). No, wait: the answer is (B)", "B"), ("Therefore (C)", "C"), ("The answer is Mars.", None),
        ("The answer is (Q).", None),
    ],
)  # fmt: skip
def test_more_options_than_ten_are_read(text: str, letter: str | None) -> None:
    assert option(text) == letter


def test_options_beyond_the_letters_are_refused() -> None:
    assert options(["yes", "no"]) == "(A) yes\n(B) no"
    with pytest.raises(ValueError, match="has 17 options, and only 16 letters are read"):
        options(["x"] * (len(LETTERS) + 1))


def test_ifeval_is_loose_and_the_strict_measure_has_a_name_of_its_own() -> None:
    measures = {name: NAMED[name].scoring for name in ("ifeval", "ifeval-strict", "truthfulqa-gen")}
    assert measures == {
        "ifeval": "prompt_level_loose_acc", "ifeval-strict": "prompt_level_strict_acc", "truthfulqa-gen": "bleu_acc"
    }  # fmt: skip


# ----------------------------------------------------------------------------------------------- settings of one's own


def asked(folder: Path, **more: Any) -> Task:
    gsm8k(folder)
    return load_task("lm-eval:gsm8k", include=str(folder), shots=0, **more)


def test_a_prompt_of_ones_own_goes_before_the_tasks(tmp_path: Path) -> None:
    assert asked(tmp_path).texts[0] == f"Question: {GSM['question']}\nAnswer:"
    assert asked(tmp_path, prompt_template="Solve: {{question}}").texts[0] == f"Solve: {GSM['question']}"
    assert load_task("gsm8k", include=str(tmp_path), prompt_template="Q: {{question}}").texts[0] == f"Q: {GSM['question']}"


REFUSED: dict[str, tuple[Callable[[Path], Task], str]] = {
    "a field that is not there": (
        lambda folder: asked(folder, prompt_template="Solve: {{problem}}"),
        r"'Solve: \{\{problem\}\}' does not suit the documents of lm-eval:gsm8k .*'problem' is undefined.* are question, answer",
    ),
    "a template that is none": (lambda folder: asked(folder, prompt_template="{% if %}"), "does not suit the documents"),
    "no reader": (lambda folder: asked(folder, scoring="answer"), "name it .answer= of load_task, --answer."),
    "a target without an answer": (
        lambda folder: asked(folder, scoring="answer", answer=option), "the target .* has no answer that is read there"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_asked_or_scored_is_refused_at_once(name: str, tmp_path: Path) -> None:
    load, words = REFUSED[name]
    with pytest.raises(ExptiltError, match=words):
        load(tmp_path)


def test_a_package_that_a_task_needs_is_named(tmp_path: Path) -> None:
    """minerva_math500 imports nothing but with one version of antlr: `--task math500` ended with a traceback."""
    gsm8k(tmp_path)
    (tmp_path / "needy.py").write_text("assert False, 'antlr 4.11 is needed'\n")
    with (tmp_path / "gsm8k.yaml").open("a") as file:
        file.write("process_results: !function needy.process_results\n")
    with pytest.raises(ExptiltError, match=r"lm-eval:gsm8k lacks a package, install it .*antlr 4\.11 is needed"):
        load_task("lm-eval:gsm8k", include=str(tmp_path))


def test_the_number_of_seeds_is_the_tasks_unless_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """avg@32 of AIME is 32 seeds; a dry run says so and draws nothing."""
    aime(tmp_path)
    flags = ["eval", "tiny", "--task", "aime24", "--include", str(tmp_path), "--sampler", "independent", "--n", "2"]
    flags += ["--reward", "none", "--beta", "1", "--max-tokens", "16", "--dry-run"]
    assert main(flags) == 0
    assert "32 seeds" in capsys.readouterr().out
    assert main([*flags, "--seeds", "3"]) == 0
    assert "3 seeds" in capsys.readouterr().out
