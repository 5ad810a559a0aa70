"""Proposals must cover: what q cannot draw where p can is refused where settings tell it, and warned of where they do not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.blocks import BlockSize
from exptilt.draft import Draft
from exptilt.engines import TableEngine
from exptilt.engines.certainty import Certainty
from exptilt.engines.distribution_numpy import log_probability
from exptilt.engines.masked_table import MaskedTableEngine
from exptilt.engines.sampling import Sampling
from exptilt.errors import AllWeightsZero, ModelError, TargetError
from exptilt.keys import Floats, Key
from exptilt.proposals import _covers, check_cover, cover_warning
from exptilt.running.session import Session


@dataclass(frozen=True)
class Told:
    """What an engine tells of itself."""

    name: str
    settings: Mapping[str, Any]


def settings(weights: str = "a", **sampling: Any) -> dict[str, Any]:
    return {"engine": "hf", "weights": weights, "system": None, **Sampling(**sampling).settings()}


def support(logits: np.ndarray, sampling: Sampling) -> set[int]:
    rows = np.tile(logits, (len(logits), 1))
    return set(np.flatnonzero(log_probability(rows, range(len(logits)), sampling)[:, 0] > -math.inf).tolist())


def test_what_is_said_to_cover_covers_and_what_is_said_not_to_does_not() -> None:
    """Every pair of 18 sampling parameters, on the supports of 200 random rows of logits, peaked ones and flat ones."""
    laws = [Sampling(temperature, top_p, top_k) for temperature, top_p, top_k in product((0.5, 1, 2), (0.6, 0.9, 1), (None, 3))]
    rows = (np.random.default_rng(0).normal(size=(200, 9)) * np.geomspace(0.1, 5, 200)[:, None]).astype(np.float32)
    supports = {law: [support(row, law) for row in rows] for law in laws}
    for ours, theirs in product(laws, laws):
        told = _covers(settings("a", **vars_of(ours)), settings("a", **vars_of(theirs)))
        covered = all(p <= q for p, q in zip(supports[ours], supports[theirs], strict=True))
        assert told is None or told == covered, (ours, theirs)


def vars_of(law: Sampling) -> dict[str, Any]:
    return {"temperature": law.temperature, "top_p": law.top_p, "top_k": law.top_k}


@pytest.mark.parametrize(
    ("ours", "theirs", "covers"),
    [
        ({}, {}, True),
        ({}, {"temperature": 0.3}, True),
        ({}, {"weights": "b"}, True),
        ({"top_k": 5}, {"weights": "b"}, True),
        ({}, {"top_k": 1}, False),
        ({}, {"top_p": 0.95}, False),
        ({}, {"weights": "b", "top_p": 0.95}, False),  # logits give every token a probability, whatever the weights
        ({"top_k": 5}, {"top_k": 5}, True),
        ({"top_k": 5}, {"top_k": 4}, False),
        ({"top_p": 0.9}, {"top_p": 0.9, "temperature": 0.9}, False),
        ({"top_p": 0.9}, {"top_p": 0.9, "temperature": 1.1}, True),
        ({"top_k": 5}, {"weights": "b", "top_k": 50}, None),
    ],
)
def test_cover(ours: dict[str, Any], theirs: dict[str, Any], covers: bool | None) -> None:
    p, q = settings(**ours), settings(**theirs)
    warning = cover_warning(Told("p", p), Told("q", q))
    if covers is False:
        with pytest.raises(TargetError, match=r"the proposal q \(.*excludes tokens.*top_k=None, top_p=1.0"):
            check_cover(Told("p", p), Told("q", q))
    else:
        check_cover(Told("p", p), Told("q", q))
    assert (warning is not None) == (covers is None)
    if warning:
        assert warning.startswith("It is not known whether")


def test_fields_of_a_server_may_do_anything() -> None:
    """min_p in the further fields of a request cuts tokens off like top_p; the field's meaning is the server's own."""
    p, q = settings(), {**settings(), "extra": {"min_p": 0.2}}
    check_cover(Told("p", p), Told("q", q))
    warning = cover_warning(Told("p", p), Told("q", q))
    assert warning is not None
    assert "min_p" in warning
    assert cover_warning(Told("q", q), Told("q", q)) is None


def test_other_stop_strings_are_refused() -> None:
    """q never goes on behind a stop string of its own, though p does; and p never draws what q goes on with."""
    for ours, theirs in (((), ("\n",)), (("\n",), ()), (("\n",), ("\n\n",))):
        with pytest.raises(TargetError, match="same stop strings"):
            check_cover(Told("p", settings(stop=ours)), Told("q", settings(stop=theirs)))
    check_cover(Told("p", settings(stop=("a", "b"))), Told("q", settings(stop=("b", "a"))))


@dataclass(frozen=True)
class Truncated(TableEngine):
    """A table that says how it is truncated, as engines of language models do."""

    top_k: int | None = None
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"engine": "toy", "weights": "a", "temperature": 1.0, "top_p": 1.0, "top_k": self.top_k, **self.told}

    def never_draws(self, other: object) -> str | None:
        """Only its settings tell."""
        return None


def flat(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    return [0.0] * len(drafts)


def test_targets_are_refused_or_results_warn() -> None:
    """top_k=1 on the proposal alone was accepted without a word: log Ẑ was -2.51 where 0 is exact."""
    p, q = Truncated(lambda prefix: [0.4, 0.3, 0.3], 3, 2), Truncated(lambda prefix: [1.0, 0.0, 0.0], 3, 2, top_k=1)
    with pytest.raises(TargetError, match="excludes tokens"):
        xt.Target(p, flat, 1.0, q)
    unknown = xt.Target(replace(p, top_k=2), flat, 1.0, replace(q, told={"weights": "b"}))
    for outcome in (xt.sample(unknown, "x", xt.Independent(4)), *xt.run(unknown, ["x"], xt.SMC(2, 1))):
        assert isinstance(outcome, xt.Result)
        assert "can draw everything" in outcome.warnings[0]


def tables(p: Any, q: Any) -> tuple[TableEngine, TableEngine]:
    return TableEngine(p, 4, 2, name="p"), TableEngine(q, 4, 2, name="q", temperature=2.0)


def test_a_table_knows_what_it_covers() -> None:
    """Proposals between tables always warned that nothing could be known, and a smaller support than p's passed with that."""
    even, after_zero = [0.4, 0.3, 0.3], [1.0, 0.0, 0.0]
    p, q = tables(lambda prefix: even, lambda prefix: even)
    result = xt.sample(xt.Target(p, flat, 1.0, q), "x", xt.SMC(40, 1))
    assert not any("can draw" in warning for warning in result.warnings)
    xt.Target(tables(lambda prefix: after_zero, lambda prefix: even)[0], flat, 1.0, q)

    late = TableEngine(lambda prefix: [0.5, 0.0, 0.5] if prefix == (1, 0, 0) else even, 4, 2, name="q")
    with pytest.raises(TargetError, match=r"the proposal q never draws the token 1 after 1 0 0, which the engine p may"):
        xt.Target(p, flat, 1.0, late)
    xt.Target(late, flat, 1.0, p)
    unreachable = TableEngine(lambda prefix: [0.0, 0.0, 1.0] if prefix[:1] == (1,) else even, 4, 2)
    sure = TableEngine(lambda prefix: [0.5, 0.0, 0.5] if prefix == () else even, 4, 2)
    xt.Target(sure, flat, 1.0, unreachable)  # what q lacks there, p does not reach


