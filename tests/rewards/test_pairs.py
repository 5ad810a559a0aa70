"""Scores remembered by text, texts cut from the right end, and logits made one number."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest

from exptilt.errors import RewardError
from exptilt.rewards.model.pairs import ASKED, GAP, LEAST, Cutter, Memory, Pair, check_form, chosen, fill, reduced


def test_each_text_is_rated_once_and_the_oldest_are_forgotten() -> None:
    asked: list[Pair] = []

    def rate(pairs: list[Pair]) -> list[float]:
        asked.extend(pairs)
        return [float(len(text)) for _, text in pairs]

    memory = Memory("reward", most=2)
    assert memory.scores([("x", "a"), ("x", "bb"), ("x", "a")], rate) == [1.0, 2.0, 1.0]
    assert memory.scores([("x", "a"), ("y", "a")], rate) == [1.0, 1.0]
    assert memory.scores([("x", "a")], rate) == [1.0]
    assert asked == [("x", "a"), ("x", "bb"), ("y", "a")]
    memory.scores([("x", "bb")], rate)  # it had to make room
    assert asked[-1] == ("x", "bb")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_an_error_and_is_not_remembered(bad: float) -> None:
    memory = Memory("the model")
    with pytest.raises(RewardError, match=r"the model gives .* for the response 'b'"):
        memory.scores([("x", "a"), ("x", "b")], lambda pairs: [1.0, bad])
    assert memory.scores([("x", "b")], lambda pairs: [2.0]) == [2.0]
    with pytest.raises(RewardError, match="the model gave 2 scores for 1 responses"):
        memory.scores([("x", "c")], lambda pairs: [1.0, 2.0])


PROMPT, RESPONSE = "p" * 300 + "q" * 300, "r" * 200 + "The answer is 7."


@pytest.mark.parametrize("room", [900, 816, 815, 600, 480, 479, 478, 400, ASKED + LEAST + 2 * len(GAP)])
def test_the_middle_of_the_prompt_goes_first_and_the_answer_stays(room: int) -> None:
    def fits(pair: Pair) -> bool:
        return sum(map(len, pair)) <= room

    prompt, response = Cutter("reward", "cut").fit((PROMPT, RESPONSE), fits)
    assert response.endswith("The answer is 7.")
    assert len(prompt) + len(response) == room if room < 816 else (prompt, response) == (PROMPT, RESPONSE)
    if room < 816:
        head, tail = prompt.split(GAP)
        assert (set(head), set(tail)) == ({"p"}, {"q"})
        assert 0 <= len(head) - len(tail) <= 1
        assert len(head) + len(tail) == max(ASKED, room - len(RESPONSE) - len(GAP))
        assert (response == RESPONSE) == (room >= len(RESPONSE) + ASKED + len(GAP))


def test_a_short_prompt_stays_whole() -> None:
    prompt, response = Cutter("reward", "cut").fit(("why?", RESPONSE), lambda pair: sum(map(len, pair)) <= 150)
    assert (prompt, len(response)) == ("why?", 146)
    assert response == GAP + RESPONSE[-146 + len(GAP) :]


def test_a_cut_is_reported_once_and_one_that_leaves_too_little_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    cutter = Cutter("the model", "cut")
    with caplog.at_level(logging.WARNING, "exptilt"):
        for _ in range(3):
            cutter.fit((PROMPT, RESPONSE), lambda pair: sum(map(len, pair)) <= 400)
    assert [record.getMessage()[:30] for record in caplog.records] == ["the model rates shortened text"]
    with pytest.raises(RewardError, match=f"no room for {ASKED} characters of the prompt 'ppp.* the last {LEAST}"):
        cutter.fit((PROMPT, RESPONSE), lambda pair: sum(map(len, pair)) <= ASKED + LEAST)
    with pytest.raises(RewardError, match="too long for the model: raise max_length"):
        Cutter("the model", "refuse").fit((PROMPT, RESPONSE), lambda pair: False)
    with pytest.raises(ValueError, match="long='drop'"):
        Cutter("the model", "drop")  # type: ignore[arg-type]


def test_what_is_filled_in_is_not_filled_again() -> None:
    assert fill("{prompt} | {response}", prompt="{response}", response="{prompt}") == "{response} | {prompt}"
    with pytest.raises(ValueError, match=r"no place for \{response\}"):
        check_form("{prompt} only", "prompt", "response")


def test_steps_become_one_number() -> None:
    steps = np.array([0.5, 0.9, 0.8])
    found = [reduced(steps, how) for how in ("min", "last", "product", "mean")]
    assert found == pytest.approx([0.5, 0.8, 0.36, 2.2 / 3])


def test_labels_become_one_number() -> None:
    logits = np.array([1.0, -0.5, 0.25])
    share = np.exp(logits) / np.exp(logits).sum()
    assert chosen(logits, 1, "logit") == -0.5
    assert chosen(logits, 1, "log-prob") == pytest.approx(math.log(share[1]))
    assert chosen(logits, 1, "log-odds") == pytest.approx(math.log(share[1] / (1 - share[1])))
    assert chosen(logits[:2], 0, "log-odds") == pytest.approx(1.5)
    assert chosen(np.array([-2000.0, 0.0]), 0, "log-prob") == -2000.0
    assert chosen(logits[:1], None, "logit") == 1.0
