"""Agreement: counted by hand, frozen once bound, and exact for every sampler; the running majority moves."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.engines.table import TableEngine
from exptilt.keys import Key
from exptilt.rewards import Agreement, RunningMajority
from exptilt.rewards.agreement import BoundAgreement
from exptilt.samplers.ets import ETS
from exptilt.testing.enumeration import distance, expected_weights, gamma

SYMBOLS = ("1", "2", "")
LAW = (0.45, 0.3, 0.25)


def table(law: tuple[float, ...] = LAW, cap: int = 3) -> TableEngine:
    """Texts of up to `cap` letters "1" and "2"; the third token ends."""
    return TableEngine(lambda prefix: law, cap, 2, symbols=SYMBOLS)


def last(text: str) -> str | None:
    """The last letter; an empty text has no answer."""
    return text[-1] if text else None


def drafts(*texts: str) -> list[Draft]:
    return [Draft("x", (), None, text, "stop") for text in texts]


def pilot_counts(size: int, key: Key) -> Counter[str | None]:
    """The pilot's answers, drawn here from its keys."""
    engine = table()
    drawn = engine.extend([engine.start("x")] * size, [key.child("pilot", i) for i in range(size)])
    return Counter(last(draft.text) for draft in drawn)


def test_mode_is_the_indicator_of_the_pilots_most_frequent_answer():
    counts = pilot_counts(30, Key(1))
    assert counts["1"] > counts["2"] > 0
    assert counts[None] > 0
    reward = Agreement(last, 30).bind(table(), "x", Key(1))
    assert reward.counts == {"1": counts["1"], "2": counts["2"]}
    assert reward("x", drafts("21", "12", "", "1")) == [1.0, 0.0, 0.0, 1.0]


def test_log_is_the_smoothed_share_by_hand():
    """n0 = 30, c = 2, and A = 3: two answers and the unseen ones."""
    counts = pilot_counts(30, Key(1))
    reward = Agreement(last, 30, "log", smoothing=2.0).bind(table(), "x", Key(1))
    expected = [math.log((count + 2) / 36) for count in (counts["1"], counts["2"], 0, 0)]
    assert reward("x", drafts("1", "2", "3", "")) == pytest.approx(expected)


def test_a_pilot_without_answers_rewards_nothing():
    for agreement, value in ((Agreement(last, 4), 0.0), (Agreement(last, 4, "log"), math.log(1 / 5))):
        reward = agreement.bind(table((0.0, 0.0, 1.0)), "x", Key(0))
        assert reward("x", drafts("1", "")) == pytest.approx([value, value])


def test_an_absent_answer_does_not_become_the_mode():
    reward = Agreement(last, 40).bind(table((0.1, 0.05, 0.85)), "x", Key(2))
    assert reward("x", drafts("")) == [0.0]
    assert max(reward("x", drafts("1", "2"))) == 1.0


def test_the_pilot_hangs_on_the_key_alone():
    agreement = Agreement(last, 5, "log")
    assert agreement.bind(table(), "x", Key(3)) == agreement.bind(table(), "x", Key(3))
    assert len({tuple(agreement.bind(table(), "x", Key(seed)).counts.items()) for seed in range(20)}) > 1


@pytest.mark.parametrize("kind", ["mode", "log"])
def test_bound_agreement_is_a_function_and_ets_is_exact_for_it(kind):
    """Over all random paths of ETS, E[Σ w 1[y]] = p(y)·exp(r(y)/β) for every y with the bound r, so E[Ẑ] = Z."""
    engine = table(cap=2)
    target = Target(engine, Agreement(last, 7, kind), beta=0.5).bind("x", Key(4))
    assert isinstance(target.reward, BoundAgreement)
    texts = {tokens: "".join(SYMBOLS[token] for token in tokens) for tokens in engine.enumerate()}
    rewards = {tokens: target.rate("x", drafts(text))[0] for tokens, text in texts.items()}
    assert len({round(float(reward), 9) for reward in rewards.values()}) > 1
    exact = gamma(engine.enumerate(), lambda tokens: float(rewards[tokens]), 0.5)
    found = expected_weights(ETS(2, 1, 1), target)
    assert distance(found, exact) < 1e-9
    assert sum(found.values()) == pytest.approx(sum(exact.values()), abs=1e-9)
    assert {tokens: target.rate("x", drafts(text))[0] for tokens, text in texts.items()} == rewards


@pytest.mark.parametrize("bad", [{"pilot": 0}, {"pilot": 2.5}, {"kind": "mean"}, {"smoothing": 0.0}, {"smoothing": math.inf}])
def test_numbers_are_checked(bad: dict[str, Any]):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}="):
        Agreement(last, **bad)


def test_running_majority_counts_the_drafts_at_hand_and_moves():
    reward = RunningMajority(last).bind(table(), "x", Key(0))
    assert reward("x", drafts("1", "2", "2", "")) == [0.0, 1.0, 1.0, 0.0]
    assert reward("x", drafts("1")) == [1.0]  # two each now, and "1" was seen first


def test_running_majority_changes_its_score_of_the_same_draft():
    reward = RunningMajority(last).bind(table(), "x", Key(0))
    assert reward("x", drafts("1")) == [1.0]
    assert reward("x", drafts("2", "2", "2")) == [1.0, 1.0, 1.0]
    assert reward("x", drafts("1")) == [0.0]
    assert RunningMajority(last).bind(table(), "x", Key(0))("x", drafts("1")) == [1.0]
    assert reward("x", drafts("", "")) == [0.0, 0.0]


def test_running_majority_says_that_it_has_no_target():
    assert not Target(table(), RunningMajority(last), 1.0).fixed
    assert Target(table(), Agreement(last), 1.0).fixed
    assert "NO FIXED TARGET" in (RunningMajority.__doc__ or "")
