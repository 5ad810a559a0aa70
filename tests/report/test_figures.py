"""Accuracy, calibration, curves and warnings over the prompts of a file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import exptilt as xt
from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.engines import TableEngine
from exptilt.evaluation.cost import Parameters, mean_cost
from exptilt.keys import Key
from exptilt.populations.population import Population
from exptilt.report import write_report
from exptilt.report.figures import summary
from exptilt.report.methods import Method, collect
from exptilt.running.lines import decode, encode
from exptilt.testing.toys import random_table
from tests.report.stores import PROMPTS, Page, lines, target


def known_store(path: Path, shares: Sequence[float], tokens: int = 10) -> Path:
    """A results file whose prompts have the answers 1 and 2, the first with these weights; made by a real run, then edited."""
    prompts = [f"question {number}" for number in range(len(shares))]
    xt.run(target(), prompts, xt.Independent(2), store=path, select=xt.vote(xt.answers.number))
    header, *rows = path.read_text().splitlines()
    edited = {}
    for row in map(decode, rows):
        share = shares[prompts.index(row["prompt"])]
        row["posterior"] = [["1", share], ["2", 1 - share]]
        for draft in (row["draft"], row["population"]["drafts"][0]):
            draft["text"] = row["text"] = "#### 1"
        row["usage"]["reference"]["generated"] = tokens
        edited[row["prompt"]] = encode(row)
    path.write_text("\n".join([header, *(edited[prompt] for prompt in prompts)]) + "\n")
    return path


def referred(methods: Sequence[Method], references: Mapping[str, str]) -> list[Method]:
    return [method.referred(references, None) for method in methods]


def test_accuracy_and_calibration_by_hand(tmp_path: Path) -> None:
    """Four answers of weight 0.9, three of them right, and two of 0.6, both right: gaps of 0.15 and 0.4."""
    store = known_store(tmp_path / "a.jsonl", [0.9, 0.9, 0.9, 0.9, 0.6, 0.6])
    references = {f"question {number}": "2" if number == 0 else "the answer is 1.0" for number in range(6)}
    (figures,) = summary(referred(collect([store]), references), xt.answers.number)
    assert figures["accuracy"]["value"] == pytest.approx(5 / 6)
    assert figures["cost"]["tokens"] == 10
    low, high = figures["calibration"]["bins"]
    assert (low["share"], low["accuracy"], low["n"]) == (pytest.approx(0.6), 1.0, 2)
    assert (high["share"], high["accuracy"], high["n"]) == (pytest.approx(0.9), 0.75, 4)
    assert figures["calibration"]["error"] == pytest.approx((4 * 0.15 + 2 * 0.4) / 6)
    assert figures["calibration"]["brier"] == pytest.approx((3 * 0.1**2 + 0.9**2 + 2 * 0.4**2) / 6)


def test_flops_are_those_of_the_results(tmp_path: Path) -> None:
    """The same as `exptilt eval` makes of the results; what a file does not keep is not guessed; nothing without parameters."""
    parameters = Parameters(1e6, 1e3, 10)
    law = replace(target(), proposal=TableEngine(random_table(4, 4), 6, 3))
    results = xt.run(law, PROMPTS, xt.ETS(3, 2, 2), store=tmp_path / "a.jsonl")
    xt.run(law, PROMPTS, xt.ETS(3, 2, 2), store=tmp_path / "b.jsonl", store_population=False)
    whole, bare = collect([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    wanted = mean_cost([result for result in results if isinstance(result, xt.Result)]).flops(parameters)
    assert min(wanted) > 0
    ours, theirs = summary([whole, bare], xt.answers.number, [parameters] * 2)
    assert ours["flops"] == pytest.approx(wanted)
    assert theirs["flops"] == [*map(pytest.approx, wanted[:2]), None]
    (modelless,) = summary([bare], xt.answers.number, [replace(parameters, reward=0)])
    assert modelless["flops"][2] == 0
    assert summary([whole], xt.answers.number)[0]["flops"] is None


def test_parameters_are_not_those_of_other_models(tmp_path: Path) -> None:
    law, files = target(), [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for file, name in zip(files, ("small", "large"), strict=True):
        xt.run(replace(law, engine=TableEngine(random_table(3, 4), 6, 3, name=name)), PROMPTS, xt.Independent(2), store=file)
        header, *rows = file.read_text().splitlines()
        file.write_text("\n".join([header.replace('"engine": {', f'"engine": {{"model": "{name}", '), *rows]) + "\n")
    with pytest.raises(ValueError, match=r"b.jsonl and .*a.jsonl are of other models .*'large'.* give the parameters of each"):
        write_report(files, tmp_path / "page.html", parameters=[Parameters(1e6)])
    with pytest.raises(ValueError, match="3 sets of parameters for 2 results files"):
        write_report(files, tmp_path / "page.html", parameters=[Parameters(1e6)] * 3)
    made = Page(write_report(files, tmp_path / "page.html", parameters=[Parameters(1e6), Parameters(2e6)]))
    small, large = (method["flops"][0] for method in made.data["overview"]["methods"])
    assert large == pytest.approx(2 * small, rel=1e-4)


def test_curves_end_where_the_vote_of_the_run_is(stores: list[Path]) -> None:
    """At the last cap every prompt has spent all its tokens, so the vote is the run's own; accuracy never uses more."""
    read = xt.answers.exact
    for method in collect(stores):
        votes = {
            line["prompt"]: next((str(a) for a, _ in line["posterior"] if a is not None), "none")
            for line in method.lines.values()
        }
        references = {prompt: vote if number % 2 else "no" for number, (prompt, vote) in enumerate(votes.items())}
        (figures,) = summary(referred([method], references), read)
        if figures["curve"]:
            spent, accuracy = figures["curve"][-1]
            assert (spent, accuracy) == (pytest.approx(figures["cost"]["tokens"]), pytest.approx(0.5))
            assert [point[0] for point in figures["curve"]] == sorted(point[0] for point in figures["curve"])
    curves = {figures["name"]: len(figures["curve"]) for figures in summary(referred(collect(stores), {PROMPTS[0]: "1"}), read)}
    assert [name for name, count in curves.items() if count] == ["ets", "qalign", "pimh", "plain"]


