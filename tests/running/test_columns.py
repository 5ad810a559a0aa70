"""Columns of a data set: they reach rewards by name, and come back with results, through runs, files, reports and clusters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import exptilt as xt
from exptilt import names, rewards
from exptilt.draft import Draft
from exptilt.engines import TableEngine
from exptilt.errors import RewardError, StoreError, TargetError
from exptilt.running.example import as_example
from tests.pages import run_page
from tests.report.stores import Page

ROWS: list[dict[str, Any]] = [
    {"id": 7, "prompt": "which?", "answer": "0", "topic": "small"},
    {"id": "b", "prompt": "which?", "answer": "1", "topic": "large"},
    {"id": None, "prompt": "another?", "answer": "00", "topic": "large"},
]
SAMPLER = xt.Independent(40)


def engine() -> TableEngine:
    return TableEngine(lambda prefix: [0.4, 0.3, 0.3], 4, 2, symbols="01#")


def exact(prompt: str, drafts: Sequence[Draft], answer: str) -> list[float]:
    return [float(draft.text == answer) for draft in drafts]


def run(reward: Any, rows: Any = ROWS, **options: Any) -> list[Any]:
    return xt.run(xt.Target(engine(), reward, 0.1), rows, SAMPLER, select=xt.best, **options)


def texts(results: Sequence[Any]) -> list[str]:
    return [result.text for result in results]


# ------------------------------------------------------------------------------------------------------------- rewards


def of_text(text: str, answer: str) -> float:
    return float(text == answer)


def of_both(prompt: str, text: str, *, answer: str, topic: str = "none") -> float:
    assert topic in ("small", "large")
    return float(text == answer)


class Verifier:
    def __call__(self, prompt: str, drafts: Sequence[Draft], answer: str, missing: int = 3) -> list[float]:
        assert missing == 3
        return exact(prompt, drafts, answer)


def of_trl(completions: list[str], answer: list[str], **more: Any) -> list[float]:
    assert len(completions) == len(answer) == len(more["topic"]) == len(more["prompts"]) == len(more["completion_ids"])
    return [float(text == right) for text, right in zip(completions, answer, strict=True)]


def all_of_them(prompt: str, drafts: Sequence[Draft], **columns: Any) -> list[float]:
    assert set(columns) == {"answer", "topic"}
    return exact(prompt, drafts, columns["answer"])


REWARDS: dict[str, Any] = {
    "function": exact,
    "of a text": rewards.Each(of_text),
    "of prompt and text": rewards.Each(of_both),
    "object": Verifier(),
    "matches": rewards.Matches(xt.answers.exact, column="answer"),
    "sum": rewards.Sum([(2.0, exact), (1.0, rewards.Zero()), (1.0, rewards.Each(of_text))]),
    "TRL": rewards.TRL(of_trl),
    "all columns": all_of_them,
}


@pytest.mark.parametrize("kind", REWARDS)
def test_columns_reach_a_reward_by_name(kind: str) -> None:
    """Two equal prompts with different answers: each is judged by its own."""
    results = run(REWARDS[kind])
    assert texts(results) == ["0", "1", "00"]
    assert [(result.id, result.index) for result in results] == [(7, 0), ("b", 1), (None, 2)]
    assert [result.columns for result in results] == [{"answer": row["answer"], "topic": row["topic"]} for row in ROWS]


def test_columns_reach_a_process_of_its_own() -> None:
    isolated = rewards.Isolated(exact)
    assert isolated.columns == {"answer"}
    assert texts(run(isolated)) == ["0", "1", "00"]


def test_a_reward_that_reads_no_columns_gets_none() -> None:
    def plain(prompt: str, drafts: Sequence[Draft]) -> list[float]:
        return [0.0] * len(drafts)

    assert run(plain)[1].columns == {"answer": "1", "topic": "large"}


def test_a_column_that_is_not_there_is_refused_before_any_work() -> None:
    def never(prompt: str, drafts: Sequence[Draft], reference: str) -> list[float]:
        raise AssertionError

    with pytest.raises(
        TargetError, match=r"reward .*never reads the column 'reference', and problem 1 \('which\?'\) has answer, topic"
    ):
        run(never)
    with pytest.raises(TargetError, match=r"reads the column 'answer', and problem 2 \('plain'\) has none"):
        run(exact, [ROWS[0], "plain"])
    with pytest.raises(TargetError, match="reads the column 'answer'"):
        xt.sample(xt.Target(engine(), exact, 0.1), "which?", SAMPLER)
    assert (
        xt.sample(xt.Target(engine(), exact, 0.1), xt.Example("which?", columns={"answer": "01"}), SAMPLER, select=xt.best).text
        == "01"
    )


def test_a_reference_without_an_answer_fails_its_problem() -> None:
    reward = rewards.Matches(xt.answers.number, column="answer")
    first, second = run(reward, [{"prompt": "a", "answer": "none at all"}, {"prompt": "b", "answer": "0"}])
    assert isinstance(first, xt.Failure)
    assert "finds no answer in the reference 'none at all'" in first.message
    assert first.columns == {"answer": "none at all"}
    assert isinstance(second, xt.Result)
    with pytest.raises(RewardError, match="reads the column 'answer', and the prompt has no columns"):
        reward("x", [])
    with pytest.raises(ValueError, match="give it, or the name of its column"):
        rewards.Matches(xt.answers.number)


def test_trl_gets_messages_for_chats() -> None:
    def told(prompts: list[Any], completions: list[Any]) -> list[float]:
        assert prompts[0] == [{"role": "user", "content": "hi"}]
        return [float(message["content"] == "0") for [message] in completions]

    target = xt.Target(engine(), rewards.TRL(told), 0.1)
    assert xt.sample(target, [{"role": "user", "content": "hi"}], SAMPLER, select=xt.best).text == "0"


def test_what_is_drawn_depends_on_the_prompt_alone() -> None:
    plain = xt.run(xt.Target(engine(), rewards.Zero(), 0.1), [row["prompt"] for row in ROWS], SAMPLER)
    for one, other in zip(plain, run(exact), strict=True):
        assert isinstance(one, xt.Result)
        assert [draft.tokens for draft in one.population.drafts] == [draft.tokens for draft in other.population.drafts]


def test_names_of_rewards() -> None:
    reward = names.find_reward("matches:answer", "exact")
    assert texts(run(reward)) == ["0", "1", "00"]


# ------------------------------------------------------------------------------------------------------------- files


def test_a_results_file_keeps_columns_and_resumes(tmp_path: Path) -> None:
    store = tmp_path / "a.jsonl"
    first = run(exact, ROWS[:2], store=store)
    lines = [json.loads(line) for line in store.read_text().splitlines()[1:]]
    assert {line["example"]["id"]: line["example"]["columns"]["answer"] for line in lines} == {7: "0", "b": "1"}
    before = store.read_bytes()
    again = run(exact, ROWS, store=store)
    assert store.read_bytes().startswith(before)
    assert texts(again) == [*texts(first), "00"]
    assert [(each.id, each.columns["answer"], each.index) for each in again] == [(7, "0", 0), ("b", "1", 1), (None, "00", 2)]


def test_a_result_of_another_answer_is_not_taken(tmp_path: Path) -> None:
    """Equal prompts are told apart by their order: exchanged in the list, each would have got the other's result."""
    store = tmp_path / "a.jsonl"
    run(exact, store=store)
    before = store.read_bytes()
    with pytest.raises(StoreError, match=r'the results file holds a result for .which\?. with other columns \(answer: "0" → "1"'):
        run(exact, [ROWS[1], ROWS[0], ROWS[2]], store=store)
    assert store.read_bytes() == before
    assert texts(run(exact, [ROWS[2], ROWS[0], ROWS[1]], store=store)) == ["00", "0", "1"]


