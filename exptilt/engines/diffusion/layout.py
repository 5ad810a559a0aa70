"""How drafts of masked positions become rows, and rows drafts (`exptilt.engines.backend.Layout`).

Drafts have `max_tokens` positions, MASK where nothing has been decided; `order` lists the decided positions and `logq` their
log-probabilities. A finished draft may have undecided positions, in the blocks after its end.
"""

from __future__ import annotations

import numpy as np

from exptilt.blocks import Block, BlockSize
from exptilt.draft import MASK, Draft, Prompt
from exptilt.engines.diffusion.row import Path, Row
from exptilt.engines.diffusion.sampling import DiffusionSampling
from exptilt.engines.row import Measure
from exptilt.errors import CapabilityError
from exptilt.keys import Key


class Masked:
    """The layout of drafts that are decided position by position."""

    def alphabet(self, vocabulary: str, sampling: DiffusionSampling) -> str:
        """Vocabulary and blocks: a draft that is decided in other blocks cannot be read under this distribution."""
        return f"{vocabulary}-blocks-{sampling.block or sampling.max_tokens}"

    def start(self, prompt: Prompt, sampling: DiffusionSampling) -> Draft:
        return Draft(prompt, (MASK,) * sampling.max_tokens, () if sampling.has_density else None, order=())

    def row(self, draft: Draft, prompt: tuple[int, ...], sampling: DiffusionSampling, key: Key, tokens: BlockSize | None) -> Row:
        assert not isinstance(tokens, Block)  # "steps" is not among what the engine can do, which is seen before
        path = _path(draft, sampling)
        decided = len(path.positions)
        stop = sampling.max_tokens if tokens is None else min(sampling.max_tokens, decided + tokens)
        if not sampling.has_density:
            _check_whole_steps(sampling, decided, stop)
        start = sampling.step_start(decided)
        return Row(prompt, sampling, list(path.positions), list(path.tokens), start, stop, key.rng())

    def response(self, row: Row, ends: frozenset[int]) -> list[int]:
        """The decided tokens in the order of their positions, up to the first end of text."""
        tokens = [token for _, token in sorted(zip(row.positions, row.tokens, strict=True))]
        return tokens[: next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))]

    def extended(self, draft: Draft, row: Row, text: str) -> Draft:
        tokens = list(draft.tokens)
        for position, token in zip(row.positions, row.tokens, strict=True):
            tokens[position] = token
        logq = None if draft.logq is None else (*draft.logq, *row.logq)
        return Draft(draft.prompt, tuple(tokens), logq, text, row.finish, tuple(row.positions))

    def rated(
        self, draft: Draft, prompt: tuple[int, ...], sampling: DiffusionSampling, start: int, measure: Measure
    ) -> list[Row]:
        """Rows that score a draft: one for each step where steps are known, one for each block where a threshold sets them."""
        path, rows = _path(draft, sampling), []
        total, begin = len(path.positions), sampling.step_start(start)
        while begin < total:
            end = sampling.span(begin)[1]
            if sampling.threshold is None:
                end = min(end, begin + sampling.per_step)
            done = list(path.positions[:begin]), list(path.tokens[:begin])
            rows.append(Row(prompt, sampling, *done, begin, min(end, total), np.random.default_rng(0), given=path))
            begin = end
        return rows


def _check_whole_steps(sampling: DiffusionSampling, decided: int, stop: int) -> None:
    for count in (decided, stop):
        if count < sampling.max_tokens and sampling.step_start(count) != count:
            raise CapabilityError(
                f'order="low-confidence" with per_step={sampling.per_step} cannot stop or go on after {count} decisions, within '
                "a step: the tokens kept depend on those left out. Use blocks of whole steps, per_step=1, or another order; "
                "SuffixMCMC needs one of the last two."
            )


def _path(draft: Draft, sampling: DiffusionSampling) -> Path:
    """The decisions of a draft. Raises ValueError where it is not a draft of an engine like this."""
    order = draft.order
    if order is None or len(draft.tokens) != sampling.max_tokens:
        raise ValueError(
            f"this engine reads drafts of {sampling.max_tokens} positions with a recorded order, not one of {len(draft.tokens)} "
            f"{'without' if order is None else 'with'} it: start drafts with an engine of the same kind and max_tokens"
        )
    tokens = [draft.tokens[position] for position in order]
    if MASK in tokens:
        raise ValueError(f"decision {tokens.index(MASK)} of a draft has no token: give drafts of engines of this kind")
    for count, position in enumerate(order):
        first, last = sampling.span(count)
        if not first <= position < last:
            raise ValueError(
                f"decision {count} of a draft is at position {position}, but blocks of {sampling.block} have positions "
                f"{first} to {last - 1} decided then: score and continue it with the same blocks"
            )
    return Path(order, tokens)
