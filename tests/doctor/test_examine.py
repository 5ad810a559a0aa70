"""From pilot to advice: what is suggested reaches what was wanted, accuracies, goals out of reach, and the docs' snippets."""

from __future__ import annotations

import math
import re
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from exptilt.answers import exact
from exptilt.doctor import Examination, Goal, examine
from exptilt.draft import Draft
from exptilt.engines import TableEngine
from exptilt.errors import RewardError, TargetError
from exptilt.evaluation.tasks import Task
from exptilt.rewards import Agreement, RunningMajority
from exptilt.running.result import Result
from exptilt.running.run import run
from exptilt.samplers import Independent
from exptilt.testing.toys import autoregressive
from tests.doctor import tables

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = tuple(f"prompt {number}" for number in range(12))
HEADS = tables.of_tokens(sum)


def warned(found: Examination, words: str) -> bool:
    return any(words in sentence for sentence in found.warnings)


# ------------------------------------------------------------------------------------------------ β, draws and cost


def test_the_suggested_sampler_reaches_the_wanted_draws() -> None:
    """300 runs on a table: by the variance of Ẑ and, for independent draws, by the populations' own ESS."""
    toy = autoregressive(4, symbols=3, cap=6)
    found = examine(toy.target.engine, toy.target.reward, PROMPTS, Goal(ess=10, beta=1.0), draws=200, concurrency=1)
    assert found.plan is not None
    assert isinstance(found.plan.sampler, Independent)
    outcomes = run(toy.target, [f"run {number}" for number in range(300)], found.plan.sampler, seed=7, concurrency=1)
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    estimates = np.array([math.exp(result.log_z or -math.inf) for result in results]) / toy.z
    assert (1 - tables.ess_share(toy)) / np.mean((estimates - 1) ** 2) == pytest.approx(10, rel=0.25)
    assert np.mean([result.population.ess for result in results]) == pytest.approx(10, rel=0.25)
    bill = found.bill(found.plan, 300)
    assert bill.tokens == pytest.approx(sum(result.usage.tokens for result in results), rel=0.05)
    assert bill.rated == 300 * found.plan.sampler.n
    assert bill.seconds > 0


def test_the_worth_of_beginnings_is_said() -> None:
    """The first four of 16 tosses decide the reward, or the last four: only the first can be guided by."""
    early, late = (tables.of_tokens(lambda tokens, part=part: sum(tokens[part])) for part in (slice(0, 4), slice(12, 16)))
    guided = examine(tables.coin(16), early, PROMPTS, Goal(beta=0.5), draws=100, concurrency=1)
    assert "samplers that guide by prefixes (ets, smc) may need fewer tokens" in guided.why
    blind = examine(tables.coin(16), late, PROMPTS, Goal(beta=0.5), draws=100, concurrency=1)
    assert "there is nothing to guide by" in blind.why


def test_beta_for_a_kl_a_share_or_none() -> None:
    def at(**goal: float) -> Examination:
        return examine(tables.coin(8), HEADS, PROMPTS[:6], Goal(**goal), draws=100, concurrency=1)

    found = at(kl=0.5)
    assert found.beta is not None
    assert found.kl is not None
    assert found.kl.value == pytest.approx(0.5, abs=0.01)
    assert found.beta.low < found.beta.value < found.beta.high
    assert found.best_of is not None
    halved = at(share=0.5)
    assert halved.share is not None
    assert halved.share.value == pytest.approx(0.5, abs=0.01)
    usual = at()
    assert usual.kl is not None
    assert usual.kl.value == pytest.approx(1.0, abs=0.01)
    fixed = at(beta=2.0)
    assert fixed.beta == (2.0, 2.0, 2.0)


def test_a_kl_that_the_pilot_cannot_show_is_said() -> None:
    found = examine(tables.coin(8), tables.of_tokens(lambda tokens: tokens[0]), PROMPTS[:6], Goal(kl=3.0), draws=20)
    assert found.kl is not None
    assert found.kl.value < math.log(2)
    assert warned(found, "A KL (nats) of 3 cannot be had, or not be told, from 20 draws")


