"""The command line: what it prints where, its exit codes, and its errors. A table stands for the model, except at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exptilt.cli import main
from exptilt.core import Engine
from exptilt.engines import TableEngine
from exptilt.errors import UsageError
from exptilt.names import SAMPLERS, model_options
from exptilt.samplers.command import field_helps
from exptilt.testing.toys import random_table

Run = Callable[..., tuple[int, str, str]]

MINE = """
import time

def eager(text):
    return float(len(text))

def pair(prompt, drafts):
    return [1.0 for _ in drafts]

def both(prompt, text):
    return float(prompt == "why?")

def nan(prompt, drafts):
    return [float("nan")] * len(drafts)

def moody(prompt, drafts):
    return [float("nan") if prompt == "bad" else 1.0 for _ in drafts]

def interrupted(prompt, drafts):
    if prompt == "stop":
        raise KeyboardInterrupt
    return [1.0 for _ in drafts]

def slow(text):
    if text:
        time.sleep(5)
    return 0.0

class Ready:
    def __call__(self, prompt, drafts):
        return [2.0 for _ in drafts]

class Needy(Ready):
    def __init__(self, words):
        self.words = words

three = lambda a, b, c: 0.0
number = 3
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """The command with a table for a model, in a folder with mine.py: its exit code, output and error output."""

    def load(name: str, **law: Any) -> Engine:
        return TableEngine(random_table(3, 4), 5, 3, symbols="1234", name=name, temperature=law.get("temperature", 1.0))

    monkeypatch.setattr("exptilt.names.targets.load", load)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)

    def call(*argv: str) -> tuple[int, str, str]:
        code = main(argv)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def sample(*more: str, reward: str = "mine.py:eager") -> tuple[str, ...]:
    return ("sample", "toy", "why?", "--reward", reward, "--beta", "2", *more)


def test_the_answer_alone_goes_to_standard_output(run: Run) -> None:
    code, out, err = run(*sample("--select", "vote", "--block", "2"))
    assert code == 0
    assert out.count("\n") == 1
    assert set(out.strip()) <= set("1234")
    for fact in ("ETS candidates 8, block 2", "log Z", "ESS", "tokens", "reward calls", "answers"):
        assert fact in err


def test_json_output(run: Run) -> None:
    code, out, err = run(*sample("--json", "--seed", "3", "--sampler", "independent", "--n", "4", "--select", "vote"))
    row = json.loads(out)
    assert (code, err) == (0, "")
    assert (row["prompt"], row["seed"], row["drafts"], row["sampler"]) == ("why?", 3, 4, "Independent n 4")
    assert row["usage"]["tokens"] == row["usage"]["reference"]["generated"]
    assert sum(share for _, share in row["posterior"]) == pytest.approx(1.0)
    assert run(*sample("--json", "--seed", "3", "--sampler", "independent", "--n", "4", "--select", "vote"))[1][:60] == out[:60]


@pytest.mark.parametrize("place", range(1, 6, 2))
def test_the_prompt_may_stand_before_and_after_options(place: int, run: Run) -> None:
    """A PROMPT that may be left out, for --messages, was one argument too many behind options."""
    flags = ["toy", "--reward", "mine.py:eager", "--beta", "2", "--json"]
    row = json.loads(run("sample", *flags[:place], "why?", *flags[place:])[1])
    assert row["prompt"] == "why?"


