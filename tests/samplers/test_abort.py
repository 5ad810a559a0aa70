"""Early abort: the same decisions draw by draw at fewer tokens, exact weights and chains, and bounds that are true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

import exptilt as xt
from exptilt.core import Target
from exptilt.describe import describe
from exptilt.draft import Draft
from exptilt.errors import RewardError
from exptilt.keys import Key
from exptilt.rating import bounds
from exptilt.rewards import Arithmetic, Each, Format, Matches, Sum
from exptilt.samplers import Rejection, SuffixMCMC
from exptilt.testing import autoregressive, distance, draw_law, expected_weights, masked
from exptilt.testing.toys import Toy
from tests.samplers.test_mcmc import assert_stationary, matrix, suffix_states


@dataclass(frozen=True)
class Told:
    """A toy's reward that tells the highest reward of all completions of a prefix, or nothing."""

    toy: Toy
    tells: bool = True
    seen: list[int] = field(default_factory=list, compare=False)

    def __call__(self, prompt: str, drafts: list[Draft]) -> Sequence[float]:
        return self.toy.target.rate(prompt, drafts).tolist()

    def bound(self, prompt: str, drafts: list[Draft]) -> list[float | None]:
        self.seen.append(len(drafts))
        return [self._highest(draft) if self.tells else None for draft in drafts]

    def _highest(self, draft: Draft) -> float:
        whole = [tokens for tokens in self.toy.gamma if fits(draft, tokens)]
        return max(float(self([], [Draft("x", tokens, None, "", "stop")])[0]) for tokens in whole)  # pyright: ignore


def fits(draft: Draft, tokens: tuple[int, ...]) -> bool:
    """Whether a response is one that the draft can become."""
    if draft.order is None:
        return tokens[: len(draft.tokens)] == draft.tokens
    return all(tokens[position] == draft.tokens[position] for position in draft.order)


def told(toy: Toy, tells: bool = True) -> Target:
    return replace(toy.target, reward=Told(toy, tells))


def top(toy: Toy) -> float:
    return max(float(toy.target.rate("x", [Draft("x", tokens, None, "", "stop")])[0]) for tokens in toy.gamma)


TOYS = [autoregressive(3, symbols=3, cap=5, beta=0.3), masked(4, length=5, order="left", beta=0.3)]


# ------------------------------------------------------------------------------------------------------- decisions


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.name)
def test_rejection_takes_the_same_drafts_for_fewer_tokens(toy: Toy, block: int) -> None:
    sampler = Rejection(8, 400, top(toy), batch=4, block=block)
    for seed in range(5):
        with_bound, without = (xt.sample(told(toy, tells), "x", sampler, seed=seed) for tells in (True, False))
        assert with_bound.population.drafts == without.population.drafts
        np.testing.assert_array_equal(with_bound.population.log_w, without.population.log_w)
        assert len(with_bound.trace) == len(without.trace)
        assert with_bound.usage.tokens < without.usage.tokens
        assert with_bound.usage.rated < without.usage.rated


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.name)
def test_chains_go_the_same_way_for_fewer_tokens(toy: Toy, power: float) -> None:
    sampler = SuffixMCMC(60, chains=2, power=power, block=1)
    for seed in range(5):
        with_bound, without = (xt.sample(told(toy, tells), "x", sampler, seed=seed) for tells in (True, False))
        assert with_bound.population.drafts == without.population.drafts
        assert with_bound.population.trace == without.population.trace
        assert with_bound.usage.tokens < without.usage.tokens


def test_one_block_that_holds_all_decides_as_no_block_does() -> None:
    """A coin asked once is the choice that was made before there were blocks; only the keys of the draws differ."""
    for number in range(200):
        key, chance = Key(number).child("accept"), (number % 21) / 20
        assert key.coin().below(chance) == (key.choose([1.0 - chance, chance]) == 1)
        falling = [key.coin().below(each / 20) for each in range(20, -1, -1)]
        assert falling == sorted(falling, reverse=True)  # one number under all thresholds


def test_tiny_with_arithmetic_keeps_every_decision() -> None:
    def unbounded(prompt: str, drafts: list[Draft]) -> list[float]:
        return rule(prompt, drafts)

    rule = Arithmetic(most_steps=8)
    engine = xt.load("tiny", max_tokens=80)
    prompt = "Tom has 3 apples and buys 4 more. How many apples does Tom have?"
    for sampler in (Rejection(4, 64, 1.0, batch=8, block=8), SuffixMCMC(48, block=2)):
        runs = [xt.sample(Target(engine, reward, 0.1), prompt, sampler) for reward in (rule, unbounded)]
        ours, theirs = ([draft.tokens for draft in run.population.drafts] for run in runs)  # logq moves with the batch
        assert ours == theirs
        assert runs[0].usage.tokens < runs[1].usage.tokens


# ------------------------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("draws", "limit", "batch"), [(2, 3, 1), (2, 3, 2)])
def test_weights_by_enumeration(seed: int, draws: int, limit: int, batch: int) -> None:
    toy = autoregressive(seed, cap=3) if seed < 2 else masked(seed, length=2, order="left")
    sampler = Rejection(draws, limit, top(toy) + 0.2, batch, block=1)
    assert distance(expected_weights(sampler, told(toy)), toy.gamma) < 1e-9