def test_columns_that_are_no_json_values_are_used_and_not_stored(tmp_path: Path) -> None:
    store = tmp_path / "a.jsonl"
    rows = [{**row, "picture": object(), "share": float("nan")} for row in ROWS]
    for _ in range(2):
        assert texts(run(exact, rows, store=store)) == ["0", "1", "00"]
    line = json.loads(store.read_text().splitlines()[1])
    assert set(line["example"]["columns"]) == {"answer", "topic", "share"}


def test_a_failure_keeps_its_columns(tmp_path: Path) -> None:
    def failing(prompt: str, drafts: Sequence[Draft], answer: str) -> list[float]:
        return [1 / (answer != "1")] * len(drafts)

    for _ in range(2):
        failure = run(failing, store=tmp_path / "a.jsonl")[1]
        assert isinstance(failure, xt.Failure)
        assert (failure.id, failure.columns["answer"], failure.index) == ("b", "1", 1)


def test_a_report_reads_the_right_answers_from_a_column(tmp_path: Path) -> None:
    from exptilt.report import write_report

    store = tmp_path / "a.jsonl"
    xt.run(
        xt.Target(engine(), rewards.Zero(), 0.1), ROWS, SAMPLER, select=lambda population, key: population.drafts[0], store=store
    )
    shown = Page(write_report([store], tmp_path / "a.html", reference_key="answer", answer=xt.answers.exact)).data["overview"]
    by_id = {line["id"]: line for line in map(json.loads, store.read_text().splitlines()[1:])}
    for prompt in shown["prompts"]:
        line = by_id[prompt["id"]]
        assert prompt["reference"] == line["example"]["columns"]["answer"]
        assert prompt["by"][0]["right"] == (line["text"] == prompt["reference"])
    assert {prompt["reference"] for prompt in shown["prompts"]} == {"0", "1", "00"}
    with pytest.raises(ValueError, match=r"no result of .*a\.jsonl has a column 'right': it has answer, topic"):
        write_report([store], tmp_path / "b.html", reference_key="right")


