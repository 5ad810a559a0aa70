"""Traces by the type of their record: kept in a results file, read from files of before they had types, drawn by the report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import exptilt as xt
from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.keys import Key
from exptilt.populations.population import Population
from exptilt.report import write_report
from exptilt.running.lines import decode, from_line
from exptilt.running.result import Result
from exptilt.running.store import read_store
from exptilt.samplers.trace import Chain, Generations, Step, Trace, Tree
from tests.report.stores import SAMPLERS, Page, reward, target

OLD = Path(__file__).parent / "data" / "before_traces"  # made at commit 0af91df, with SAMPLERS on the table of `target`
PROMPTS = ["prompt 0", "prompt 1"]
KINDS = {"ets": Tree, "chain": Tree, "smc": Generations, "qalign": Chain, "pimh": Chain, "plain": type(None)}
SELECT = xt.vote(xt.answers.number)


def fresh(name: str) -> list[Result]:
    results = [result for result in xt.run(target(), PROMPTS, SAMPLERS[name], select=SELECT) if isinstance(result, Result)]
    assert len(results) == len(PROMPTS)
    return results


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_trace_comes_back_from_a_file_as_it_was(name: str, tmp_path: Path) -> None:
    store = tmp_path / "a.jsonl"
    drawn = xt.run(target(), PROMPTS, SAMPLERS[name], select=SELECT, store=store)
    read = xt.run(target(), PROMPTS, SAMPLERS[name], select=SELECT, store=store)
    for before, after in zip(drawn, read, strict=True):
        assert isinstance(before, Result)
        assert isinstance(after, Result)
        assert type(before.population.trace) is KINDS[name]
        assert after.population.trace == before.population.trace
        assert after.trace == before.trace


def told(line: Mapping[str, Any]) -> list[Any]:
    """What the untyped stats of a line tell, in the order of the run: steps, generations, or the last numbers of a chain."""
    stats = [entry["stats"] for entry in line["trace"]]
    records = [record for each in stats for record in [*each.get("earlier", ()), each] if "step" in record]
    steps = {record["step"]: record for record in records}
    return [steps[number] for number in sorted(steps)] or stats[-1].get("generations") or [stats[-1]]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_file_from_before_traces_had_types_is_read_as_today(name: str, tmp_path: Path) -> None:
    """Each population's "stats" told of its own step; the tree of a run is put together from all of them."""
    settings, lines = read_store(OLD / f"{name}.jsonl")
    assert settings["sampler"]["type"] == type(SAMPLERS[name]).__name__
    for line in lines.values():
        old = from_line(line, SAMPLERS[name], 0)
        assert isinstance(old, Result)
        trace = old.population.trace
        assert type(trace) is KINDS[name]
        records = trace.steps if isinstance(trace, Tree) else trace.generations if isinstance(trace, Generations) else [trace]
        for record, values in zip(records, told(line), strict=True):
            known = {} if record is None else json.loads(json.dumps(asdict(record)))  # pyright: ignore[reportArgumentType]
            assert {key: value for key, value in known.items() if key in values} == {
                key: value for key, value in values.items() if key not in ("step", "earlier")
            }
        if isinstance(trace, Generations):
            assert trace.resampled == line["trace"][-1]["stats"]["resampled"]
        if isinstance(trace, Chain):
            assert (trace.chains, trace.burn_in) == ((2, 2) if name == "qalign" else (1, 0))
            assert trace.runs == (name == "pimh")
        np.testing.assert_array_equal(old.population.log_w, line["population"]["log_w"])
        assert all("stats" not in entry for entry in old.trace)
    shown = Page(write_report([OLD / f"{name}.jsonl"], tmp_path / "report.html")).detail(0, 0)
    assert ("tree" in shown, "chain" in shown) == {Tree: (True, False), Generations: (True, False), Chain: (False, True)}.get(
        KINDS[name], (False, False)
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_file_from_before_traces_had_types_is_resumed(name: str, tmp_path: Path) -> None:
    """Its first prompt is read, not drawn again; the second is written in today's form into the same file."""
    store = tmp_path / "a.jsonl"
    xt.run(target(), [], SAMPLERS[name], select=SELECT, store=store)
    header = store.read_text()  # of today: how code is described may differ between versions
    old = (OLD / f"{name}.jsonl").read_text().splitlines()[1]
    store.write_text(header + old + "\n")
    first, second = xt.run(target(), PROMPTS, SAMPLERS[name], select=SELECT, store=store)
    assert isinstance(first, Result)
    assert isinstance(second, Result)
    assert first.usage.seconds == decode(old)["usage"]["seconds"]
    lines = store.read_text().splitlines()[1:]
    assert len(lines) == 2
    assert lines[0] == old
    assert type(first.population.trace) is KINDS[name]
    assert second.population.trace == fresh(name)[1].population.trace
    Page(write_report([store], tmp_path / "report.html"))


# --------------------------------------------------------------------------------------------------- foreign samplers


@dataclass(frozen=True)
class Foreign:
    """Somebody's sampler: it draws one response and tells the trace it was given."""

    told: Trace | None
    weighted: ClassVar[bool] = True

    def needs(self, target: Target) -> frozenset[str]:
        return frozenset()

    def __call__(self, target: Target, prompt: str, key: Key) -> Iterator[Population]:
        drafts = target.law.extend([target.law.start(prompt)] * 4, [key.child(number) for number in range(4)])
        yield Population(drafts, np.full(4, -np.log(4.0)), target.rate(prompt, drafts), trace=self.told)


def shown(told: Trace | None, folder: Path) -> dict:
    run = xt.run(Target(target().engine, reward, 0.5), ["why?"], Foreign(told), select=xt.best, store=folder / "a.jsonl")
    assert isinstance(run[0], Result)
    return Page(write_report([folder / "a.jsonl"], folder / "report.html")).detail(0, 0)


def test_a_tree_of_another_sampler_is_drawn_as_a_tree(tmp_path: Path) -> None:
    """The report once asked for the name "ETS", so other guided chains were shown without their trees."""
    tree = Tree((Step(("a", "b"), (0.0, 1.0), 1, 0.5, (2, 2), 0),))
    drawn = shown(tree, tmp_path)["tree"]
    assert drawn["kind"] == "candidates"
    assert [card.get("rollouts") for card in drawn["columns"][0]["cards"]] == [[0, 2], [2, 2]]
    assert [card.get("path", False) for card in drawn["columns"][0]["cards"]] == [False, True]


def test_generations_and_chains_of_another_sampler_are_drawn_as_such(tmp_path: Path) -> None:
    particles = Generations().grown([Draft("why?", text="a"), Draft("why?", text="b")], None, np.zeros(2), np.zeros(2))
    (tmp_path / "g").mkdir()
    (tmp_path / "c").mkdir()
    assert shown(particles, tmp_path / "g")["tree"]["kind"] == "particles"
    assert shown(Chain(0.5, None, chains=2, burn_in=1), tmp_path / "c")["chain"] == {"chains": 2, "burn_in": 1, "steps": 2}


def test_a_record_of_somebodys_own_is_kept_as_values(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Notes:
        heights: tuple[float, ...]

    store = tmp_path / "a.jsonl"
    told = Foreign(Notes((1.0, float("inf"))))  # pyright: ignore[reportArgumentType]
    xt.run(target(), ["why?"], told, select=xt.best, store=store)
    how = decode(store.read_text().splitlines()[1])["how"]
    assert how["heights"] == [1.0, float("inf")]
    assert how["type"].endswith("Notes")
    assert json.loads(store.read_text().splitlines()[1])
    again = xt.run(target(), ["why?"], told, select=xt.best, store=store)[0]
    assert isinstance(again, Result)
    assert again.population.stats["heights"] == [1.0, float("inf")]
    Page(write_report([store], tmp_path / "report.html"))


def test_what_is_no_record_is_refused() -> None:
    draft = [Draft("x", (1,), text="a", finish="stop")]
    for wrong in ("accepted: 3", 3, Chain):
        with pytest.raises(TypeError, match="frozen dataclass"):
            Population(draft, np.zeros(1), np.zeros(1), trace=wrong)
    assert Population(draft, np.zeros(1), np.zeros(1)).stats == {}


def test_the_fields_of_a_trace_are_read_by_name_too() -> None:
    """Scripts read `population.stats["acceptance"]` before traces had types."""
    population = list(xt.SuffixMCMC(5)(target(), "x", Key(0)))[-1]
    assert isinstance(population.trace, Chain)
    assert population.stats["acceptance"] == population.trace.acceptance