def test_what_is_handed_out_is_an_exact_draw() -> None:
    toy = autoregressive(4, cap=3)
    found = draw_law(Rejection(1, 3, top(toy), block=1), told(toy))
    mass = sum(found.values())
    assert distance({name: value / mass for name, value in found.items()}, toy.pi) < 1e-9


@pytest.mark.parametrize("power", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_chains_leave_the_target_as_it_is(seed: int, power: float) -> None:
    """By the exact transition matrix; abandoning by a bound without n/n' is caught here."""
    toy = autoregressive(seed, cap=4) if seed % 2 else masked(seed, length=3, order="left")
    sampler = SuffixMCMC(1, power=power, block=1)
    states = suffix_states(sampler, toy)
    log_law = np.array(
        [state.log_density + math.log(state.draft.decided) + math.fsum(state.draft.logq or ()) for state in states]
    )
    law = np.exp(log_law - log_law.max())
    assert_stationary(matrix(sampler, told(toy), states, lambda state: state.draft.tokens), law / law.sum())


# ---------------------------------------------------------------------------------------------------------- bounds


def test_a_bound_that_is_too_low_is_an_error() -> None:
    toy = TOYS[0]

    def low(prompt: str, drafts: list[Draft]) -> list[float]:
        return toy.target.rate(prompt, drafts).tolist()

    low.bound = lambda prompt, drafts: [top(toy) - 0.5] * len(drafts)  # pyright: ignore[reportFunctionMemberAccess]
    with pytest.raises(RewardError, match="above the bound"):
        xt.sample(replace(toy.target, reward=low), "x", Rejection(50, 4000, top(toy), batch=50, block=1))
    for wrong, said in ((lambda prompt, drafts: [0.0, 1.0, 2.0], "for 1 drafts"), (lambda prompt, drafts: 1 / 0, "ZeroDivision")):
        low.bound = wrong  # pyright: ignore[reportFunctionMemberAccess]
        with pytest.raises(RewardError, match=said):
            bounds(low, "x", [Draft("x")])


def random_texts(count: int) -> list[str]:
    generator = np.random.default_rng(5)
    parts = [
        "1 + 1 = 2",
        "2 * 3 = 6",
        "4 - 1 = 2",
        "#### 6",
        "#### 2",
        "\n",
        "\n",
        "\n",
        "so",
        " ",
        "Answer",
        "4",
        "2",
        "-",
        "é",
        "e\u0301",
    ]
    return ["".join(generator.choice(parts, size=int(generator.integers(1, 9)))) for _ in range(count)]


@pytest.mark.parametrize(
    "reward",
    [
        Arithmetic(),
        Arithmetic(most_steps=3),
        Arithmetic(without_final=1.0, most_steps=2),
        Format("^Answer"),
        Format("Answer4*2", full=True),
        Format("Answer|4"),
        Format(r"\A42?-"),
        Matches(xt.answers.exact, "4 2"),
        Matches(xt.answers.exact, "-4"),
        Matches(xt.answers.exact, "caf\u00e9".replace("caf", "so ")),
        Matches(xt.answers.number, "42"),
    ],
    ids=lambda reward: str(describe(reward)),
)
def test_no_text_beats_the_bound_of_its_beginnings(reward: Arithmetic) -> None:
    useful = 0
    for text in random_texts(600):
        score = reward("x", [Draft("x", (), None, text, "stop")])[0]
        told = reward.bound("x", [Draft("x", (), None, text[:cut]) for cut in range(len(text) + 1)])
        assert min(told) >= score
        useful += min(told) < reward.reward_max
    plain = (isinstance(reward, Format) and "|" in reward.pattern) or getattr(reward, "answer", None) is xt.answers.number
    assert (useful > 0) == (not plain and reward != Arithmetic(without_final=1.0))


def test_bounds_of_parts_and_of_ones_own_functions() -> None:
    def short(text: str) -> float:
        return -float(len(text))

    short.bound = short  # pyright: ignore[reportFunctionMemberAccess]
    drafts = [Draft("x", (), None, "abc"), Draft("x", (), None, "")]
    both = Sum([(2.0, Each(short)), (1.0, Format("^b"))]).bind(TOYS[0].target.engine, "x", Key(0))
    assert bounds(both, "x", drafts).tolist() == [-6.0, 1.0]
    against = Sum([(-1.0, Format("^b"))]).bind(TOYS[0].target.engine, "x", Key(0))
    assert bounds(against, "x", drafts).tolist() == [math.inf, math.inf]
    assert bounds(Each(len), "x", drafts).tolist() == [math.inf, math.inf]


def test_files_of_before_resume() -> None:
    assert "block" not in str(describe(Rejection(1, 2, 0.0))) + str(describe(SuffixMCMC(2)))
    assert "most_steps" not in str(describe(Arithmetic()))
    assert "block" in str(describe(SuffixMCMC(2, block=4)))