def test_a_table_of_more_prefixes_than_can_be_looked_at_says_that_it_cannot_be_known() -> None:
    p, q = (TableEngine(lambda prefix: [0.3, 0.3, 0.4], 30, 2, name=name, temperature=t) for name, t in (("p", 1.0), ("q", 2.0)))
    warning = cover_warning(p, q)
    assert warning is not None
    assert "is not known" in warning


@pytest.mark.parametrize("order", ["random", "left"])
def test_a_masked_table_knows_what_it_covers(order: Any) -> None:
    even = MaskedTableEngine(lambda state, place: [0.5, 0.3, 0.2], 3, order, name="p")
    assert cover_warning(even, replace(even, temperature=2.0)) is None
    last = MaskedTableEngine(lambda state, place: [0.5, 0.5, 0.0] if state == (0, 1, -1) else [0.5, 0.3, 0.2], 3, order, name="q")
    with pytest.raises(TargetError, match=r"never draws the token 2 at position 2 of 0 1 _, which the engine p may"):
        xt.Target(even, flat, 1.0, last)
    xt.Target(last, flat, 1.0, even)
    if order == "left":  # a state that q's order never comes to does not matter
        aside = MaskedTableEngine(lambda state, place: [1.0, 0, 0] if state == (-1, 1, -1) else [0.5, 0.3, 0.2], 3, order)
        xt.Target(even, flat, 1.0, aside)


