"""A reward in a process of its own: the same values and errors, and accidents that no thread survives."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import exptilt as xt
from exptilt.core import Target
from exptilt.describe import describe
from exptilt.draft import Draft
from exptilt.errors import RewardError, SandboxError
from exptilt.rewards import Isolated
from exptilt.rewards.isolated import _Worker
from exptilt.running.result import Failure
from exptilt.testing.toys import random_table
from tests.rewards.accidents import clumsy, good
from tests.running.long_run import same

SAMPLER = xt.ETS(3, 2, 2)
TARGET = Target(xt.engines.TableEngine(random_table(3, 4), 5, 3), good, beta=0.5)
DRAFTS = [Draft("one", (1, 2), None, "1 2", "stop"), Draft("one", (3,), None, "3", "stop")]
ACCIDENTS = {
    "crashes": "clumsy, in a process of its own, was ended by SIGSEGV",
    "killed": "clumsy, in a process of its own, was ended by SIGKILL",
    "leaves": "clumsy, in a process of its own, left with exit status 3",
    "hangs": "clumsy, in a process of its own, did not return within 1 s for",
    "searches": "clumsy, in a process of its own, did not return within 1 s for",
    "exits": "clumsy raised SystemExit: 0",
    "raises": "clumsy raised KeyError: 'no such answer'",
    "nan": "clumsy returned nan for the draft",
    "short": "clumsy returned values of shape",
}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks its processes up in /proc")


@pytest.fixture(scope="module")
def isolated() -> Iterator[Isolated]:
    yield Isolated(clumsy, seconds=1.0)
    gc.collect()


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_the_end(process: int) -> None:
    for _ in range(600):
        if not alive(process):
            return
        time.sleep(0.1)
    pytest.fail(f"process {process} is still there")


def where(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    return [float(os.getpid())] * len(drafts)


# ------------------------------------------------------------------------------------------------------ like any other


def test_the_same_run_with_the_reward_elsewhere(isolated: Isolated) -> None:
    prompts = ["one", "two", "three"]
    there = xt.run(replace(TARGET, reward=isolated), prompts, SAMPLER)
    assert all(map(same, there, xt.run(replace(TARGET, reward=clumsy), prompts, SAMPLER)))
    assert isolated("one", []) == []


def test_it_is_another_process_and_stays_it() -> None:
    reward = Isolated(where)
    (first, _), (second, _) = reward("one", DRAFTS), reward("two", DRAFTS)
    assert first == second != os.getpid()


def test_as_many_processes_as_asked_for() -> None:
    reward = Isolated(where, processes=2)
    target = replace(TARGET, reward=reward)
    results = xt.run(target, [f"prompt {number}" for number in range(40)], xt.Independent(2), concurrency=8)
    assert len({result.population.rewards[0] for result in results if isinstance(result, xt.Result)}) == 2


def test_the_process_ends_with_the_object() -> None:
    reward = Isolated(where)
    process = int(reward("one", DRAFTS)[0])
    assert alive(process)
    del reward
    gc.collect()
    assert not alive(process)


def test_copies_travel_without_their_process() -> None:
    reward = Isolated(good, seconds=7, processes=2, memory=2**40)
    copy = pickle.loads(pickle.dumps(reward))
    assert copy == reward
    assert (copy.seconds, copy.processes, copy.memory) == (7, 2, 2**40)


def test_limits_are_no_settings_of_a_run() -> None:
    assert describe(Isolated(good, seconds=7)) == describe(Isolated(good, memory=2**40))
    assert describe(Isolated(good)) != describe(Isolated(clumsy))


# ------------------------------------------------------------------------------------------------------------ accidents


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_accidents_fail_their_prompt_alone(accident: str, isolated: Isolated, tmp_path: Path) -> None:
    store, target = tmp_path / "a.jsonl", replace(TARGET, reward=isolated)
    outcomes = xt.run(target, ["one", accident, "two"], xt.Independent(2), store=store, concurrency=1)
    failure = outcomes[1]
    assert isinstance(failure, Failure)
    assert failure.error == "RewardError"
    assert ACCIDENTS[accident] in failure.message
    assert isinstance(outcomes[2], xt.Result)
    assert all(map(same, outcomes, xt.run(target, ["one", accident, "two"], xt.Independent(2), store=store)))
    with pytest.raises(RewardError, match=f"the run stopped at the prompt '{accident}'"):
        xt.run(target, ["one", accident, "two"], xt.Independent(2), on_error="stop")


def test_memory_has_a_limit() -> None:
    reward = Isolated(clumsy, memory=2**35)
    with pytest.raises(RewardError, match="clumsy raised MemoryError"):
        reward("swallows", DRAFTS)
    assert reward("one", DRAFTS) == good("one", DRAFTS)


def test_other_errors_keep_their_kind(isolated: Isolated) -> None:
    with pytest.raises(SandboxError, match="no walls here"):
        isolated("refuses", DRAFTS)


def test_what_a_hung_reward_started_is_killed_with_it(isolated: Isolated, tmp_path: Path) -> None:
    number = tmp_path / "child"
    with pytest.raises(RewardError, match="and was killed"):
        isolated(f"spawns {number}", DRAFTS)
    wait_for_the_end(int(number.read_text()))


def test_waiting_for_a_process_is_not_counted() -> None:
    """Two calls that hang for a second each, one after the other, beside a third that only waits for its turn."""
    target = replace(TARGET, reward=Isolated(clumsy, seconds=1.0))
    outcomes = xt.run(target, ["hangs", "hangs", "one"], xt.Independent(2), concurrency=3)
    assert [isinstance(outcome, Failure) for outcome in outcomes] == [True, True, False]


# ------------------------------------------------------------------------------------------------------------- programs

SCRIPT = """
import sys, time
from pathlib import Path
import exptilt as xt
from exptilt.draft import Draft
from tests.rewards.accidents import clumsy
from tests.rewards.test_isolated import where