def test_a_curve_goes_over_first_draws_that_are_all_excluded(tmp_path: Path) -> None:
    """The vote of the first draw alone raised AllWeightsZero, and no report was made of a run with a hard constraint."""

    def constrained(prompt: str, drafts: Sequence[Draft]) -> list[float]:
        return [0.0 if draft.tokens[0] == draft.tokens[-1] == 1 else -math.inf for draft in drafts]

    law = Target(TableEngine(random_table(3, 4), 5, 3), constrained, 0.5)
    file = tmp_path / "a.jsonl"
    prompts = [f"p{number}" for number in range(8)]
    results = xt.run(law, prompts, xt.Independent(64), select=xt.vote(xt.answers.exact), store=file)
    assert any(result.population.log_w[0] == -math.inf for result in results if isinstance(result, xt.Result))
    read = xt.answers.exact
    (figures,) = summary(referred(collect([file]), dict.fromkeys(prompts, "no")), read)
    assert [accuracy for _, accuracy in figures["curve"]] == [0.0] * len(figures["curve"]) != []


@dataclass(frozen=True)
class Halves:
    """Somebody's sampler: two populations, of which the second keeps the first one's drafts or begins anew."""

    keeps: bool
    weighted: ClassVar[bool] = True

    def needs(self, target: Target) -> frozenset[str]:
        return frozenset()

    def __call__(self, target: Target, prompt: str, key: Key) -> Iterator[Population]:
        drafts = target.law.extend([target.law.start(prompt)] * 6, [key.child(number) for number in range(6)])
        for some in (drafts[:2], drafts if self.keeps else drafts[2:]):
            yield Population(some, np.full(len(some), -math.log(len(some))), target.rate(prompt, some))


@pytest.mark.parametrize("keeps", [True, False])
def test_another_sampler_has_a_curve_where_its_populations_grow(keeps: bool, tmp_path: Path) -> None:
    """Curves were once drawn by the sampler's name, so other people's samplers had none."""
    xt.run(target(), PROMPTS, Halves(keeps), store=tmp_path / "a.jsonl")
    (figures,) = summary(referred(collect([tmp_path / "a.jsonl"]), dict.fromkeys(PROMPTS, "1")), xt.answers.number)
    assert bool(figures["curve"]) == keeps


def moody(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    return [math.nan if prompt == PROMPTS[1] else 1.0 for _ in drafts]


def test_failures_count_as_wrong_and_targets_that_differ_are_told(tmp_path: Path, stores: list[Path]) -> None:
    broken = Target(target().engine, moody, beta=0.25)
    results = xt.run(broken, PROMPTS, xt.Independent(3), store=tmp_path / "b.jsonl", budget=xt.Budget(tokens=10_000))
    references = {r.prompt: xt.answers.number(r.text) or "none" for r in results if isinstance(r, xt.Result)} | {PROMPTS[1]: "1"}
    made = Page(write_report([stores[0], tmp_path / "b.jsonl"], tmp_path / "report.html", references=references))
    ours, theirs = made.data["overview"]["methods"]
    assert (theirs["failed"], theirs["answered"]) == (1, 5)
    assert theirs["accuracy"]["n"] == 6
    assert theirs["accuracy"]["value"] < 1
    assert (ours["differs"], theirs["differs"]) == ([], ["reward", "beta"])
    row = next(number for number, prompt in enumerate(made.data["overview"]["prompts"]) if prompt["prompt"] == PROMPTS[1])
    assert made.detail(row, 1)["error"] == "RewardError"
    assert made.data["overview"]["prompts"][row]["by"][1]["right"] is False
    assert [prompt["prompt"] for prompt in made.data["overview"]["prompts"]] == list(references)


def test_warnings_are_joined_by_their_words(page: Page, stores: list[Path]) -> None:
    kinds = page.data["overview"]["warnings"]
    assert len(kinds) == len(set(kinds))
    assert not any(re.search(r"\d", kind) for kind in kinds)
    for place, store in enumerate(stores):
        for prompt in page.data["overview"]["prompts"]:
            line = next(line for line in lines(store) if line["id"] == prompt["id"])
            assert len(prompt["by"][place]["warnings"]) == len(line["warnings"])