# ------------------------------------------------------------------------------------------- what engines may tell


@dataclass(frozen=True)
class Odd(TableEngine):
    """An engine whose first log-probability is `first`, drawn or scored, and whose certainty is NaN."""

    first: float = math.nan

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        drawn = TableEngine.extend(self, drafts, keys, tokens)
        return [replace(draft, logq=(self.first, *(draft.logq or ())[1:])) for draft in drawn]

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        return [np.append(self.first, score[1:]) for score in TableEngine.score(self, drafts, starts)]

    def certainty(self, drafts: Sequence[Draft]) -> list[Certainty]:
        nan = np.full(1, math.nan)
        return [Certainty(nan, nan, nan) for _ in drafts]


def table(prefix: tuple[int, ...]) -> list[float]:
    return [0.4, 0.3, 0.3]


@pytest.mark.parametrize("first", [math.nan, -math.inf, math.inf, 0.2])
def test_impossible_log_probabilities_of_draws_are_refused(first: float) -> None:
    """A server's NaN, -inf or positive log-probabilities entered drafts, and weights with them."""
    odd = Odd(table, 3, 2, first=first, name="odd server")
    for target in (xt.Target(odd, flat, 1.0), xt.Target(TableEngine(table, 3, 2), flat, 1.0, odd)):
        with pytest.raises(ModelError, match=r"odd server says that decision 0 .* log-probability (nan|-?inf|0.2)"):
            xt.sample(target, "x", xt.Independent(2))


@pytest.mark.parametrize("first", [math.nan, math.inf, 0.2])
def test_impossible_scores_are_refused(first: float) -> None:
    target = xt.Target(Odd(table, 3, 2, first=first, name="odd server"), flat, 1.0, TableEngine(table, 3, 2))
    with pytest.raises(ModelError, match=r"odd server gives a token .* log-probability (nan|inf|0.2)"):
        xt.sample(target, "x", xt.Independent(2))


def test_rounding_is_no_fault_and_a_score_may_be_impossible() -> None:
    rounded = Odd(table, 3, 2, first=3e-7)
    xt.sample(xt.Target(rounded, flat, 1.0), "x", xt.Independent(2))
    nothing = Odd(table, 3, 2, first=-math.inf)
    with pytest.raises(AllWeightsZero):
        xt.sample(xt.Target(nothing, flat, 1.0, TableEngine(table, 3, 2)), "x", xt.Independent(2))


def test_a_certainty_of_nan_names_the_engine() -> None:
    session = Session(xt.Target(Odd(table, 3, 2, name="odd server"), xt.rewards.SelfCertainty(), 1.0), "x", Key(0))
    with pytest.raises(ModelError, match="odd server measures a certainty of NaN"):
        session.target.rate("x", [Draft("x", (2,), None, "", "stop")])
