"""`reproduce/fewer_tokens.py`: kept draws are the model's, published rules are their formulas, results follow from both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import exptilt as xt
from exptilt.engines import TableEngine
from exptilt.evaluation.evaluate import all_results
from exptilt.evaluation.tasks import Task
from exptilt.populations.leading import leads
from exptilt.testing.toys import random_table
from exptilt.usage import Work
from reproduce import published_rules as published
from reproduce.fewer_tokens import POOL, RESULTS, Results, plans, replayed
from reproduce.fewer_tokens_page import page
from reproduce.pool import Pool, Replay, answered, drawn, response, rewarded


def first(text: str) -> str | None:
    return text[:1] or None


TASK = Task("toy", tuple("abcd"), ("1", "0", "1", "0"), first, lambda text, reference: text[:1] == reference, 4)
ENGINE = TableEngine(random_table(5, 3), 4, 2)


def pool_of(seed: int) -> Pool:
    references = dict(zip(TASK.texts, TASK.references, strict=True))
    return drawn(ENGINE, TASK, 32, seed, references, lambda prompt, drafts: [float(len(each.tokens)) for each in drafts], 2)


def test_kept_draws_are_the_draws_of_the_model(tmp_path: Path) -> None:
    """The same stops, tokens, answers and weights, of first successes and of distinct votes, through a file."""
    Pool.joined([pool_of(1), pool_of(7)]).save(tmp_path / "pool.npz")
    pool = Pool.load(tmp_path / "pool.npz")
    assert (pool.problems, pool.draws) == (8, 32)
    truth = dict(zip(TASK.texts, TASK.references, strict=True))
    right = lambda prompt, drafts: [float(TASK.correct(draft.text, truth[prompt])) for draft in drafts]  # noqa: E731
    model, kept = xt.Target(ENGINE, right, 0.5), xt.Target(Replay(pool, Work()), rewarded(pool, pool.right), 0.5)
    rule, sampler = xt.until.reward(1.0), xt.Independent(16, batch=2)
    for block, seed in enumerate((1, 7)):
        numbers = [str(4 * block + row) for row in range(4)]
        for until, reader, select in ((rule, None, xt.best), (None, first, xt.vote(first))):
            one = all_results(xt.run(model, TASK.prompts, sampler, select=select, until=until, seed=seed))
            again = select if reader is None else xt.vote(answered)
            other = all_results(xt.run(kept, numbers, sampler, select=again, until=until))
            assert [result.usage.tokens for result in one] == [result.usage.tokens for result in other]
            assert [first(result.text) or "" for result in one] == [result.text for result in other]
            for mine, theirs in zip(one, other, strict=True):
                assert mine.population.log_w == pytest.approx(theirs.population.log_w, abs=1e-6)
                assert [response(pool, draft) for draft in theirs.population.drafts]


def test_published_rules_are_their_formulas() -> None:
    """For two answers both are the Beta integral; for more the Dirichlet rule is the share of draws that the first one leads."""
    for counts in ((1,), (3,), (4, 2), (9, 9), (0, 0)):
        assert published.leads_of_two(counts) == pytest.approx(leads(*(*counts, 0)[:2]))
        assert published.leads_of_all(counts) == pytest.approx(leads(*(*counts, 0)[:2]), abs=1e-4)
    draws = np.random.default_rng(0).dirichlet([6, 3, 3, 2], 200_000)
    share = float((draws.argmax(axis=1) == 0).mean())
    assert published.leads_of_all((5, 2, 2, 1)) == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / 200_000))


def test_windows_are_asked_when_they_are_full() -> None:
    rule = published.window(first, 3)
    stops = [size for size in range(1, 10) if rule(population("aabaaabbb"[:size]))]
    assert stops == [6, 9]
    assert not rule(population("..."))


def population(letters: str) -> xt.Population:
    drafts = [xt.Draft("x", (row,), None, "" if letter == "." else letter, "stop") for row, letter in enumerate(letters)]
    return xt.Population.unweighted(drafts, np.zeros(len(drafts)))


def test_the_results_follow_from_the_kept_draws() -> None:
    """Three rows of the page, computed anew; and the page is the one that these results make."""
    pool, results = Pool.load(POOL), Results(RESULTS)
    limits = [""] * pool.problems
    wanted = {"true verifier: first success of 8", "vote: distinct, 4 draws", "vote: majority of 4"}
    for plan in plans():
        if (name := f"{plan.group}: {plan.name}") in wanted:
            found = replayed(pool, plan, limits)
            wanted.remove(name)
            assert (found.right, found.tokens) == (results.methods[name].right, results.methods[name].tokens)
    assert not wanted
    assert page(results) == (RESULTS.parents[2] / "docs" / "fewer_tokens.md").read_text()