if __name__ == "__main__":
    slow, other = xt.rewards.Isolated(clumsy, seconds=1000), xt.rewards.Isolated(where)
    process = int(other("one", [Draft("one")])[0])
    print(process, flush=True)
    {then}
"""


def start(folder: Path, content: str) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(content)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_a_program_leaves_no_process_behind(tmp_path: Path) -> None:
    said, errors = start(tmp_path, SCRIPT.replace("{then}", "")).communicate(timeout=120)
    assert errors == ""
    assert not alive(int(said))


def test_a_killed_program_leaves_no_process_behind(tmp_path: Path) -> None:
    """The idle process sees the end of its pipe; the one that hangs, and what it started, is ended by its own watch."""
    number = tmp_path / "child"
    program = start(tmp_path, SCRIPT.replace("{then}", f"slow('spawns {number}', [Draft('one')])"))
    assert program.stdout is not None
    idle = int(program.stdout.readline())
    for _ in range(600):
        if number.exists() and number.read_text():
            break
        time.sleep(0.1)
    program.kill()
    program.communicate()
    wait_for_the_end(idle)
    wait_for_the_end(int(number.read_text()))


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    program = start(tmp_path, SCRIPT.replace('if __name__ == "__main__":', "if True:").replace("{then}", ""))
    errors = program.communicate(timeout=120)[1]
    assert program.returncode == 1
    assert "while it was loaded (a script that starts it needs `if __name__ == '__main__':`" in errors


# ------------------------------------------------------------------------------------------------------------- refusals


def test_what_cannot_be_isolated_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Isolated\(.*<lambda>\): it cannot be sent to another process .* top of a module"):
        Isolated(lambda prompt, drafts: [0.0])
    with pytest.raises(ValueError, match=r"Isolated\(LogProb\): give a function .* needs no engine"):
        Isolated(xt.rewards.LogProb())  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"seconds": 0.0}, {"seconds": float("nan")}, {"processes": 0}, {"memory": 0.5}])
def test_limits_are_checked(wrong: dict[str, Any]) -> None:
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=rf"Isolated\({name}={value}\): give a"):
        Isolated(good, **wrong)


def test_a_reward_that_is_not_there_any_more() -> None:
    reward = Isolated(good)
    task = pickle.dumps(good).replace(b"tests.rewards.accidents", b"tests.rewards.accident_")
    reward._idle.get()
    reward._idle.put(_Worker("good", task, None))
    with pytest.raises(RewardError, match=r"reward good, in a process of its own, cannot be loaded \(ModuleNotFoundError"):
        reward("one", DRAFTS)
