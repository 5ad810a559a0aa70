"""A budget is a cap: no sampler spends more on any engine, and what is refused names the budget that is enough."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Event

import pytest

import exptilt as xt
from exptilt.blocks import BlockSize
from exptilt.cancelling import current
from exptilt.core import Sampler, Target
from exptilt.draft import Draft
from exptilt.engines import MaskedTableEngine, TableEngine
from exptilt.errors import BudgetSpent, Cancelled
from exptilt.keys import Key
from exptilt.names import SAMPLERS, choose_sampler
from exptilt.rewards import LogProb
from exptilt.running.foresight import foresee
from exptilt.running.session import Session
from exptilt.samplers import ETS, SMC, Independent, Rejection, SuffixMCMC
from exptilt.testing.toys import random_fill, random_table
from exptilt.usage import Budget

KEY = Key(0, "caps")


def ones(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    return [draft.tokens.count(1) / 8 for draft in drafts]


def table(seed: int = 3) -> TableEngine:
    return TableEngine(random_table(seed, 4), 8, 3)


MASKED = Target(MaskedTableEngine(random_fill(3, 3), 4), ones, 1.0)  # every draft has its full length
TARGETS = {
    "table": Target(table(), ones, 1.0),
    "masked": MASKED,
    "proposal": Target(table(), ones, 1.0, table(8)),
    "a reward that scores": Target(table(), LogProb(), 1.0),
}


def usual(name: str) -> Sampler:
    """The sampler as the command line starts it, in blocks that make several steps of these short responses."""
    sampler = choose_sampler(name).make({"limit": 40} if name == "rejection" else {})
    return replace(sampler, block=2) if getattr(sampler, "block", None) else sampler  # type: ignore[type-var]


def spent(target: Target, sampler: Sampler, tokens: int) -> tuple[int, str]:
    """What a run under this budget took, and how it ended."""
    session = Session(target, "why?", KEY, Budget(tokens=tokens))
    try:
        session.run(sampler, KEY.child("run"))
    except BudgetSpent as error:
        return session.usage.tokens, str(error)
    return session.usage.tokens, session.stopped


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", SAMPLERS.names)
def test_no_sampler_spends_more(name: str, target: str) -> None:
    """A budget of 5 tokens let 130 be spent: it was asked before each call, and a call under way completed."""
    for tokens in (1, 5, 17, 40, 90, 150, 300):
        took, _ = spent(TARGETS[target], usual(name), tokens)
        assert took <= tokens


@pytest.mark.parametrize("tokens", [5, 40, 150])
def test_nor_on_a_real_model(tokens: int) -> None:
    target = Target(xt.load("tiny", max_tokens=12), lambda prompt, drafts: [len(draft.text) / 50 for draft in drafts], 1.0)
    for sampler in (Independent(8, batch=2), ETS(4, 1, 4), SuffixMCMC(20)):
        assert spent(target, sampler, tokens)[0] <= tokens


@pytest.mark.parametrize("name", SAMPLERS.names)
def test_the_budget_that_is_named_is_the_smallest_that_always_is_enough(name: str) -> None:
    """On an engine whose drafts all reach the cap; where a sampler yields at once, one token less is refused too."""
    _, said = spent(MASKED, usual(name), 1)
    if not (found := re.search(r"tokens=(\d+) is enough for one", said)):
        pytest.fail(said)
    enough = int(found[1])
    assert spent(MASKED, usual(name), enough)[1] in ("budget", "done")
    if name != "rejection":  # which may be lucky
        assert "before" in spent(MASKED, usual(name), enough - 1)[1]


@pytest.mark.parametrize("sampler", [Independent(6, batch=2), ETS(4, 2, 2), SMC(4, 2)])
def test_a_sampler_on_the_stand_in_costs_what_it_costs_at_the_most(sampler: Sampler) -> None:
    """On drafts of full length the cost is that of the stand-in to the token, and on shorter ones below."""
    foreseen = foresee(MASKED, "why?", sampler)
    assert foreseen is not None
    assert spent(MASKED, sampler, 10_000)[0] == foreseen.whole >= foreseen.first
    ragged = foresee(TARGETS["table"], "why?", sampler)
    assert ragged is not None
    assert spent(TARGETS["table"], sampler, 10_000)[0] < ragged.whole


@pytest.mark.parametrize("name", SAMPLERS.names)
def test_no_run_costs_more_than_was_foreseen(name: str) -> None:
    """A chain was foreseen by one set of places to redraw from, and other seeds cost more."""
    for target in (TARGETS["table"], TARGETS["proposal"], MASKED):
        foreseen = foresee(target, "why?", usual(name))
        assert foreseen is not None
        for seed in range(5):
            session = Session(target, "why?", Key(seed, "foresight"))
            session.run(usual(name), Key(seed, "run"))
            assert session.usage.tokens <= foreseen.whole


def test_drafts_of_a_proposal_are_begun_only_where_they_can_be_scored() -> None:
    """Otherwise whether a batch counts would depend on how long its drafts are, and short ones would be kept."""
    target = TARGETS["proposal"]
    assert spent(target, Independent(4), 63)[0] == 0
    took, end = spent(target, Independent(4), 64)
    assert (0 < took <= 64, end) == (True, "done")


def test_which_drafts_are_kept_does_not_depend_on_their_length() -> None:
    """A batch is begun or not before it is drawn: under a budget the drafts are the first ones of a run without."""
    free = xt.sample(TARGETS["table"], "why?", Independent(40, batch=4))
    for tokens in (40, 64, 99):
        capped = xt.sample(TARGETS["table"], "why?", Independent(40, batch=4), budget=Budget(tokens=tokens))
        count = len(capped.population)
        assert capped.population.drafts == free.population.drafts[:count]
        assert tokens - 4 * 8 < sum(draft.decided for draft in capped.population.drafts) <= tokens
        assert capped.stopped == "budget"


def test_caps_hold_in_runs_and_beside_stop_rules() -> None:
    prompts = [f"prompt {number}" for number in range(8)]
    outcomes = xt.run(TARGETS["table"], prompts, Independent(100, batch=3), until=xt.until.reward(2), budget=Budget(tokens=70))
    assert [outcome.stopped for outcome in outcomes if isinstance(outcome, xt.Result)] == ["budget"] * 8
    assert all(outcome.usage is not None and outcome.usage.tokens <= 70 for outcome in outcomes)


# ------------------------------------------------------------------------------------------------------------ seconds


@dataclass(frozen=True)
class Waiting(TableEngine):
    """A model whose calls go on until the run is over."""

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        flag = current()
        while not (flag is not None and flag.is_set()):
            threading.Event().wait(0.005)
        raise Cancelled("the rows left the batch")


WAITING = Target(Waiting(random_table(3, 4), 8, 3), ones, 1.0)


def test_seconds_end_the_engine_call_under_way() -> None:
    """A budget of seconds was asked between calls only, so one slow call could take hours."""
    session = Session(WAITING, "why?", KEY, Budget(seconds=0.05))
    with pytest.raises(BudgetSpent, match=r"the budget ended \(seconds: 0\.\d+ of 0.05\) before Independent"):
        session.run(Independent(4), KEY)


def test_seconds_end_the_reward_call_under_way() -> None:
    """What was rated before is the result."""
    calls, forever = list[int](), Event()

    def stuck(prompt: str, drafts: Sequence[Draft]) -> list[float]:
        calls.append(len(drafts))
        if len(calls) == 3:
            forever.wait()
        return [0.0] * len(drafts)

    result = xt.sample(Target(table(), stuck, 1.0), "why?", Independent(400, batch=40), budget=Budget(seconds=0.5))
    forever.set()
    assert (result.stopped, len(result.population)) == ("budget", 80)
    assert str(result.limit).startswith("seconds: ")


def test_a_cancelled_run_is_cancelled_whatever_its_seconds() -> None:
    halt = Event()
    threading.Timer(0.05, halt.set).start()
    with pytest.raises(Cancelled):
        Session(WAITING, "why?", KEY, Budget(seconds=1000), cancel=halt).run(Independent(4), KEY)


def test_rejection_goes_draft_by_draft() -> None:
    """A sampler that asks for few drafts at once comes close to its budget."""
    took, end = spent(TARGETS["table"], Rejection(50, limit=400, reward_max=1.0), 100)
    assert (100 - 8 < took <= 100, end) == (True, "budget")
