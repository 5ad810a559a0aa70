"""Rows of equal tokens are one branch: one forward for all of them, and the drafts that each would have drawn alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from exptilt.engines.distribution_torch import BLOCK, Laws, draw
from exptilt.engines.hf.loading import read_weights
from exptilt.engines.language import LanguageEngine
from exptilt.engines.sampling import Sampling
from exptilt.keys import Key
from exptilt.usage import Work

from .laws import agree, prefixes

PROMPTS = ["a prompt with a beginning that is long enough for a trunk", "short"]


@pytest.fixture
def engine(model_folder: Path) -> LanguageEngine[Any]:
    """The drafts of three likely tokens at a time often share their first ones."""
    return LanguageEngine(read_weights(model_folder, name="small"), Sampling(max_tokens=12, top_k=3))


def keys(count: int, seed: int = 0) -> list[Key]:
    return [Key(seed, i) for i in range(count)]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_equal_rows_are_one_forward_and_draw_as_if_alone(engine: LanguageEngine[Any], prompt: str) -> None:
    """Evaluated twice, or parted late, they would cost more than their distinct prefixes; parted wrongly, scores would differ."""
    work = Work()
    together = engine.metered(work).extend([engine.start(prompt)] * 24, keys(24))
    assert work.forwards == 1 + prefixes(together) < work.generated, "and one to read the prompt"
    agree(engine, together, [engine.extend([engine.start(prompt)], [key])[0] for key in keys(24)])


def test_rows_of_other_temperatures_prompts_and_lengths_share_no_branch_they_should_not(engine: LanguageEngine[Any]) -> None:
    """Rollouts: each candidate's rows are a branch of their own from where it ends, and go on from its key-values."""
    begun = engine.extend([engine.start(PROMPTS[0])] * 4, keys(4), tokens=3)
    going = [draft for draft in begun if draft.finish is None for _ in range(6)]
    work = Work()
    rolled = engine.metered(work).extend(going, keys(len(going), seed=1))
    assert work.forwards == prefixes(rolled, start=3) < work.generated
    agree(engine, rolled, [engine.extend([draft], [key])[0] for draft, key in zip(going, keys(len(going), seed=1), strict=True)])
    warm = engine.with_sampling(temperature=3.0)
    both = [engine.extend([engine.start(PROMPTS[1])] * 8, keys(8)), warm.extend([warm.start(PROMPTS[1])] * 8, keys(8))]
    assert both[0] != both[1]
    agree(warm, both[1], [warm.extend([warm.start(PROMPTS[1])], [key])[0] for key in keys(8)])


def test_equal_drafts_are_scored_once_and_each_has_scores_of_its_own(engine: LanguageEngine[Any]) -> None:
    """Rollouts of a small proposal are often equal: half of what the model scored of them, it had scored."""
    drafts = engine.extend([engine.start(prompt) for prompt in PROMPTS for _ in range(8)], keys(16), tokens=2)
    drafts, starts = drafts * 2, [0] * 16 + [1] * 16
    alone = [engine.score([draft], [start])[0] for draft, start in zip(drafts, starts, strict=True)]
    work = Work()
    together = engine.metered(work).score(drafts, starts)
    different = {(draft.prompt, draft.tokens, start) for draft, start in zip(drafts, starts, strict=True)}
    assert work.forwards <= len(different) < len(drafts)
    assert work.scored == sum(map(len, together)), "tokens that were given a score"
    for scores, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(scores, other, atol=1e-5)
    twins = next((i, j) for i in range(16) for j in range(i) if drafts[i] == drafts[j])
    together[twins[0]][:] = 1.0
    np.testing.assert_allclose(together[twins[1]], alone[twins[1]], atol=1e-5)


def test_a_branch_loses_the_rows_that_are_given_up(engine: LanguageEngine[Any]) -> None:
    """The rows that stay go on in the branch; the slot goes with the last of them."""
    decoder = engine.backend.decoder
    context = engine.prompt_tokens(PROMPTS[0])
    rows = [engine.backend.layout.row(engine.start(PROMPTS[0]), context, engine.sampling, key, None) for key in keys(6)]
    decoder.join(rows)
    assert (len(decoder.branches), decoder.slots.rows, decoder.rows) == (1, 1, rows)
    decoder.leave(rows[:5])
    while decoder.rows:
        assert decoder.rows == rows[5:]
        decoder.step()
    assert decoder.slots.rows == 0
    assert decoder.slots.trunks is None or not any(decoder.slots.trunks.held)
    [alone] = engine.extend([engine.start(PROMPTS[0])], keys(6)[5:])
    assert tuple(rows[5].tokens) == alone.tokens


@pytest.mark.parametrize("vocabulary", [50, BLOCK // 3])
def test_several_draws_from_one_row_are_those_from_as_many_equal_rows(vocabulary: int) -> None:
    """The second vocabulary is large enough for rows to be taken in several blocks, where offsets of the draws must follow."""
    generator = torch.Generator().manual_seed(7)
    logits, counts = torch.randn(5, vocabulary, generator=generator), [3, 1, 4, 1, 2]
    uniforms = torch.rand(sum(counts), dtype=torch.float64, generator=generator)
    each = [Sampling(temperature=0.5 + i, top_k=20 if i % 2 else None) for i in range(5)]
    of = [i for i, count in enumerate(counts) for _ in range(count)]
    device = torch.device("cpu")
    found = draw(logits, Laws.of(each, vocabulary, device), uniforms, counts)
    expected = draw(logits[of], Laws.of([each[i] for i in of], vocabulary, device), uniforms)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], atol=1e-6, rtol=0)
