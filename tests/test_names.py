"""Parts by name, as the command line and the harness's model make them: aliases, settings as values and as texts."""

from __future__ import annotations

import json
from typing import Any

import pytest

import exptilt as xt
from exptilt import names
from exptilt.engines import TableEngine
from exptilt.errors import UsageError
from exptilt.objects import find_object
from exptilt.populations.select import Vote
from exptilt.rewards import Zero


@pytest.mark.parametrize(
    ("name", "given", "made"),
    [
        ("bon", {}, xt.Independent(16)),
        ("majority", {"n": 5}, xt.Independent(5)),
        ("qalign", {"steps": "7"}, xt.SuffixMCMC(7)),
        ("power", {}, xt.SuffixMCMC(32, power=4.0)),
        ("power", {"power": 2, "burn_in": "3"}, xt.SuffixMCMC(32, burn_in=3, power=2)),
        ("ets", {"block": "none", "step_weights": "0.25,1", "propose_candidates": "true"}, xt.ETS(
            8, propose_candidates=True, step_weights=(0.25, 1.0)
        )),
        ("smc", {"value": "operator:mul", "threshold": "1"}, xt.SMC(16, 32, value=find_object("operator:mul"), threshold=1.0)),
        ("metropolised", {"inner": "bon", "n": 3}, xt.Metropolised(xt.Independent(3), 32)),
    ],
)  # fmt: skip
def test_samplers(name: str, given: dict[str, Any], made: object) -> None:
    assert names.sampler(name, **given) == made


def test_unknown_settings_are_refused_with_the_near_one() -> None:
    with pytest.raises(UsageError, match=r"no setting candidate: it has candidates, .* Did you mean candidates\?"):
        names.sampler("ets", candidate=3)
    with pytest.raises(UsageError, match="'maybe' is neither true nor false"):
        names.sampler("ets", propose_candidates="maybe")


def test_every_alias_has_its_select_and_reward() -> None:
    assert names.choose_sampler("bon").alias.select == "best"
    assert names.select("majority", "exact") == Vote(xt.answers.exact, weighted=False)
    assert names.select("vote", xt.answers.choice) == Vote(xt.answers.choice)
    assert isinstance(names.find_reward("none"), Zero)
    for name, alias in names.ALIASES.items():
        assert names.choose_sampler(name).help == alias.help
        assert alias.reward in (None, "none")
        assert callable(names.select(alias.select))


def test_a_majority_is_that_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a reward π is p: every draft weighs the same, and log Ẑ is 0 for certain."""
    table = TableEngine(lambda prefix: (0.2, 0.7, 0.1), 1, 2, symbols="12#")
    monkeypatch.setattr("exptilt.names.targets.load", lambda name, **options: table)
    target, chosen = names.target("toy", "none", 1.0), names.choose_sampler("majority")
    result = xt.sample(target, "which?", chosen.make({"n": 200}), select=names.select(chosen.alias.select, "exact"))
    assert (result.text, result.log_z) == ("2", pytest.approx(0.0))
    assert result.posterior is not None
    assert result.posterior["2"] == pytest.approx(0.7, abs=5 * (0.21 / 200) ** 0.5)


def test_the_line_after_a_model_holds_its_options() -> None:
    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        table = TableEngine(lambda _: (1.0,), 1, 0)
        patch.setattr("exptilt.names.targets.load", lambda name, **options: seen.append((name, options)) or table)
        names.target("tiny?top_k=3&device=cpu", "none", 1.0, proposal="tiny", temperature=0.5, top_k=None, max_tokens=1)
    common = {"temperature": 0.5, "max_tokens": 1}
    assert seen == [("tiny", {**common, "top_k": 3, "device": "cpu"}), ("tiny", common)]
    assert json.dumps(seen)
