"""Bradley-Terry rewards: pairs as they are meant, the reward that made noisy pairs recovered, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.errors import TrainError
from exptilt.train import Fit
from exptilt.train.lessons import read_source
from tests.train.toys import drawn

pytest.importorskip("trl")

from exptilt.train.reward import fit_reward, make_pairs

WORDS = ["one", "two", "three", "four", "five"]
WORTH = dict(zip(WORDS, [-1.0, -0.5, 0.0, 0.8, 1.5], strict=True))


def worth(prompt: Any, drafts: Any) -> list[float]:
    return [WORTH[draft.text] for draft in drafts]


def words() -> xt.engines.TableEngine:
    """A model that says one of five words."""
    return xt.engines.TableEngine(lambda prefix: [0.2] * 5 + [0.0], 1, 5, symbols=[*WORDS, ""], name="words")


def source(tmp_path: Path, n: int = 40, reward: Any = worth) -> Any:
    return read_source([drawn(tmp_path, words(), reward, 1.0, n, ["say a number"])]).drawn[0]


def test_pairs_are_the_best_against_something_worse(tmp_path: Path) -> None:
    pairs = make_pairs(source(tmp_path), 50, None, 0)
    assert {pair.better for pair in pairs} == {"five"}
    assert {pair.worse for pair in pairs} == {*WORDS} - {"five"}
    assert make_pairs(source(tmp_path / "flat", reward=flat), 5, None, 0) == []


def test_what_is_learned_does_not_depend_on_which_prompt_ended_first(tmp_path: Path) -> None:
    """Lines of a file come as prompts end, which threads decide: the same draws trained another model on each run."""
    store = drawn(tmp_path, words(), worth, 1.0, 6, [f"say number {number}" for number in range(5)])
    first, *lines = store.read_bytes().splitlines(keepends=True)
    other = tmp_path / "other.jsonl"
    other.write_bytes(b"".join([first, *reversed(lines)]))
    one, two = (read_source([each]).drawn for each in (store, other))
    assert [each.prompt for each in one] == [each.prompt for each in two]
    assert len({each.prompt for each in one}) == 5


def flat(prompt: Any, drafts: Any) -> list[float]:
    return [0.0] * len(drafts)


def test_noisy_pairs_follow_the_logistic(tmp_path: Path) -> None:
    """Of the pairs of two words, the share in which one is preferred is σ of their difference, within 5 standard errors."""
    pairs = make_pairs(source(tmp_path), 6000, 0.5, 0)
    mine = [pair for pair in pairs if {pair.better, pair.worse} == {"three", "four"}]
    expected, share = 1 / (1 + np.exp(-0.8 / 0.5)), np.mean([pair.better == "four" for pair in mine])
    assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / len(mine))


def test_the_reward_that_made_the_preferences_is_recovered(tmp_path: Path) -> None:
    """π_hp ∝ exp(r): with enough noisy pairs the fitted scores differ as the rewards do, up to one constant, so the two
    distributions over the words are near each other."""
    store = drawn(tmp_path, words(), worth, 1.0, 40, ["say a number"])
    fit = Fit(epochs=4, batch=64, learning_rate=3e-4)
    fitted = fit_reward("tiny-small", [store], tmp_path / "out", pairs=1500, noise=1.0, fit=fit)
    reward = xt.rewards.ClassifierReward(fitted.folder)
    found = np.array(reward("say a number", [xt.Draft("say a number", (), None, word, "stop") for word in WORDS]))
    true = np.array([*WORTH.values()])
    shares = [np.exp(each) / np.exp(each).sum() for each in (found, true)]
    assert 0.5 * np.abs(shares[0] - shares[1]).sum() < 0.06
    assert fitted.spec == f"classifier:{fitted.folder}"
    assert fitted.held_out == 75
    assert fitted.accuracy is not None
    assert fitted.accuracy > 0.6
    again = fit_reward("tiny-small", [store], tmp_path / "out", pairs=1500, noise=1.0, fit=fit)
    assert again == fitted  # it is read, not fitted again


def test_nothing_preferred_is_refused(tmp_path: Path) -> None:
    store = drawn(tmp_path, words(), flat, 1.0, 40, ["say a number"])
    with pytest.raises(TrainError, match="none of the 1 prompts has two drafts of different rewards"):
        fit_reward("tiny-small", [store], tmp_path / "out")


def test_pairs_that_are_too_long_are_refused(tmp_path: Path) -> None:
    """TRL drops them without a word: a run on long responses would learn from the short ones alone."""
    store = drawn(tmp_path, words(), worth, 1.0, 40, ["say a number " * 300])
    with pytest.raises(TrainError, match=r"has \d+ tokens, and tiny-small reads 512"):
        fit_reward("tiny-small", [store], tmp_path / "out")
