"""Internal rewards against the tables they are read from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.engines.certainty import CertainEngine, Certainty
from exptilt.engines.table import TableEngine
from exptilt.errors import CapabilityError
from exptilt.keys import Key
from exptilt.rating import rate
from exptilt.rewards import LogProb, NegativeEntropy, Power, SelfCertainty
from exptilt.samplers.independent import Independent
from exptilt.testing.enumeration import distance, expected_weights


def next_probs(prefix: tuple[int, ...]) -> list[float]:
    return [0.5, 0.3, 0.2] if not prefix else [0.1, 0.2, 0.7]


@dataclass(frozen=True)
class SureTable:
    """A table that can measure certainty; only what the rewards read."""

    name: str = "sure-table"

    def certainty(self, drafts: Sequence[Draft]) -> list[Certainty]:
        return [Certainty.of(np.log([next_probs(draft.tokens[:i]) for i in range(len(draft.tokens))])) for draft in drafts]


ENGINE = TableEngine(next_probs, 3, 2)
DRAFTS = [Draft("x", (2,), None, "", "stop"), Draft("x", (0, 1, 2), None, "0 1", "stop")]


def test_log_prob():
    logs = [math.log(0.2), math.log(0.5) + math.log(0.2) + math.log(0.7)]
    assert LogProb(mean=False).bind(ENGINE, "x", Key(0))("x", DRAFTS) == pytest.approx(logs)
    assert LogProb().bind(ENGINE, "x", Key(0))("x", DRAFTS) == pytest.approx([logs[0], logs[1] / 3])


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_power_with_beta_one_targets_the_power_law(alpha):
    """E[Σ w 1[y]] over all paths of two independent draws is p(y)^α."""
    target = Target(ENGINE, Power(alpha), beta=1.0).bind("x", Key(0))
    power = {tokens: math.exp(alpha * log_p) for tokens, log_p in ENGINE.enumerate().items()}
    assert distance(expected_weights(Independent(2), target), power) < 1e-12


def test_power_leaves_a_response_without_mass_alone_at_exponent_one():
    impossible = [Draft("x", (0,), None, "0", "length")]
    engine = TableEngine(lambda prefix: [0.0, 0.5, 0.5], 3, 2)
    assert Power(1.0).bind(engine, "x", Key(0))("x", impossible) == [0.0]
    assert Power(2.0).bind(engine, "x", Key(0))("x", impossible) == [-math.inf]


def test_power_below_one_excludes_a_response_without_mass():
    """(α - 1)·log p of a draft with p = 0 is +inf for α < 1, which ended the prompt with a RewardError; p^α is 0."""
    engine = TableEngine(lambda prefix: [0.0, 0.5, 0.5], 3, 2)
    drafts = [Draft("x", (0,), None, "0", "length"), Draft("x", (2,), None, "", "stop")]
    assert rate(Power(0.5).bind(engine, "x", Key(0)), "x", drafts) == pytest.approx([-math.inf, -0.5 * math.log(0.5)])


def entropy(law: list[float]) -> float:
    return -sum(p * math.log(p) for p in law)


def test_certainty_rewards_are_means_over_tokens():
    first, later = next_probs(()), next_probs((0,))
    forward = [math.log(3) - entropy(law) for law in (first, later)]
    backward = [sum(math.log(1 / 3 / p) / 3 for p in law) for law in (first, later)]
    engine = SureTable()
    for reward, (one, two) in ((SelfCertainty("p-u"), forward), (SelfCertainty("u-p"), backward)):
        assert bound(reward, engine) == pytest.approx([one, (one + 2 * two) / 3])
    assert bound(SelfCertainty(), engine) == bound(SelfCertainty("u-p"), engine)
    one, two = -entropy(first), -entropy(later)
    assert bound(NegativeEntropy(), engine) == pytest.approx([one, (one + 2 * two) / 3])


def bound(reward: SelfCertainty | NegativeEntropy, engine: SureTable) -> list[float]:
    return reward.bind(engine, "x", Key(0))("x", DRAFTS)  # pyright: ignore[reportArgumentType]


def test_needs():
    assert LogProb().needs() == Power(2.0).needs() == {"score"}
    assert SelfCertainty().needs() == NegativeEntropy().needs() == {"certainty"}
    assert all(reward.fixed for reward in (LogProb(), Power(2.0), SelfCertainty(), NegativeEntropy()))


def test_an_engine_that_cannot_measure_is_refused():
    @dataclass(frozen=True)
    class Plain:
        name: str = "plain"

    for reward in (SelfCertainty(), NegativeEntropy()):
        with pytest.raises(CapabilityError, match="plain cannot measure certainty"):
            reward.bind(Plain(), "x", Key(0))  # pyright: ignore[reportArgumentType]


def test_numbers_are_checked():
    for alpha in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match=f"alpha={alpha}"):
            Power(alpha)
    with pytest.raises(ValueError, match="kind='entropy'"):
        SelfCertainty("entropy")  # pyright: ignore[reportArgumentType]


def test_certainty_of_log_probabilities():
    measured = Certainty.of(np.log(np.array([[0.25] * 4, [0.7, 0.1, 0.1, 0.1]])))
    np.testing.assert_allclose(measured.entropy, [math.log(4), entropy([0.7, 0.1, 0.1, 0.1])])
    np.testing.assert_allclose(measured.kl_to_uniform, math.log(4) - measured.entropy, atol=1e-15)
    np.testing.assert_allclose(measured.kl_from_uniform[0], 0.0, atol=1e-15)
    assert isinstance(SureTable(), CertainEngine)


def test_certainty_with_tokens_cut_off():
    measured = Certainty.of(np.array([[0.0, -math.inf], [math.log(0.5), math.log(0.5)]]))
    np.testing.assert_allclose(measured.entropy, [0.0, math.log(2)])
    np.testing.assert_allclose(measured.kl_from_uniform, [math.inf, 0.0], atol=1e-15)


def test_certainty_refuses_logits():
    with pytest.raises(ValueError, match="give log_softmax"):
        Certainty.of(np.array([[1.0, 2.0]]))
    with pytest.raises(ValueError, match="one row"):
        Certainty.of(np.zeros(3))
