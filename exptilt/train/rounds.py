"""Rounds: drafts are drawn, the model is fitted to π, and the fitted model is the proposal that the next round draws from.

Each round's drafts weigh exp(r/β)·p(y)/q(y), where p is the model that the first round began with and q the one that drew them.
So every round aims at the same π, however many there are; expert iteration without that ratio would sharpen what it has
sharpened before. As q comes near π the weights become even, and the effective sample size of the same number of draws grows.

Everything is in one folder: round-1/drawn.jsonl and round-1/model, round-2/... The same call goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from exptilt.core import Engine, Target
from exptilt.engines.loading import load
from exptilt.running.run import run
from exptilt.samplers import Independent
from exptilt.train.align import Aligned, align
from exptilt.train.fitting import Progress
from exptilt.train.models import source_of
from exptilt.train.settings import Fit

Hear = Callable[[int, Aligned], None]
"""Called after each round with its number and its model."""


def align_in_rounds(
    target: Target,
    prompts: Iterable[Any],
    out: str | Path,
    *,
    rounds: int = 1,
    draws: int = 16,
    seed: int = 0,
    fit: Fit | None = None,
    progress: Progress | None = None,
    hear: Hear | None = None,
) -> Aligned:
    """Draw from a target's engine, fit the model, and go on with the fitted model as the proposal.

    target: its engine is p, a model of transformers; its own proposal is not used.
    prompts: as of `exptilt.run`. draws: independent responses for each prompt and round.
    out: the folder of all rounds.
    Returns the model of the last round. Raises TrainError, and whatever drawing raises.
    """
    if rounds < 1 or draws < 2:
        raise ValueError(f"rounds={rounds} must be at least 1, and draws={draws} at least 2: weights are normalised in a prompt")
    base, listed, fit = target.engine.name, [*prompts], fit or Fit()
    source_of(base)  # a model that cannot be trained is refused before anything is drawn
    folder, aligned = Path(out), None
    for number in range(1, rounds + 1):
        place = folder / f"round-{number}"
        name = base if aligned is None else aligned.model
        store = place / "drawn.jsonl"
        _draw(target, None if aligned is None else name, listed, store, draws, seed + number - 1)
        aligned = align(name, [store], place / "model", fit=fit, progress=progress)
        if hear is not None:
            hear(number, aligned)
    assert aligned is not None
    return aligned


def _draw(target: Target, proposal: str | None, prompts: list[Any], store: Path, draws: int, seed: int) -> None:
    if proposal is None:
        run(replace(target, proposal=None), prompts, Independent(draws), store=store, seed=seed)
        return
    with load(proposal, **_sampling(target.engine)) as drawing:
        run(replace(target, proposal=drawing), prompts, Independent(draws), store=store, seed=seed)


def _sampling(engine: Engine) -> dict[str, Any]:
    """How a fitted model draws: as p does, but without truncation, which it has learned where there was one."""
    settings = engine.settings
    names = ("temperature", "max_tokens", "stop", "system", "template", "template_kwargs")
    return {name: settings[name] for name in names if settings.get(name) is not None}