@pytest.mark.parametrize("name", SAMPLERS.names)
def test_every_sampler_has_its_flags(name: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(*sample("--sampler", name, reward="mine.py:pair"))
    assert (code, bool(out)) == (0, True)
    with pytest.raises(SystemExit):
        main(["sample", "--sampler", name, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for field, text in field_helps(SAMPLERS.find(name)).items():
        assert field == "sampler" or f"--{field.replace('_', '-')}" in shown
        assert field == "sampler" or text[:30] in shown


def test_flags_become_the_sampler(run: Run) -> None:
    flags = ("--candidates", "3", "--block", "none", "--returns", "chain", "--temper", "0.5", "--step-weights", "2.5")
    assert json.loads(run(*sample("--json", *flags))[1])["sampler"] == (
        "ETS candidates 3, returns chain, temper 0.5, step weights (2.5,)"
    )
    flags = ("--sampler", "metropolised", "--inner", "smc", "--particles", "3", "--steps", "2")
    assert json.loads(run(*sample("--json", *flags))[1])["sampler"] == "Metropolised of (SMC particles 3, block 32), steps 2"
    assert "acceptance" in run(*sample(*flags))[2]


@pytest.mark.parametrize(
    "spec", ["mine.py:eager", "mine.py:pair", "mine.py:both", "mine.py:Ready", "mine:Ready", "arithmetic", "agreement"]
)
def test_rewards(spec: str, run: Run) -> None:
    assert run(*sample("--sampler", "independent", reward=spec))[0] == 0


@pytest.mark.parametrize("select", ["draw", "best", "vote", "mbr"])
def test_selects(select: str, run: Run) -> None:
    assert run(*sample("--sampler", "independent", "--select", select))[0] == 0


def test_budgets(run: Run) -> None:
    code, _, err = run(*sample("--sampler", "independent", "--n", "900", "--batch", "5", "--budget-tokens", "40"))
    assert code == 0
    assert "by the budget (tokens: " in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "COMMAND"),
        (("sample", "toy", "why?", "--beta", "1"), "required: --reward; see exptilt sample --help"),
        (sample("--beta", "0"), "--beta: 0 must be a positive number"),
        (sample("--beta", "much"), "--beta: 'much' is not a number; see exptilt sample --help"),
        (sample("--sampler", "magic"), "there is no sampler 'magic': give ets, beam, independent,"),
        (sample("--n", "4"), "there is no option --n 4 here: it belongs to --sampler independent or plain or bon or majority."),
        (sample("--candidates", "0"), "ETS(candidates=0): give a whole number of 1 or more; see"),
        (sample("--candidates", "few"), "--candidates: 'few' is not a whole number; see"),
        (sample("--budget-tokens", "0"), "budget tokens=0 must be positive"),
        (sample("--temperature", "0"), "temperature=0.0 must be positive"),
        (sample("--propose-candidates"), "has no proposal to draw from"),
        (sample("--sampler", "mcmc", "--proposal", "toy"), "takes no proposal: leave it out"),
        (("sample", "toy", " ", "--reward", "arithmetic", "--beta", "1"), "the prompt ' ' is empty"),
        (sample(reward="kindness"), "there is no reward 'kindness': give arithmetic,"),
        (sample(reward="nowhere.py:f"), "there is no file nowhere.py"),
        (sample(reward="nowhere:f"), "nowhere cannot be imported (ModuleNotFoundError"),
        (sample(reward="mine.py:"), "'mine.py:' does not name an object"),
        (sample(reward="mine.py:eagre"), "mine.py has no 'eagre': it has eager, pair,"),
        (sample(reward="mine.py:number"), "is 3 and cannot be called"),
        (sample(reward="mine.py:three"), "reads the column 'c', and problem 1 ('why?') has none"),
        (sample(reward="mine.py:Needy"), "is a class that needs arguments"),
        (
            ("run", "toy", "none.txt", "--reward", "arithmetic", "--beta", "1", "--out", "a"),
            "none.txt cannot be read: No such file",
        ),
    ],
)
def test_requests_that_are_refused(argv: tuple[str, ...], words: str, run: Run) -> None:
    code, out, err = run(*argv)
    assert code == 2
    assert out == ""
    assert words in " ".join(err.split())
    assert "Traceback" not in err


def test_failures_are_told_apart_from_refusals(run: Run) -> None:
    code, _, err = run(*sample(reward="mine.py:nan"))
    assert code == 1
    assert "reward nan returned nan for the draft" in " ".join(err.split())


def test_unknown_models_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "nobody", "why?", "--reward", "arithmetic", "--beta", "1"]) == 2
    assert "'nobody' is not the name of a model" in " ".join(capsys.readouterr().err.split())


