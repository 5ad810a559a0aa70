"""What goes wrong in a reward is never a score: the prompt fails, on record, and the run goes on, or stops where told to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import exptilt as xt
from exptilt.core import Engine, Reward, Target
from exptilt.draft import Draft
from exptilt.errors import PromptError, RewardError, TargetError
from exptilt.report import write_report
from exptilt.running.result import Failure, Outcome
from exptilt.testing.toys import random_table
from tests.rewards.accidents import CURED, clumsy, good
from tests.running.long_run import same

SAMPLER = xt.ETS(3, 2, 2)
TARGET = Target(xt.engines.TableEngine(random_table(3, 4), 5, 3), clumsy, beta=0.5)
TIMEOUT = 0.3
KINDS = {
    "nan": "clumsy returned nan for the draft",
    "infinite": "clumsy returned inf for the draft",
    "short": "clumsy returned values of shape",
    "long": "clumsy returned values of shape",
    "nested": "clumsy returned values of shape",
    "nothing": "clumsy raised TypeError",
    "words": "clumsy returned 'good' for a draft",
    "raises": "clumsy raised KeyError: 'no such answer'",
    "exits": "clumsy raised SystemExit: 0",
    "hangs": "clumsy did not return within 0.3 s",
}
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _accidents() -> Iterator[None]:
    """Accidents happen, until the test has ended: then what hangs is let go."""
    CURED.clear()
    yield
    CURED.set()


def run(prompts: Sequence[str], **more: Any) -> list[Outcome]:
    return xt.run(TARGET, prompts, SAMPLER, reward_timeout=TIMEOUT, **more)


def lines(store: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.read_text().splitlines()[1:]]


@kinds
def test_the_others_go_on_and_the_failure_is_on_record(kind: str, tmp_path: Path) -> None:
    store, prompts = tmp_path / "a.jsonl", ["one", kind, "two"]
    fine = xt.run(TARGET, ["one", "two"], SAMPLER)
    outcomes = run(prompts, store=store)
    failure = outcomes[1]
    assert isinstance(failure, Failure)
    assert (failure.prompt, failure.error) == (kind, "RewardError")
    assert KINDS[kind] in failure.message
    assert same(fine[0], outcomes[0])
    assert same(fine[1], outcomes[2])
    assert same(failure, run(prompts)[1])  # without a file
    recorded = next(line for line in lines(store) if line["prompt"] == kind)
    assert (recorded["error"], recorded["message"]) == ("RewardError", failure.message)
    page = write_report([store], tmp_path / "a.html").read_text()
    assert json.dumps(failure.message)[1:-1].replace("<", "\\u003c") in page


@kinds
def test_failures_are_kept_and_run_again_when_told(kind: str, tmp_path: Path) -> None:
    store, prompts = tmp_path / "a.jsonl", ["one", kind, "two"]
    first = run(prompts, store=store)
    before = store.read_bytes()
    assert all(map(same, first, run(prompts, store=store)))
    assert store.read_bytes() == before
    CURED.set()
    again = run(prompts, store=store, retry=True)
    assert isinstance(again[1], xt.Result)
    assert same(again[1], xt.sample(TARGET, kind, SAMPLER))
    assert len(lines(store)) == 4


@kinds
def test_the_run_stops_where_told(kind: str, tmp_path: Path) -> None:
    store, prompts = tmp_path / "a.jsonl", ["one", "two", kind, "three"]
    words = f"the run stopped at the prompt '{kind}': reward .*{KINDS[kind]}"
    with pytest.raises(RewardError, match=words):
        run(prompts, concurrency=1, on_error="stop")
    with pytest.raises(RewardError, match=f"(?s){words}.* This is recorded in .*a.jsonl: retry=True"):
        run(prompts, store=store, concurrency=1, on_error="stop")
    assert [line["prompt"] for line in lines(store)] == prompts[:3]
    assert [line.get("error") for line in lines(store)] == [None, None, "RewardError"]
    before = store.read_bytes()
    with pytest.raises(RewardError, match=words):
        run(prompts, store=store, on_error="stop")
    assert store.read_bytes() == before
    CURED.set()
    ended = run(prompts, store=store, on_error="stop", retry=True)
    assert all(map(same, ended, xt.run(TARGET, prompts, SAMPLER)))


def test_what_finishes_while_the_run_stops_is_kept(tmp_path: Path) -> None:
    store, begun, heard = tmp_path / "a.jsonl", threading.Event(), threading.Event()

    def reward(prompt: str, drafts: Sequence[Draft]) -> list[float]:
        if prompt == "slow":
            begun.set()
            heard.wait(60)
        elif begun.wait(60):
            raise KeyError(prompt)
        return good(prompt, drafts)

    def hear(done: int, total: int, outcome: Outcome) -> None:
        heard.set()

    with pytest.raises(RewardError, match="stopped at the prompt 'bad'"):
        xt.run(
            replace(TARGET, reward=reward), ["slow", "bad", "later"], xt.Independent(2),
            concurrency=2, store=store, on_error="stop", progress=hear,
        )  # fmt: skip
    assert [line["prompt"] for line in lines(store)] == ["bad", "slow"]


def test_other_failures_stop_a_run_too() -> None:
    with pytest.raises(PromptError, match="the run stopped at the prompt ' ': "):
        run(["one", " "], on_error="stop")


def test_failures_of_prompts_that_are_not_asked_for_stop_nothing(tmp_path: Path) -> None:
    store = tmp_path / "a.jsonl"
    run(["one", "nan"], store=store)
    assert len(run(["one", "two"], store=store, on_error="stop")) == 2


def test_a_run_that_hung_goes_on_with_a_limit(tmp_path: Path) -> None:
    """The limit decides nothing that is drawn, so it is no part of the file's settings."""
    store = tmp_path / "a.jsonl"
    xt.run(TARGET, ["one"], SAMPLER, store=store)
    failure = run(["one", "hangs"], store=store)[1]
    assert isinstance(failure, Failure)
    assert "reward_timeout" in failure.message


