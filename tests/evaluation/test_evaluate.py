"""Accuracy at equal tokens: intervals with known values, several selects on one run, failures that are not averaged away."""

from __future__ import annotations

import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import exptilt as xt
from exptilt.draft import Draft
from exptilt.engines import TableEngine
from exptilt.evaluation.evaluate import Score, equal_samples, evaluate, paired_difference, wilson
from exptilt.keys import Key
from exptilt.testing.toys import random_table

QUESTIONS = [f"question {number}" for number in range(40)]
EVEN = xt.vote(lambda text: str(text.count("1") % 2), weighted=False)


def target() -> xt.Target:
    engine = TableEngine(random_table(5, 3), 4, 2)
    return xt.Target(engine, lambda prompt, drafts: [float(draft.tokens[0]) for draft in drafts], beta=0.5)


def right(text: str, reference: str) -> bool:
    return text.startswith(reference)


def test_wilson_interval() -> None:
    """8 of 10 at 95 %: centre (0.8 + z²/20)/(1 + z²/10), half-width from the same formula by hand."""
    assert wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0.0, 20)[0] == 0.0
    assert wilson(1.0, 20)[1] == 1.0
    with pytest.raises(ValueError, match="at least one trial"):
        wilson(0.5, 0)


def test_wilson_covers_the_truth() -> None:
    """Over 2,000 samples of 60 trials the 95 % interval holds the truth in 95 % of them, within five standard errors."""
    counts = Key(0, "cover").rng().binomial(60, 0.3, size=2000)
    held = np.mean([low <= 0.3 <= high for low, high in (wilson(count / 60, 60) for count in counts)])
    # The number of successes is discrete: coverage of Wilson's interval at n = 60, p = 0.3 lies between 0.93 and 0.97.
    slack = 5 * math.sqrt(0.05 * 0.95 / 2000)
    assert 0.93 - slack < held < 0.97 + slack


def test_paired_difference_uses_the_pairing() -> None:
    """Two methods that are right on the same problems but one: the interval is narrow, however wide each one's own is."""
    one, other = np.tile([1.0, 0.0], 50), np.tile([1.0, 0.0], 50)
    one[1] = 1.0
    mean, low, high = paired_difference(Score("a", one, 1, 1), Score("b", other, 1, 1))
    assert mean == pytest.approx(0.01)
    assert 0.0 <= low <= mean <= high < 0.05
    with pytest.raises(ValueError, match="pair the same"):
        paired_difference(Score("a", one, 1, 1), Score("b", other[:3], 1, 1))


def test_selects_share_one_run() -> None:
    selects = {"plain": None, "vote": EVEN, "best": xt.best}
    scores, results = evaluate(target(), QUESTIONS, ["0"] * 40, xt.Independent(6), selects, right, seed=3)
    plain, vote, best = scores
    assert [score.name for score in scores] == ["plain", "vote", "best"]
    drawn = [[right(draft.text, "0") for draft in result.population.drafts] for result in results]
    assert plain.accuracy == pytest.approx(np.mean(drawn))
    assert plain.tokens == pytest.approx(vote.tokens / 6)
    assert vote.tokens == best.tokens == pytest.approx(np.mean([result.usage.tokens for result in results]))
    assert best.accuracy < plain.accuracy  # the reward asks for another first token than the reference


def test_selects_pick_what_a_run_picks() -> None:
    """`draw` once had one key for all problems, so that all of them were decided by the same random number."""
    law, sampler = target(), xt.Independent(6)
    scores, _ = evaluate(law, QUESTIONS, ["0"] * 40, sampler, {"draw": xt.draw}, right, seed=3)
    outcomes = xt.run(law, QUESTIONS, sampler, select=xt.draw, seed=3)
    assert scores[0].right.tolist() == [float(right(outcome.text, "0")) for outcome in outcomes if isinstance(outcome, xt.Result)]


def test_a_prompt_without_a_result_stops_the_evaluation() -> None:
    def picky(prompt: str, drafts: list[Draft]) -> list[float]:
        return [math.nan if prompt == "question 7" else 0.0 for _ in drafts]

    broken = xt.Target(target().engine, picky, beta=1.0)
    with pytest.raises(xt.ExptiltError, match="question 7"):
        evaluate(broken, QUESTIONS, ["0"] * 40, xt.Independent(2), {"draw": xt.draw}, right)


def test_equal_samples_counts_by_mean_length() -> None:
    _, results = evaluate(target(), QUESTIONS, ["0"] * 40, xt.Independent(5), {"draw": xt.draw}, right)
    assert equal_samples(float(np.mean([result.usage.tokens for result in results])), results) == 5


def test_the_demo_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo = Path(__file__).resolve().parents[2] / "examples" / "demo.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo.py", "--problems", "3"])
    runpy.run_path(str(demo), run_name="__main__")
    said = capsys.readouterr().out
    for method in ("plain sampling", "majority vote", "best-of-n", "ETS", "ETS, all rollouts vote", "QAlign"):
        assert method in said
    (file,) = (tmp_path / "runs").glob("demo-*.jsonl")
    assert len(file.read_text().splitlines()) >= 6 * 3
