"""Selects and utilities on populations small enough to work out by hand."""

from __future__ import annotations

import math
import time
from collections import Counter

import numpy as np
import pytest

from exptilt.answers import number
from exptilt.draft import Draft
from exptilt.keys import Key
from exptilt.populations.population import Population
from exptilt.populations.select import best, draw, mbr, vote
from exptilt.populations.utilities import Chrf, PairUtility, Utility, chrf, exact, overlaps, rouge1


def population(rows, proper: bool = True) -> Population:
    """From (text, weight, reward) rows."""
    drafts = [Draft("x", (i,), None, text, "stop") for i, (text, _, _) in enumerate(rows)]
    with np.errstate(divide="ignore"):
        log_w = np.log([weight for _, weight, _ in rows])
    return Population(drafts, log_w, np.array([reward for _, _, reward in rows]), proper=proper)


def index(pick: Draft) -> int:
    return pick.tokens[0]


# ------------------------------------------------------------------------------------------------------ draw and best


def test_draw_follows_the_weights():
    some = population([("a", 1.0, 0.0), ("b", 3.0, 0.0), ("c", 0.0, -math.inf), ("d", 6.0, 0.0)])
    counts = Counter(draw(some, Key(0, trial)).text for trial in range(4000))
    for text, share in (("a", 0.1), ("b", 0.3), ("d", 0.6)):
        assert abs(counts[text] / 4000 - share) < 5 * math.sqrt(share * (1 - share) / 4000)
    assert counts["c"] == 0


@pytest.mark.parametrize(
    ("rows", "winner"),
    [
        ([("a", 9.0, 1.0), ("b", 0.1, 2.0)], 1),
        ([("a", 1.0, 2.0), ("b", 3.0, 2.0), ("c", 3.0, 2.0)], 1),
        ([("a", 0.0, 9.0), ("b", 1.0, 1.0)], 1),
        ([("a", 0.0, -math.inf), ("b", 1.0, -5.0)], 1),
    ],
)
def test_best_takes_the_highest_reward_then_weight_then_the_first_and_nothing_excluded(rows, winner):
    assert index(best(population(rows), Key(0))) == winner


# --------------------------------------------------------------------------------------------------------------- vote

ROWS = [("#### 1", 5.0, 0.0), ("#### 2", 3.0, 0.0), ("it is 2.0", 3.0, 1.0), ("none", 9.0, 9.0), ("#### 2", 0.0, -math.inf)]


def test_weighted_vote_adds_weights_of_equal_answers_and_returns_the_heaviest_of_them():
    some = population(ROWS)
    assert index(vote(number)(some, Key(0))) == 2  # 6 of 20 against 5; equally heavy, so the higher reward
    assert vote(number).posterior(some) == pytest.approx({None: 0.45, "2": 0.3, "1": 0.25})
    assert list(vote(number).posterior(some)) == [None, "2", "1"]


def test_unweighted_vote_counts_heads_and_leaves_out_the_excluded():
    some = population([("1", 50.0, 0.0), ("2", 1.0, 0.0), ("2", 2.0, 0.0), ("1", 0.0, -math.inf), ("1", 0.0, -math.inf)])
    assert vote(number, weighted=False).posterior(some) == pytest.approx({"2": 2 / 3, "1": 1 / 3})
    assert index(vote(number, weighted=False)(some, Key(0))) == 2
    assert index(vote(number, weighted=True)(some, Key(0))) == 0


def test_no_answer_wins_only_alone():
    assert index(vote(number)(population([*ROWS[3:4], ("nothing", 10.0, 0.0)]), Key(0))) == 1
    assert index(vote(number)(population(ROWS[:1] + ROWS[3:]), Key(0))) == 0


def test_ties_are_decided_by_the_key_evenly_and_repeatably():
    """Weights of 0.1 three times against 0.3 once: equal up to rounding, which must not decide."""
    some = population([("1", 0.1, 0.0), ("1", 0.1, 0.0), ("1", 0.1, 0.0), ("2", 0.3, 0.0)])
    picks = [vote(number)(some, Key(0, trial)).text for trial in range(400)]
    assert picks == [vote(number)(some, Key(0, trial)).text for trial in range(400)]
    assert abs(picks.count("2") - 200) < 5 * math.sqrt(400 / 4)


def test_repeats_of_a_markov_chain_count_each_time():
    drafts = [Draft("x", (0,), None, "7", "stop")] * 3 + [Draft("x", (1,), None, "8", "stop")]
    chain = Population.unweighted(drafts, [0.0] * 4)
    assert vote(number).posterior(chain) == pytest.approx({"7": 0.75, "8": 0.25})
    assert mbr(exact)(chain, Key(0)).text == "7"
    assert best(chain, Key(0)) is drafts[0]


def test_vote_equals_mbr_with_exact_match_of_answers():
    rng = Key(3, "rows").rng()
    for _ in range(20):
        some = population([(str(rng.integers(4)), float(rng.random()), 0.0) for _ in range(12)])
        assert vote(number)(some, Key(0)).text == mbr(exact)(some, Key(0)).text


# ---------------------------------------------------------------------------------------------------------------- mbr


def test_mbr_by_hand():
    """ROUGE-1 F1: u(ab, ab c) = 2·2/(2+3) = 0.8, u(ab, z) = 0, u(ab c, z) = 0. Scores 0.3 + 0.8·0.3 and so on."""
    some = population([("a b", 0.3, 0.0), ("z", 0.4, 0.0), ("c a b", 0.3, 0.0)])
    assert mbr(rouge1).scores(some) == pytest.approx({"a b": 0.54, "c a b": 0.54, "z": 0.4})
    assert index(mbr(rouge1)(some, Key(0))) == 0