def test_errors_in_the_users_file_are_located(run: Run) -> None:
    Path("broken.py").write_text("one = 1\ntwo = one / 0\n")
    assert "broken.py, line 2 raised ZeroDivisionError" in " ".join(run(*sample(reward="broken.py:two"))[2].split())


# ------------------------------------------------------------------------------------------------------- exptilt run


def many(*more: str, prompts: str = "prompts.txt", reward: str = "mine.py:pair") -> tuple[str, ...]:
    return ("run", "toy", prompts, "--reward", reward, "--beta", "2", "--sampler", "independent", "--out", "runs/a.jsonl", *more)


def test_runs_write_their_file_and_resume(run: Run) -> None:
    Path("prompts.txt").write_text("one\ntwo\n\nthree\n")
    code, out, err = run(*many())
    assert (code, out) == (0, "")
    assert "3 prompts answered" in err
    assert "runs/a.jsonl" in err
    assert len(Path("runs/a.jsonl").read_text().splitlines()) == 4
    Path("prompts.txt").write_text("one\ntwo\nthree\nfour\n")
    assert "4 prompts answered · 3 of them in earlier runs" in run(*many())[2]
    assert "all of them in earlier runs" in run(*many())[2]
    code, _, err = run(*many("--seed", "1"))
    assert code == 2
    assert "seed: 0 → 1" in " ".join(err.split())


def test_runs_share_their_tokens_out(run: Run) -> None:
    Path("prompts.txt").write_text("".join(f"prompt {number}\n" for number in range(8)))
    words = ("--n", "2", "--select", "best", "--allocate", "accuracy", "--total-tokens", "200")
    code, _, err = run(*many(*words))
    assert (code, "8 prompts answered" in err) == (0, True)
    lines = [json.loads(line) for line in Path("runs/a.jsonl").read_text().splitlines()]
    assert lines[0]["settings"]["allocation"]["by"] == "accuracy"
    assert len({len(line["population"]["rows"]) for line in lines[1:]}) > 1
    assert "all of them in earlier runs" in run(*many(*words))[2]
    code, _, err = run(*many(*words[:-2]))
    assert (code, "--allocate shares out the tokens that --total-tokens gives" in " ".join(err.split())) == (2, True)
    code, _, err = run(*many("--allocate", "accurate"))
    assert (code, "did you mean accuracy" in " ".join(err.lower().split())) == (2, True)


def test_runs_go_on_where_one_prompt_fails(run: Run) -> None:
    Path("prompts.jsonl").write_text('{"prompt": "one", "id": 7}\n"bad"\n')
    code, _, err = run(*many(prompts="prompts.jsonl", reward="mine.py:moody"))
    assert code == 1
    assert "1 prompt answered · 1 failed" in err
    assert "1 × RewardError" in err


def test_runs_stop_where_one_prompt_fails_if_told(run: Run) -> None:
    Path("prompts.txt").write_text("one\nbad\nthree\n")
    flags = ("--stop-on-error", "--concurrency", "1")
    code, out, err = run(*many(*flags, reward="mine.py:moody"))
    assert (code, out) == (1, "")
    assert "the run stopped at the prompt 'bad': reward moody returned nan" in " ".join(err.split())
    assert "2 more prompts are in runs/a.jsonl" in err
    assert len(Path("runs/a.jsonl").read_text().splitlines()) == 3
    code, _, err = run(*many(*flags, reward="mine.py:moody"))
    assert code == 1
    assert "retry=True (--retry) runs the prompt again" in " ".join(err.split())
    assert run(*many(reward="mine.py:moody"))[0] == 1
    assert len(Path("runs/a.jsonl").read_text().splitlines()) == 4


