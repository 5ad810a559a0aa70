"""`run` on a Ray cluster: the answers of one machine, whatever dies; and what is said when it cannot work."""

from __future__ import annotations

import json
import linecache
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

import exptilt as xt
from exptilt.cli import main
from exptilt.core import Target
from exptilt.describe import describe
from exptilt.draft import Draft
from exptilt.errors import ClusterError, ModelError, TargetError
from exptilt.running import crew
from exptilt.running.cluster import Cluster, _connected, _import_ray, _make, _start, fits, main_source
from exptilt.running.request import Request
from exptilt.running.result import Failure, Outcome
from exptilt.testing.toys import random_table
from tests.running.long_run import same

PROMPTS = [f"prompt {number % 30}" for number in range(32)]  # two of them come twice
SAMPLER = xt.ETS(3, 2, 2)
VOTE = xt.vote(xt.answers.exact)
TWO = Cluster("local", workers=2)


@pytest.fixture(scope="module")
def ray() -> Iterator[object]:
    """A cluster on this machine with room for two workers, which all runs of this file use."""
    if find_spec("ray") is None:
        pytest.skip("ray is not installed")
    found = _import_ray()
    with _connected(found, TWO):
        yield found


def table(temperature: float = 1.0) -> xt.engines.TableEngine:
    return xt.engines.TableEngine(random_table(3, 4), 5, 3, temperature)


