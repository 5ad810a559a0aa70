"""Sessions: what is counted, what is refused, what is remembered, and what the trace tells."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from threading import Event

import pytest

from exptilt import answers
from exptilt.core import Engine, Reward, Sampler, Target
from exptilt.draft import Draft
from exptilt.engines import MaskedTableEngine, TableEngine
from exptilt.errors import BudgetSpent, Cancelled, PromptError
from exptilt.keys import Key
from exptilt.rewards import Agreement, LogProb, RunningMajority
from exptilt.running.foresight import foresee
from exptilt.running.session import Session
from exptilt.samplers import ETS, SMC, Independent, Metropolised, SuffixMCMC
from exptilt.testing.toys import random_fill, random_table
from exptilt.usage import Budget

KEY = Key(0, "test")
SAMPLERS: list[Sampler] = [
    Independent(6, batch=2),
    ETS(3, 2, 2),
    SuffixMCMC(6, chains=2),
    SMC(4, 2),
    Metropolised(ETS(2, 1, 2), 4),
]


@dataclass
class Recorder:
    """A reward that remembers each call; it counts the tokens."""

    calls: list[list[Draft]] = field(default_factory=list)
    seconds: float = 0.0

    def __call__(self, prompt: str, drafts: Sequence[Draft]) -> list[float]:
        self.calls.append(list(drafts))
        time.sleep(self.seconds)
        return [draft.decided / 4 for draft in drafts]


def engine(seed: int = 3, cap: int = 5) -> TableEngine:
    return TableEngine(random_table(seed, 4), cap, 3)


def session(reward: Reward | None = None, budget: Budget | None = None, proposal: Engine | None = None) -> Session:
    return Session(Target(engine(), reward or Recorder(), 1.0, proposal), "why?", KEY, budget)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_sessions_do_not_change_what_is_drawn(sampler: Sampler) -> None:
    bare = list(sampler(Target(engine(), Recorder(), 1.0), "why?", KEY))[-1]
    metered = session()
    population = metered.run(sampler, KEY)
    assert population.drafts == bare.drafts
    assert population.log_w.tobytes() == bare.log_w.tobytes()
    assert len(metered.trace) == len(list(sampler(Target(engine(), Recorder(), 1.0), "why?", KEY)))


def test_work_of_both_models_is_counted_apart() -> None:
    metered = session(proposal=engine(seed=8))
    population = metered.run(Independent(5), KEY)
    lengths = sum(draft.decided for draft in population.drafts)
    usage = metered.usage
    assert (usage.proposal.generated, usage.proposal.scored) == (lengths, 0)
    assert (usage.reference.generated, usage.reference.scored) == (0, lengths)
    assert usage.tokens == 2 * lengths
    assert usage.reference.forwards == 5
    assert usage.seconds > 0


def test_rewards_are_called_once_for_each_text() -> None:
    reward = Recorder()
    metered = session(reward)
    population = metered.run(SuffixMCMC(20, chains=3), KEY)
    rated = [draft for call in reward.calls for draft in call]
    assert len(rated) == len({draft.tokens for draft in rated}) == metered.usage.rated
    assert metered.usage.reward_calls == len(reward.calls)
    assert metered.usage.rated + metered.usage.reused == 3 * 21
    assert metered.usage.reused > 0
    assert [r * 4 for r in population.rewards] == [draft.decided for draft in population.drafts]


def test_repeats_within_one_call_are_rated_once() -> None:
    reward = Recorder()
    metered = session(reward)
    draft = engine().extend([Draft("why?")], [KEY])[0]
    assert metered.target.rate("why?", [draft, draft, draft]).tolist() == [draft.decided / 4] * 3
    assert (metered.usage.reward_calls, metered.usage.rated, metered.usage.reused) == (1, 1, 2)
    metered.target.rate("why?", [draft])
    assert (metered.usage.reward_calls, metered.usage.reused) == (1, 3)


def test_a_likelihood_reads_each_order_anew() -> None:
    """Two masked drafts with the same tokens in another order have other log-probabilities, so one is not the other's."""
    masked = MaskedTableEngine(random_fill(3, 3), 2)
    metered = Session(Target(masked, LogProb(), 1.0), "why?", KEY)
    drafts = [Draft("why?", (0, 1), None, "0 1", "length", order) for order in ((0, 1), (1, 0))]
    one, other = metered.target.rate("why?", drafts)
    assert one != other
    assert metered.usage.rated == 2


def test_a_moving_reward_is_called_every_time_and_has_no_weights() -> None:
    metered = Session(Target(engine(), RunningMajority(answers.exact), 1.0), "why?", KEY)
    population = metered.run(ETS(3, 2, 2), KEY)
    assert metered.usage.reused == 0
    assert population.log_z is None
    assert population.ess == pytest.approx(len(population))
    assert all(entry["log_z"] is None for entry in metered.trace)


@dataclass(frozen=True)
class Moving:
    """A reward that changes while the sampler runs, and excludes half of the drafts."""

    fixed = False

    def needs(self) -> frozenset[str]:
        return frozenset()

    def bind(self, engine: Engine, prompt: str, key: Key) -> Reward:
        return lambda prompt, drafts: [0.0 if draft.decided % 2 else -math.inf for draft in drafts]