def test_the_tokens_that_a_reward_takes_for_itself_are_billed() -> None:
    found = examine(tables.coin(4), Agreement(exact, pilot=10), PROMPTS[:4], draws=16, concurrency=1)
    assert found.speed.binding == 40
    assert found.plan is not None
    assert found.bill(found.plan, 3).tokens == pytest.approx(3 * (found.plan.tokens + 40))


def test_an_engine_that_cannot_continue_tells_nothing_of_beginnings() -> None:
    found = examine(tables.whole_responses_only(tables.coin(6)), HEADS, PROMPTS, draws=16, concurrency=1)
    assert found.plan is not None
    assert (found.explained, found.why) == ((), "")


@pytest.mark.parametrize(("size", "said"), [(2, "Rejection with a block"), (3, "SMC(4, block=")])
def test_a_bound_that_shows_losses_decides_by_how_often_a_draw_succeeds(size: int, said: str) -> None:
    """A quarter of two tosses are heads twice, an eighth of three: between them is the 15 % at which abort and a filter cost
    the same."""
    found = examine(tables.coin(size), tables.AllHeads(), PROMPTS, Goal(beta=0.1), draws=64, concurrency=1)
    assert said in found.why
    assert "of the draws without weight to be lost" in found.why
    assert len(found.lost) == 3


def test_the_same_seed_gives_the_same_examination() -> None:
    first, again, other = (
        examine(tables.coin(6), HEADS, PROMPTS[:3], seed=seed, concurrency=jobs) for seed, jobs in ((1, 1), (1, 3), (2, 1))
    )
    assert (first.beta, first.plan, first.findings) == (again.beta, again.plan, again.findings)
    assert first.beta != other.beta


# -------------------------------------------------------------------------------------------------------- accuracies


def task(prompts: int = 12) -> Task:
    """Right is what begins with two ones; the answer that votes count is the first two tosses."""
    names = PROMPTS[:prompts]
    return Task("tosses", names, ("1 1",) * prompts, lambda text: text[:3], lambda text, right: text.startswith(right), 6)


def test_the_fewest_draws_for_an_accuracy() -> None:
    """A quarter of the draws is right and the reward finds them: 1 - 0.75^k ≥ 0.8 from k = 8 among powers of two."""
    found = examine(
        tables.coin(6), tables.of_tokens(lambda tokens: tokens[:2] == (1, 1)), PROMPTS, Goal(accuracy=0.8), draws=64, task=task(),
        concurrency=1,
    )  # fmt: skip
    assert found.plan is not None
    assert (found.plan.sampler, found.select) == (Independent(8), "best")
    assert found.curve[3].best == pytest.approx(1 - 0.75**8, abs=0.1)
    assert found.curve[3].passed == pytest.approx(found.curve[3].best)
    assert "best of 8 solves" in found.why


def test_an_accuracy_out_of_reach_is_said() -> None:
    found = examine(tables.coin(6), HEADS, PROMPTS, Goal(accuracy=1.0), draws=8, task=task(), concurrency=1)
    assert "An accuracy of 100% is out of reach of 8 draws; one of them is right on" in found.why


# ---------------------------------------------------------------------------------------------------------- warnings


def test_a_sound_reward_gives_no_warnings() -> None:
    engine = TableEngine(lambda prefix: np.array([0.4, 0.4, 0.2]), 40, 2)
    found = examine(engine, tables.of_tokens(lambda tokens: tokens[0] == 1), PROMPTS, Goal(beta=1.0), draws=64)
    assert found.warnings == ()
    assert found.checks.partial is True
    assert (found.checks.changed, found.checks.alone, found.checks.rated) == (0.0, 0.0, 8)


def test_a_reward_that_changes_its_mind() -> None:
    tick = count()
    found = examine(tables.coin(6), lambda prompt, drafts: [float(next(tick) % 7) for _ in drafts], PROMPTS[:5], draws=16)
    assert found.checks.changed > 0
    assert warned(found, "no fixed target exists")


def test_a_reward_that_looks_at_the_other_drafts() -> None:
    def rank(prompt: str, drafts: list[Draft]) -> list[float]:
        heads = [sum(draft.tokens) for draft in drafts]
        return [float(sum(other < mine for other in heads)) for mine in heads]

    found = examine(tables.coin(6), rank, PROMPTS[:5], draws=16)
    assert found.checks.changed == 0
    assert warned(found, "depends on what is rated with it")