def test_mbr_pools_equal_texts_and_leaves_out_the_excluded():
    some = population([("a", 1.0, 0.0), ("b", 2.0, 0.0), ("a", 1.5, 0.0), ("c", 0.0, -math.inf)])
    assert mbr(exact).scores(some) == pytest.approx({"a": 2.5 / 4.5, "b": 2.0 / 4.5})
    assert index(mbr(exact)(some, Key(0))) == 2


def test_mbr_takes_any_function_once_per_pair_of_distinct_texts():
    calls = []

    def longer(candidate: str, reference: str) -> float:
        calls.append((candidate, reference))
        return float(len(candidate) >= len(reference))

    some = population([("a", 5.0, 0.0), ("bbb", 1.0, 0.0), ("a", 1.0, 0.0)])
    assert mbr(longer)(some, Key(0)).text == "bbb"
    assert sorted(calls) == [("a", "a"), ("a", "bbb"), ("bbb", "a"), ("bbb", "bbb")]
    with pytest.raises(ValueError, match="not finite"):
        mbr(lambda candidate, reference: math.nan)(some, Key(0))


# ---------------------------------------------------------------------------------------------------------- utilities


def test_utilities_are_utilities():
    assert all(isinstance(utility, Utility) for utility in (rouge1, chrf, exact, PairUtility(lambda a, b: 0.0)))


def test_overlaps_is_the_sum_of_minima():
    rng = Key(1, "grams").rng()
    owners, grams = rng.integers(0, 40, size=3000), np.minimum(rng.geometric(0.03, size=3000), 200)
    counts = np.zeros((40, 201))
    np.add.at(counts, (owners, grams), 1)
    np.testing.assert_array_equal(overlaps(owners, grams, 40), np.minimum(counts[:, None], counts[None, :]).sum(axis=2))


def test_rouge1_by_hand():
    """the cat the mat against The cat!: common the, cat; 2·2/(4+2)."""
    values = rouge1.matrix(["the cat the mat", "The cat!", "...", ""])
    np.testing.assert_allclose(values[0], [1.0, 2 / 3, 0.0, 0.0])
    np.testing.assert_allclose(values, values.T)
    assert values[2, 2] == values[3, 3] == 0.0


def test_rouge1_counts_characters_where_a_script_sets_no_spaces():
    """A Chinese sentence was one word, so that two which differ in two characters of ten shared nothing."""
    values = rouge1.matrix(["今天我们去公园看花", "今天我们去学校看花", "完全是别的话"])
    np.testing.assert_allclose(values[0], [1.0, 7 / 9, 0.0])
    assert rouge1.matrix(["สวัสดี", "สวัสดิ์"])[0, 1] == pytest.approx(3 / 4)  # vowels above stay with their consonants
    np.testing.assert_allclose(
        rouge1.matrix(["한국어 단어", "한국어 문장", "उत्तर है", "उत्तर नहीं"])[:2, :2], [[1, 1 / 2], [1 / 2, 1]]
    )
    assert rouge1.matrix(["उत्तर है", "उत्तर नहीं"])[0, 1] == 1 / 2  # a combining mark ends no word
    assert rouge1.matrix(["caf\u00e9", "cafe\u0301"])[0, 1] == 1.0


def test_chrf_by_hand():
    """ab for abc: precision 1 and 1 (n=1, 2), recall 2/3 and 1/2, means 1 and 7/12, F2 = 5·(7/12)/(4 + 7/12) = 7/11.

    abc for ab the other way round: 5·(7/12)/(4·7/12 + 1) = 7/8. White space does not count.
    """
    np.testing.assert_allclose(chrf.matrix(["ab", "abc", "a b", "xyz"])[:2], [[1, 7 / 11, 1, 0], [7 / 8, 1, 7 / 8, 0]])
    assert chrf.matrix([""])[0, 0] == 0.0
    assert chrf.matrix(["", "a"])[1].tolist() == [0.0, 1.0]
    assert Chrf(order=1, beta=1.0).matrix(["aab", "abb"])[0, 1] == pytest.approx(2 / 3)


def test_chrf_agrees_with_sacrebleu():
    """Values of sacrebleu 2.6.0 CHRF().sentence_score / 100."""
    texts = ["The cat sat on the mat.", "A cat sat on a mat", "the dog", "Ünïcode, 42!"]
    expected = [
        [1.0, 0.541819703443502, 0.15087724604770059, 0.05376344086021505],
        [0.43198266300981353, 1.0, 0.04504504504504505, 0.043859649122807015],
        [0.07787717713822719, 0.028735632183908053, 1.0, 0.05],
        [0.040160642570281124, 0.03968253968253968, 0.07142857142857142, 1.0],
    ]
    np.testing.assert_allclose(chrf.matrix(texts), expected, atol=1e-12)


def test_utilities_check_their_numbers():
    with pytest.raises(ValueError, match="order=0"):
        Chrf(order=0)
    with pytest.raises(ValueError, match="beta=0"):
        Chrf(beta=0)


def test_mbr_of_many_samples_takes_no_more_than_seconds():
    """300 different texts of 400 characters: 90,000 pairs, which a loop over pairs would not finish in the time."""
    rng = Key(2, "texts").rng()
    words = ["".join(chr(97 + letter) for letter in rng.integers(0, 26, size=5)) for _ in range(300)]
    some = population([(" ".join(rng.choice(words, size=65)), 1.0, 0.0) for _ in range(300)])
    start = time.perf_counter()
    mbr(chrf)(some, Key(0))
    assert time.perf_counter() - start < 10