def test_a_moving_reward_that_excludes_drafts_leaves_them_without_weight() -> None:
    """Without a target all weights were made equal, those of excluded drafts too, which were then handed out."""
    metered = Session(Target(engine(), Moving(), 1.0), "why?", KEY)
    population = metered.run(Independent(20), KEY)
    assert 0 < population.excluded < 1
    for draft, weight in zip(population.drafts, population.weights, strict=True):
        assert bool(weight) == bool(draft.decided % 2)
    assert population.ess == pytest.approx(20 * (1 - population.excluded))


def test_the_pilot_of_a_reward_is_paid_for() -> None:
    metered = Session(Target(engine(), Agreement(answers.exact, pilot=9), 1.0), "why?", KEY)
    assert metered.usage.reference.generated >= 9
    before = metered.usage.tokens
    metered.run(Independent(2), KEY)
    assert metered.trace[-1]["tokens"] == metered.usage.tokens > before


def test_a_reward_that_scores_is_paid_for() -> None:
    metered = Session(Target(engine(), LogProb(), 1.0), "why?", KEY)
    population = metered.run(Independent(1), KEY)
    assert metered.usage.reference.scored == population.drafts[0].decided


def test_a_view_of_the_session_engine_counts_in_the_session() -> None:
    from exptilt.usage import Work

    metered, extra = session(), Work()
    metered.target.engine.with_sampling(temperature=2.0).metered(extra).extend([Draft("why?")], [KEY])
    assert extra.generated == metered.usage.reference.generated > 0


def test_the_trace_has_an_entry_for_each_population() -> None:
    metered = session()
    metered.run(Independent(6, batch=2), KEY)
    assert [entry["n"] for entry in metered.trace] == [2, 4, 6]
    assert all(a["tokens"] < b["tokens"] for a, b in zip(metered.trace, metered.trace[1:], strict=False))
    entry = metered.trace[-1]
    assert set(entry) == {"tokens", "seconds", "n", "ess", "max_share", "log_z", "mean_reward", "excluded", "grown"}
    assert 1 <= entry["ess"] <= 6
    assert math.isfinite(entry["log_z"])


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_token_budgets_stop_with_the_last_complete_population(sampler: Sampler) -> None:
    whole = session()
    populations = list(sampler(whole.target, "why?", KEY))
    foreseen = foresee(Target(engine(), Recorder(), 1.0), "why?", sampler)
    assert foreseen is not None
    enough = max(foreseen.first, whole.usage.tokens // 2)
    half = session(budget=Budget(tokens=enough if len(populations) > 1 else whole.usage.tokens // 2))
    if len(populations) == 1:
        with pytest.raises(BudgetSpent, match=r"the budget ended \(tokens: .*larger budget"):
            half.run(sampler, KEY)
        return
    population = half.run(sampler, KEY)
    assert half.limit is not None
    assert half.limit.startswith("tokens")
    assert len(half.trace) < len(populations)
    assert population.drafts == populations[len(half.trace) - 1].drafts


def test_what_was_paid_for_is_still_rated() -> None:
    """A budget of tokens that a call uses up leaves the call's drafts to be rated: rating costs no tokens."""
    masked = MaskedTableEngine(random_fill(3, 3), 4)
    metered = Session(Target(masked, Recorder(), 1.0), "why?", KEY, Budget(tokens=16))
    assert len(metered.run(Independent(4), KEY)) == 4
    assert metered.usage.tokens == 16
    assert metered.limit is None


def test_reward_budgets() -> None:
    reward = Recorder()
    metered = session(reward, Budget(reward_calls=2))
    metered.run(Independent(40, batch=4), KEY)
    assert len(reward.calls) == 2
    assert metered.limit == "reward_calls: 2 of 2"


def test_time_budgets() -> None:
    metered = session(Recorder(seconds=0.02), Budget(seconds=0.05))
    began = time.monotonic()
    metered.run(Independent(4000, batch=40), KEY)
    assert time.monotonic() - began < 2
    assert metered.limit is not None
    assert metered.limit.startswith("seconds")


def test_a_pilot_is_within_the_budget() -> None:
    """A pilot of 88 tokens was drawn under a budget of 2, because a call under way completed."""
    agreement = Target(engine(), Agreement(answers.exact, pilot=9), 1.0)
    with pytest.raises(BudgetSpent, match="while the reward drew its pilot: give a larger budget: tokens=45 lets it be drawn"):
        Session(agreement, "why?", KEY, Budget(tokens=44))
    metered = Session(agreement, "why?", KEY, Budget(tokens=45))
    with pytest.raises(BudgetSpent, match="at the least"):
        metered.run(Independent(400), KEY)
    assert metered.usage.tokens <= 45


def test_a_halted_session_gives_up() -> None:
    halt = Event()
    halt.set()
    metered = Session(Target(engine(), Recorder(), 1.0), "why?", KEY, cancel=halt)
    with pytest.raises(Cancelled):
        metered.run(Independent(4), KEY)


def test_prompts_are_checked_before_the_pilot_is_drawn() -> None:
    target = Target(engine(), Agreement(answers.exact), 1.0)
    with pytest.raises(PromptError, match="empty"):
        Session(replace(target, proposal=engine(seed=8)), "  ", KEY)