def test_a_reward_of_length() -> None:
    engine = autoregressive(3, symbols=3, cap=12).target.engine
    found = examine(engine, tables.of_tokens(len), PROMPTS[:5], draws=16)
    assert found.findings.drift == pytest.approx(1.0)
    assert warned(found, "The reward follows length (correlation +1.00): tilting by it makes responses longer")


def test_a_reward_that_refuses_unfinished_drafts() -> None:
    def finished(prompt: str, drafts: list[Draft]) -> list[float]:
        if any(draft.finish is None for draft in drafts):
            raise ValueError("not finished")
        return [float(sum(draft.tokens)) for draft in drafts]

    assert examine(tables.coin(6), finished, PROMPTS[:5], draws=16).checks.partial is False


def test_flat_poor_excluded_and_capped() -> None:
    def mixed(prompt: str, drafts: list[Draft]) -> list[float]:
        number = int(prompt.split()[1])
        if number < 2:
            return [5.0 if number else -5.0] * len(drafts)
        return [float(draft.tokens[0]) if draft.tokens[1] and draft.tokens[2] else -math.inf for draft in drafts]

    found = examine(tables.coin(6), mixed, PROMPTS[:4], draws=32)
    assert (found.findings.flat, found.findings.poor) == (2, 1)
    assert found.findings.excluded == pytest.approx(0.375, abs=0.1)
    assert found.findings.capped == 1.0
    assert warned(found, "On 2 of 4 prompts all draws have the same reward")
    assert warned(found, "1 prompt has no draw as good as the mean of all 4")
    assert warned(found, "100% of the responses hit the cap of 6 tokens")
    assert warned(found, "The intervals come from 2 prompts")


def test_nothing_to_tilt_by() -> None:
    found = examine(tables.coin(6), tables.of_tokens(lambda tokens: 1.0), PROMPTS[:3], Goal(accuracy=0.5), task=task(3), draws=8)
    assert (found.beta, found.plan) == (None, None)
    assert found.curve[0].passed == pytest.approx(0.25, abs=0.25)
    assert warned(found, "there is nothing to tilt by")


def test_everything_is_excluded() -> None:
    found = examine(tables.coin(6), tables.of_tokens(lambda tokens: -math.inf), PROMPTS[:2], draws=8)
    assert found.beta is None
    assert math.isnan(found.findings.mean)
    assert warned(found, "The reward excludes 100% of the draws")


def test_a_pilot_too_small_for_its_beta() -> None:
    found = examine(tables.coin(12), HEADS, PROMPTS, Goal(beta=0.3), draws=32, concurrency=1)
    assert warned(found, "The pilot is too small for β = 0.3")


def test_prompts_that_fail_are_left_out_and_told() -> None:
    def moody(prompt: str, drafts: list[Draft]) -> list[float]:
        return [math.nan if prompt == "prompt 1" else float(sum(draft.tokens)) for draft in drafts]

    found = examine(tables.coin(6), moody, PROMPTS[:6], draws=8)
    assert found.findings.prompts == 5
    assert warned(found, "1 of 6 prompts failed, 1 with RewardError: reward")
    with pytest.raises(RewardError, match="returned nan"):
        examine(tables.coin(6), moody, PROMPTS[1:2], draws=8)


def test_a_budget_is_kept_and_told() -> None:
    found = examine(tables.coin(6), HEADS, PROMPTS[:4], draws=32, tokens=400)
    assert found.speed.tokens <= 400 + 4 * 8 * 6  # one call more for each prompt
    assert warned(found, "The budget of tokens ended the pilot of 4 prompts early")


def test_what_is_refused() -> None:
    with pytest.raises(TargetError, match="RunningMajority changes while it is used"):
        examine(tables.coin(6), RunningMajority(exact), PROMPTS)
    with pytest.raises(ValueError, match="give at most one"):
        Goal(beta=1.0, kl=1.0)
    with pytest.raises(ValueError, match=r"accuracy=1\.5"):
        Goal(accuracy=1.5)
    with pytest.raises(ValueError, match="ess=0"):
        Goal(ess=0)


# -------------------------------------------------------------------------------------------------------------- docs


def test_the_snippets_of_the_docs_run(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "doctor.md").read_text(), flags=re.DOTALL)
    exec(compile(block, "docs/doctor.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) >= 3
