"""Prompts on the command line: conversations, standard input, stop rules and requests without a reward."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cli.conftest import Program

TURNS = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "Because"}]
HEADS = ("--reward", "heads.py:heads", "--beta", "2", "--sampler", "independent", "--n", "3")


def test_a_conversation_is_answered(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("chat.json").write_text(json.dumps(TURNS))
    code, out, _ = program("sample", "toy", "--messages", "chat.json", *HEADS, "--json")
    assert (code, json.loads(out)["prompt"]) == (0, TURNS)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(json.dumps({"messages": TURNS}).encode())))
    assert json.loads(program("sample", "toy", "--messages", "-", *HEADS, "--json")[1])["text"] == json.loads(out)["text"]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"why?\r\n")))
    assert json.loads(program("sample", "toy", "-", *HEADS, "--json")[1])["prompt"] == "why?"


def test_conversations_are_run_kept_resumed_and_reported(program: Program) -> None:
    """`exptilt report` could not read a file with a conversation: a list of messages is not a key of a table."""
    Path("mixed.jsonl").write_text(f'{json.dumps({"messages": TURNS})}\n"why?"\n{json.dumps({"prompt": TURNS[:1]})}\n')
    lines = program("run", "toy", "mixed.jsonl", *HEADS, "--out", "a.jsonl", "--json")[1].splitlines()
    assert [json.loads(line)["prompt"] for line in lines[:3]].count(TURNS) == 1
    assert json.loads(lines[3]) == {"prompts": 3, "failed": 0, "fresh": 3, "store": "a.jsonl"}
    assert "all of them in earlier runs" in program("run", "toy", "mixed.jsonl", *HEADS, "--out", "a.jsonl")[2]
    assert program("report", "a.jsonl")[0] == 0
    assert "user: why?\\n\\nassistant: Because" in Path("a.html").read_text()


def test_a_stop_rule_of_ones_own(program: Program) -> None:
    Path("rules.py").write_text("def enough(population):\n    return len(population) >= 4\n")
    flags = ("sample", "toy", "why?", *HEADS[:-1], "64", "--batch", "2", "--until", "rules.py:enough")
    row = json.loads(program(*flags, "--json")[1])
    assert (row["drafts"], row["stopped"]) == (4, "until")
    assert "by the stop rule (" in program(*flags)[2]
    code, _, err = program(*flags[:-1], "often")
    forms = "reward:R, sure:ANSWER:P, certain:ANSWER[:REWARD_MAX], ess:N, log_z_error:E"
    own = "or your own as FILE.py:NAME or package.module:NAME"
    assert (code, err) == (2, f"error  there is no stop rule 'often': give {forms}, {own}.\n")


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("reward:1", "reward 1 reached: a draft has "),
        ("sure:exact:0.7", "leads by"),
        ("sure:rules.py:first:0.7", "sure at 0.7: 'H' leads by "),
        ("ess:3.0", "effective sample size 3 reached: it is "),
        ("certain:rules.py:first", "needs an upper bound of the reward"),
        ("certain:rules.py:first:5", "proved: 'H' is the most probable"),
        ("log-z-error:0.5", "log Ẑ was "),
        ("reward", "'reward' is not a stop rule (could not convert string to float: ''): write reward:R, a draft has"),
        ("sure:number", "is not a stop rule (could not convert string to float: 'number'): write sure:ANSWER:P"),
        ("ess:0.5", "give a number of drafts of 1 or more"),
        ("sure:nothing:0.9", "there is no answer 'nothing'"),
    ],
)
def test_stop_rules_by_name(program: Program, rule: str, said: str) -> None:
    Path("rules.py").write_text("def first(text):\n    return 'H'\n")
    flags = ("sample", "toy", "why?", *HEADS[:-1], "640", "--batch", "2", "--beta", "50", "--until", rule)
    code, _, err = program(*flags)
    assert said in " ".join(err.split())
    assert (code == 0) == (" by the stop rule (" in " ".join(err.split()))


def test_stop_rules_are_settings_of_a_run_and_its_file_tells_why(program: Program) -> None:
    Path("prompts.txt").write_text("why?\nhow?\n")
    flags = ("run", "toy", "prompts.txt", *HEADS[:-1], "64", "--batch", "2", "--out", "a.jsonl")
    assert program(*flags, "--until", "ess:4")[0] == 0
    header, *lines = map(json.loads, Path("a.jsonl").read_text().splitlines())
    assert header["settings"]["until"]["least"] == 4.0
    assert [(line["stopped"], line["log_z"]) for line in lines] == [("until", None)] * 2
    assert all("effective sample size 4 reached: it is " in line["limit"] for line in lines)
    code, _, err = program(*flags, "--until", "ess:5")
    assert code != 0
    assert "until.least: 4 → 5" in " ".join(err.split())
    assert program("report", "a.jsonl")[0] == 0


@pytest.mark.parametrize("name", ["majority", "power"])
def test_no_reward_is_no_reason_for_a_warning(name: str, program: Program) -> None:
    """A vote without a reward was told that its reward guided nothing."""
    code, out, err = program("sample", "toy", "why?", "--sampler", name)
    assert (code, out != "", "guided nothing" in err) == (0, True, False)
    assert ("answers" in err) == (name == "majority")
    flat = ("sample", "toy", "why?", "--sampler", name, "--beta", "1", "--reward", "flat.py:flat")
    Path("flat.py").write_text("def flat(text):\n    return 0.0\n")
    assert "guided nothing" in program(*flat)[2]
