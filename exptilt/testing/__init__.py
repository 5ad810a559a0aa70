"""Tests for parts of your own: does my sampler draw from its target, does my engine keep its promises, is my reward sound?

    import exptilt.testing as xtt

    def test_my_sampler():
        xtt.check_sampler(MySampler(n=2))                  # E[Σ w f] = Σ γ f to 1e-9, over every random path

    def test_my_engine():
        xtt.check_engine(my_engine, ["a prompt", "another"])

    def test_my_reward():
        xtt.check_reward(my_reward, "a prompt", ["a response", "another"])

Each raises `ContractError`, an AssertionError that says what was found. `paths` and `expected_weights` enumerate samplers,
`autoregressive` and `masked` make random targets that can be enumerated. Needs numpy only.
"""

from exptilt.testing import promises as promises  # which registers them in `engines.CHECKS`
from exptilt.testing.contract import ContractError
from exptilt.testing.engines import EngineContract, check_engine
from exptilt.testing.enumeration import distance, draw_law, expected_weights, paths, total_variation
from exptilt.testing.rewards import check_reward
from exptilt.testing.samplers import check_sampler
from exptilt.testing.toys import Toy, autoregressive, constrained, masked

__all__ = [
    "ContractError",
    "EngineContract",
    "Toy",
    "autoregressive",
    "check_engine",
    "check_reward",
    "check_sampler",
    "constrained",
    "distance",
    "draw_law",
    "expected_weights",
    "masked",
    "paths",
    "total_variation",
]