def test_columns_travel_to_a_cluster(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    results = xt.run(
        lambda: xt.Target(engine(), rewards.Matches(xt.answers.exact, column="answer"), 0.1), ROWS, SAMPLER, select=xt.best,
        store=tmp_path / "a.jsonl", cluster=xt.Cluster("local", workers=1),
    )  # fmt: skip
    assert [(result.text, result.id, result.index) for result in results if isinstance(result, xt.Result)] == [
        ("0", 7, 0), ("1", "b", 1), ("00", None, 2)
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- data sets


def test_data_sets_are_taken_as_they_are(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"prompt": row["prompt"], "answer": row["answer"]} for row in ROWS])
    assert texts(run(exact, rows)) == ["0", "1", "00"]


def test_paths_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    assert texts(run(exact, path)) == ["0", "1", "00"]
    named = tmp_path / "named.jsonl"
    named.write_text(
        "\n".join(json.dumps({"question": row["prompt"], "key": row["id"] or 0, "answer": row["answer"]}) for row in ROWS)
    )
    examples = xt.examples(named, prompt_key="question", id_key="key")
    assert [(each.prompt, each.id) for each in examples] == [("which?", 7), ("which?", "b"), ("another?", 0)]
    assert texts(run(exact, examples)) == ["0", "1", "00"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "x"}, r"a row has no 'prompt' or 'messages' \(its keys are question\): name the prompt's by prompt_key"),
        ({}, "its keys are none"),
        ({"prompt": None}, "the prompt None of a row is not a string"),
        ({"prompt": ["a", "b"]}, "is not a string or a list of messages"),
    ],
)
def test_rows_without_a_prompt_are_refused(row: Any, said: str) -> None:
    with pytest.raises(xt.PromptError, match=said):
        run(exact, [row])


def test_ids() -> None:
    assert as_example({"prompt": "a", "id": [1]}) == xt.Example("a", None, {"id": [1]})
    with pytest.raises(xt.PromptError, match=r"the id \[1\] is of type list"):
        as_example({"prompt": "a", "id": [1]}, id_key="id")
    with pytest.raises(xt.PromptError, match="a row has no 'key'"):
        as_example({"prompt": "a"}, id_key="key")


def test_columns_go_with_allocated_tokens(tmp_path: Path) -> None:
    """The parts of a problem lie in a file of their own, and are its own only while its columns are the same."""
    given: dict[str, Any] = {"budget": xt.Budget(total_tokens=600), "allocate": "log_z", "store": tmp_path / "a.jsonl"}
    assert [(each.text, each.id, each.index) for each in run(exact, **given)] == [("0", 7, 0), ("1", "b", 1), ("00", None, 2)]
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(StoreError, match="with other columns"):
        run(exact, [ROWS[1], ROWS[0], ROWS[2]], **given)


def test_the_page_on_data() -> None:
    assert [result.index for result in run_page("data.md")["results"]] == [0, 1]