def test_rewards_that_take_too_long(run: Run) -> None:
    code, _, err = run(*sample("--reward-timeout", "0.1", reward="mine.py:slow"))
    assert code == 1
    assert "reward Each(slow) did not return within 0.1 s" in " ".join(err.split())
    Path("prompts.txt").write_text("one\n")
    assert "1 × RewardError  reward Each(slow) did not" in run(*many("--reward-timeout", "0.1", reward="mine.py:slow"))[2]
    code, _, err = run(*sample("--reward-timeout", "0", reward="mine.py:slow"))
    assert code == 2
    assert "reward_timeout=0.0 must be a positive number" in " ".join(err.split())


def test_a_file_may_isolate_its_reward(run: Run) -> None:
    """The file is not a package that is installed, and yet the reward's process finds it."""
    crash = "def crash(prompt, drafts):\n    os._exit(7)\n"
    Path("fragile.py").write_text(f"import os\nimport exptilt as xt\n{crash}safe = xt.rewards.Isolated(crash)\n")
    code, _, err = run(*sample(reward="fragile.py:safe"))
    assert code == 1
    assert "reward crash, in a process of its own, left with exit status 7" in " ".join(err.split())


def test_json_lines_of_a_run(run: Run) -> None:
    Path("prompts.jsonl").write_text('"one"\n"bad"\n')
    rows = [json.loads(line) for line in run(*many("--json", prompts="prompts.jsonl", reward="mine.py:moody"))[1].splitlines()]
    assert {row.get("error", "answered") for row in rows[:2]} == {"RewardError", "answered"}
    assert rows[2] == {"prompts": 2, "failed": 1, "fresh": 2, "store": "runs/a.jsonl"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}\n", "line 1 of"),
        ('"a"\n{"prompt": 3}', "line 2 of"),
        ("plain words", "is not JSON"),
        ("\n", "holds no prompts"),
        ("\xff", "UTF-8"),
    ],
)
def test_bad_prompt_files(content: str, words: str, run: Run) -> None:
    Path("prompts.jsonl").write_bytes(content.encode("latin-1"))
    code, _, err = run(*many(prompts="prompts.jsonl"))
    assert code == 2
    assert words in " ".join(err.split())


def test_interrupted_runs_say_how_to_go_on(run: Run) -> None:
    Path("prompts.txt").write_text("one\ntwo\nstop\nthree\n")
    code, _, err = run(*many("--concurrency", "1", reward="mine.py:interrupted"))
    assert code == 130
    assert "2 more prompts are in runs/a.jsonl. Run the same command again to resume." in " ".join(err.split())


def test_the_tiny_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """From the command line to a real model and back, once."""
    prompts, store = tmp_path / "prompts.txt", tmp_path / "a.jsonl"
    prompts.write_text("Tom has 3 pens and buys 4 more pens. How many pens does Tom have?\n")
    law = ("--max-tokens", "8", "--reward", "arithmetic", "--beta", "0.5", "--candidates", "2", "--block", "4")
    assert main(["run", "tiny", str(prompts), *law, "--out", str(store)]) == 0
    assert main(["sample", "tiny", prompts.read_text().strip(), *law, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["text"] == json.loads(store.read_text().splitlines()[1])["text"]


def test_a_models_options_stand_after_its_name():
    assert model_options("tiny-mdlm?cache=dual&threshold=0.9&per_step=2") == (
        "tiny-mdlm",
        {"cache": "dual", "threshold": 0.9, "per_step": 2},
    )
    assert model_options("hf:some/model") == ("hf:some/model", {})
    with pytest.raises(UsageError, match=r"'cache' in 'tiny-mdlm\?cache' is not an option"):
        model_options("tiny-mdlm?cache")


def test_ets_is_with_another_law_of_the_same_masked_model(capsys: pytest.CaptureFixture[str]):
    words = [
        "sample",
        "tiny-mdlm",
        "Mia has 4 pens and buys 3 more. How many has she?",
        "--reward",
        "arithmetic",
        "--beta",
        "0.1",
    ]
    options = ["--candidates", "2", "--block", "16", "--proposal", "tiny-mdlm?cache=dual", "--max-tokens", "32", "--json"]
    assert main([*words, *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["usage"]["proposal"]["generated"] > 0
