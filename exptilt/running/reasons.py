"""Reasons not to trust a run, besides those in its population: its target, its proposal, its stop rule."""

from __future__ import annotations

from exptilt.core import Sampler, Target
from exptilt.populations.until import Until
from exptilt.proposals import cover_warning
from exptilt.running.session import Session


def of_target(target: Target) -> list[str]:
    """Reasons not to trust any population of this target."""
    found = None if target.proposal is None else cover_warning(target.engine, target.proposal)
    return [found] if found else []


def of_run(session: Session, sampler: Sampler, until: Until | None) -> list[str]:
    """What a proposal and a stop rule do to a result, beside what `stopped` and `limit` say."""
    return [*_of_proposal(session), *_of_rule(session, sampler, until)]


def _of_proposal(session: Session) -> list[str]:
    overlap, target = session.overlap, session.target
    found = None if overlap is None or target.proposal is None else overlap.warning(target.engine.name, target.proposal.name)
    return [found] if found else []


def _of_rule(session: Session, sampler: Sampler, until: Until | None) -> list[str]:
    if until is None:
        return []
    if len(session.trace) == 1 and getattr(sampler, "batch", 0) is None:
        return [
            f"{type(sampler).__name__} drew everything at once, so the stop rule could save nothing: give it a batch, "
            "and the rule is asked after each."
        ]
    if session.stopped == "done" and session.trace[-1]["log_z"] is not None:
        return [
            "The stop rule was not met, and only results where it was not have log Ẑ: over many prompts or seeds these are a "
            "selection, whose mean is biased."
        ]
    return []