def test_a_sample_has_the_limit_too() -> None:
    with pytest.raises(RewardError, match=r"clumsy did not return within 0.3 s for \d drafts"):
        xt.sample(TARGET, "hangs", SAMPLER, reward_timeout=TIMEOUT)
    assert same(xt.sample(TARGET, "one", SAMPLER, reward_timeout=60), xt.sample(TARGET, "one", SAMPLER))


STOPPED = """
import time
import exptilt as xt

def busy(prompt, drafts):
    print("rating", flush=True)
    while time.process_time() < begun + 0.5:
        pass
    return [1.0] * len(drafts)

begun = time.process_time()
engine = xt.engines.TableEngine(lambda prefix: [0.5, 0.5], 2, 1)
xt.sample(xt.Target(engine, busy, 1.0), "one", xt.Independent(2), reward_timeout=3)
"""


def test_time_in_which_a_run_was_stopped_is_not_its_rewards() -> None:
    """By the clock, a reward had used up its time while nobody worked."""
    program = subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    program.stdout.readline()
    program.send_signal(signal.SIGSTOP)
    time.sleep(3.5)
    program.send_signal(signal.SIGCONT)
    assert program.wait(60) == 0


def test_an_interrupt_in_a_reward_is_an_interrupt() -> None:
    def interrupted(prompt: str, drafts: Sequence[Draft]) -> list[float]:
        raise KeyboardInterrupt

    for limit in (None, 60.0):
        with pytest.raises(KeyboardInterrupt):
            xt.run(replace(TARGET, reward=interrupted), ["one"], SAMPLER, reward_timeout=limit)


@dataclass(frozen=True)
class Unbound:
    """A reward that cannot be bound to a prompt."""

    error: BaseException
    fixed = True

    def needs(self) -> frozenset[str]:
        return frozenset()

    def bind(self, engine: Engine, prompt: str, key: xt.Key) -> Reward:
        raise self.error


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), SystemExit(1)], ids=lambda error: type(error).__name__)
def test_rewards_that_fail_before_they_rate(error: BaseException) -> None:
    outcome = xt.run(replace(TARGET, reward=Unbound(error)), ["one"], SAMPLER)[0]
    assert isinstance(outcome, Failure)
    assert outcome.error == "RewardError"
    assert f"Unbound raised {type(error).__name__} when it was bound to a prompt: {error} ({__file__}, line " in outcome.message


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), float("inf")])
def test_limits_must_be_seconds(limit: float) -> None:
    with pytest.raises(TargetError, match="must be a positive number of seconds"):
        xt.sample(TARGET, "one", SAMPLER, reward_timeout=limit)


def test_what_to_do_on_errors_is_checked() -> None:
    with pytest.raises(ValueError, match="on_error='ignore': give \"record\""):
        run(["one"], on_error="ignore")


HANGING = """
import sys
import threading
import exptilt as xt
from exptilt.testing.toys import random_table

def hang(prompt, drafts):
    threading.Event().wait()

target = xt.Target(xt.engines.TableEngine(random_table(3, 4), 5, 3), hang, beta=0.5)
outcomes = xt.run(target, ["one", "two"], xt.Independent(2), reward_timeout=0.2, store=sys.argv[1])
print(*[outcome.error for outcome in outcomes])
"""


def test_a_reward_that_hangs_does_not_keep_the_program(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", HANGING, str(tmp_path / "a.jsonl")]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "RewardError RewardError\n", "")