def reward(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    return [sum(draft.tokens) / 4 for draft in drafts]


def build() -> Target:
    return Target(table(), reward, beta=0.5)


class Meddling:
    """A reward that meddles with the worker it runs on. `before` is not part of the distribution, so it is not described."""

    def __init__(self, before: Callable[[str], None]) -> None:
        self.before = before

    def __call__(self, prompt: str, drafts: Sequence[Draft]) -> list[float]:
        self.before(prompt)
        return reward(prompt, drafts)


def meddling(before: Callable[[str], None]) -> Callable[[], Target]:
    return lambda: Target(table(), Meddling(before), beta=0.5)


def ids(store: Path) -> Counter[str]:
    """How often each prompt is in a results file."""
    return Counter(json.loads(line)["id"] for line in store.read_text().splitlines()[1:])


# ------------------------------------------------------------------------------------------------------- the same run


def test_the_answers_are_those_of_one_machine(ray: object, tmp_path: Path) -> None:
    """Failures of single prompts and budgets included."""

    def moody(prompt: str) -> None:
        if prompt == "raises":
            raise KeyError("nothing here")

    store, make, heard = tmp_path / "a.jsonl", meddling(moody), []
    prompts, limit = [*PROMPTS, " ", "raises"], xt.Budget(tokens=25)
    there = xt.run(
        make, prompts, SAMPLER, select=VOTE, seed=5, budget=limit, store=store, concurrency=3, cluster=TWO,
        progress=lambda *news: heard.append(news[:2]),
    )  # fmt: skip
    here = xt.run(make(), prompts, SAMPLER, select=VOTE, seed=5, budget=limit)
    assert all(map(same, here, there))
    assert [outcome.error for outcome in there if isinstance(outcome, Failure)] == ["PromptError", "RewardError"]
    assert {outcome.stopped for outcome in there if isinstance(outcome, xt.Result)} == {"done", "budget"}
    assert heard == [(done, 34) for done in range(1, 35)]
    assert set(ids(store).values()) == {1}
    assert len(ids(store)) == 34


def test_a_failure_stops_the_cluster_too(ray: object, tmp_path: Path) -> None:
    """A reward that hangs over there fails its prompt, and where told the run: what comes after is not begun."""

    def moody(prompt: str) -> None:
        if prompt == "hangs":
            time.sleep(30)

    store, make, prompts = tmp_path / "a.jsonl", meddling(moody), ["hangs", *PROMPTS]
    with pytest.raises(xt.RewardError, match=r"stopped at the prompt 'hangs': reward Meddling did not return within 0.5 s"):
        xt.run(
            make, prompts, SAMPLER, store=store, cluster=Cluster("local", workers=1), concurrency=1,
            on_error="stop", reward_timeout=0.5,
        )  # fmt: skip
    assert [json.loads(line).get("error") for line in store.read_text().splitlines()[1:]] == ["RewardError"]
    results = xt.run(make, prompts, SAMPLER, store=store, reward_timeout=0.5)
    assert isinstance(results[0], Failure)
    assert all(map(same, results[1:], xt.run(build(), PROMPTS, SAMPLER)))


def test_a_run_goes_on_elsewhere(ray: object, tmp_path: Path) -> None:
    """Begun on one machine, continued on a cluster until it is interrupted there, ended on one machine."""
    store = tmp_path / "a.jsonl"
    heard: list[int] = []

    def interrupt(done: int, total: int, outcome: Outcome) -> None:
        heard.append(done)
        if done == 25:
            raise KeyboardInterrupt

    xt.run(build(), PROMPTS[:10], SAMPLER, store=store)
    with pytest.raises(KeyboardInterrupt):
        xt.run(build, PROMPTS, SAMPLER, store=store, cluster=TWO, concurrency=2, progress=interrupt)
    assert heard == list(range(11, 26))
    results = xt.run(build(), PROMPTS, SAMPLER, store=store, progress=interrupt)
    assert heard[-1] == 32
    assert all(map(same, results, xt.run(build(), PROMPTS, SAMPLER)))
    assert set(ids(store).values()) == {1}


def test_workers_of_this_machine_have_their_turn(ray: Any) -> None:
    """Ray lowers the priority of its workers by 15: beside busy programs one took ten minutes to load a model and never began."""
    priority = ray.remote(lambda: os.getpriority(os.PRIO_PROCESS, 0))
    assert ray.get(priority.remote()) == os.getpriority(os.PRIO_PROCESS, 0)


def test_a_function_that_travelled_is_described_as_before() -> None:
    """Globals that a function does not read stay behind. One named like an attribute (`text`) was once taken for read,
    so that the settings of such a reward differed between the machine where it was written and all others."""
    described = []
    for around in ({"__name__": "mine"}, {"__name__": "mine", "text": "a global"}):
        exec("def rate(prompt, drafts):\n    return [float(len(draft.text)) for draft in drafts]", around)
        described.append(describe(around["rate"]))
    assert described[0] == described[1]


def test_the_script_s_source_travels_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings name a function by its source. A worker on a machine without the script's file described it by its bytecode,
    so that its settings differed from those of the results file."""
    script = tmp_path / "script.py"
    script.write_text("def rate(prompt, drafts):\n    return [float(len(draft.text)) for draft in drafts]\n")
    there: dict[str, Any] = {"__name__": "script"}
    exec(compile(script.read_text(), str(script), "exec"), there)
    before = describe(there["rate"])
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    main = main_source()
    script.unlink()
    linecache.clearcache()
    assert describe(there["rate"]) != before
    _make(build, lambda target: Request(target, SAMPLER, xt.draw, 0, None), main)
    assert describe(there["rate"]) == before
    linecache.clearcache()


def test_the_command_line(
    ray: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real model on a worker, and a reward from a file that is named relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("theirs.py").write_text("def eager(text):\n    return len(text) / 10\n")
    Path("prompts.txt").write_text("Tom has 3 pens and buys 4 more pens. How many pens does Tom have?\nWhat is 2 + 2?\n")
    rated = ["--reward", "theirs.py:eager", "--beta", "1"]
    command = ["run", "tiny", "prompts.txt", *rated, "--max-tokens", "6", "--candidates", "2"]
    assert main([*command, "--out", "there.jsonl", "--ray", "local", "--ray-workers", "1", "--json"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said[-1] == {"prompts": 2, "failed": 0, "fresh": 2, "store": "there.jsonl"}
    assert main([*command, "--out", "here.jsonl", "--json"]) == 0
    here = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["prompt"]: row["text"] for row in said[:-1]} == {row["prompt"]: row["text"] for row in here[:-1]}
    there, here = (json.loads(Path(name).read_text().splitlines()[0]) for name in ("there.jsonl", "here.jsonl"))
    assert there | {"made": None} == here | {"made": None}  # they were made at other times, and the workers' device is not known
    assert main([*command, "--out", "there.jsonl", "--ray", "local", "--ray-cpus", "0"]) == 2
    assert "cpus=0.0 are what each worker reserves" in " ".join(capsys.readouterr().err.split())


# ------------------------------------------------------------------------------------------------------------- deaths


def test_a_worker_that_is_killed_takes_nothing_with_it(ray: object, tmp_path: Path) -> None:
    store, pids = tmp_path / "a.jsonl", tmp_path / "pids"
    pids.mkdir()

    def slowly(prompt: str) -> None:
        (pids / str(os.getpid())).touch()
        time.sleep(0.02)

    def kill(done: int, total: int, outcome: Outcome) -> None:
        if done == 8:
            os.kill(int(next(pids.iterdir()).name), signal.SIGKILL)

    results = xt.run(meddling(slowly), PROMPTS, SAMPLER, store=store, cluster=TWO, concurrency=3, progress=kill)
    assert all(map(same, results, xt.run(build(), PROMPTS, SAMPLER)))
    assert set(ids(store).values()) == {1}
    assert len(ids(store)) == 32


def test_a_prompt_that_kills_its_worker_fails_and_no_other(ray: object, tmp_path: Path) -> None:
    store, seen = tmp_path / "a.jsonl", tmp_path / "seen"

    def die(prompt: str) -> None:
        if prompt == "prompt 2":
            with seen.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)

    results = xt.run(meddling(die), PROMPTS[:12], SAMPLER, store=store, cluster=TWO, concurrency=3)
    assert seen.read_text() == "xxx"
    failure = results.pop(2)
    assert isinstance(failure, Failure)
    assert failure.error == "ClusterError"
    assert "its worker died 3 times while it was under way, at last alone: its worker process has died" in failure.message
    assert all(map(same, results, xt.run(build(), PROMPTS[:2] + PROMPTS[3:12], SAMPLER)))
    assert set(ids(store).values()) == {1}
    assert len(ids(store)) == 12


def test_a_run_without_workers_says_how_to_go_on(ray: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_DEATHS", 2)

    def doomed() -> Target:
        os.kill(os.getpid(), signal.SIGKILL)
        return build()

    with pytest.raises(ClusterError, match=r"no worker is left, each died 2 times .* start it again to resume"):
        xt.run(doomed, PROMPTS, SAMPLER, cluster=Cluster(workers=1))


# ------------------------------------------------------------------------------------------------------------- errors


def test_trouble_of_the_model_ends_the_run(ray: object) -> None:
    def broken() -> Target:
        raise ModelError("the folder models/x holds no model: give another")

    with pytest.raises(ModelError, match=r"^the folder models/x holds no model: give another$"):
        xt.run(broken, PROMPTS, SAMPLER, cluster=Cluster(workers=1))


def test_workers_must_draw_from_one_law(ray: object, tmp_path: Path) -> None:
    def either() -> Target:
        try:
            (tmp_path / "first").touch(exist_ok=False)
        except FileExistsError:
            return Target(table(2.0), reward, beta=0.5)
        return build()

    with pytest.raises(ClusterError, match=r"would not draw from the same distribution \(engine.temperature: (1 → 2|2 → 1)\)"):
        xt.run(either, PROMPTS * 100, SAMPLER, cluster=TWO)


def test_what_cannot_work_is_said(ray: object, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="give a function without arguments that makes the target"):
        xt.run(build(), PROMPTS, SAMPLER, cluster=TWO)
    lock = Lock()
    with pytest.raises(TargetError, match=r"cannot be sent to the workers .*lock"):
        xt.run(meddling(lambda prompt: lock.release()), PROMPTS, SAMPLER, cluster=TWO)
    with pytest.raises(ClusterError, match=r"no machine .* has room for a worker with cpus=1 and gpus=1 .*2 CPUs and 0 GPUs"):
        xt.run(build, PROMPTS, SAMPLER, cluster=Cluster(gpus=1))


def test_addresses_where_nobody_answers() -> None:
    found = pytest.importorskip("ray")
    with pytest.raises(ClusterError, match=r"no Ray cluster at '127.0.0.1:1' .*refused.*start one with"):
        _start(found, {"address": "127.0.0.1:1"})


def test_ray_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"pip install .*\[ray\]'"):
        xt.run(build, PROMPTS, SAMPLER, cluster=TWO)


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"gpus": -1}, {"cpus": 0}, {"attempts": 0}])
def test_ranges_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        Cluster(**wrong)  # type: ignore[arg-type]


def test_room_of_a_machine() -> None:
    machine = {"CPU": 16.0, "GPU": 2.0, "memory": 1e9}
    assert fits(machine, cpus=1, gpus=0) == 16
    assert fits(machine, cpus=6, gpus=0) == 2
    assert fits(machine, cpus=1, gpus=1) == 2
    assert fits(machine, cpus=1, gpus=0.1) == 16
    assert fits({"CPU": 16.0}, cpus=1, gpus=1) == 0
