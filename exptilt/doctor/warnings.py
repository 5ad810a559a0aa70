"""Reasons against a long run in a pilot's draws and reward, in plain words, each with its cure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from exptilt.core import Engine
from exptilt.doctor.examination import Examination, Goal
from exptilt.doctor.findings import Findings
from exptilt.running.result import Failure, Result

_FEW = 5  # an interval over fewer prompts says little


def warn(
    examination: Examination, goal: Goal, engine: Engine, failures: Sequence[Failure], results: Sequence[Result]
) -> Iterator[str]:
    """What the user should know before the run, the most serious first."""
    yield from _about_reward(examination, failures)
    yield from _about_draws(examination.findings, engine)
    yield from _about_estimates(examination, goal)
    if cut := sum(result.limit is not None for result in results):
        yield f"The budget of tokens ended the pilot of {cut} prompts early: give more tokens, or fewer prompts or draws."
    if (advice := getattr(engine, "advice", None)) is not None:
        yield advice


def _about_reward(examination: Examination, failures: Sequence[Failure]) -> Iterator[str]:
    checks, findings, speed = examination.checks, examination.findings, examination.speed
    if failures:
        (kind, message), count = Counter((failure.error, failure.message) for failure in failures).most_common(1)[0]
        yield f"{len(failures)} of {len(failures) + findings.prompts} prompts failed, {count} with {kind}: {message}"
    if checks.changed > 0:
        yield (
            f"The reward gave the same drafts values that differ by up to {checks.changed:.3g} when asked again: no fixed target "
            "exists, and weights, log Ẑ and all below mean little. Freeze it: seed it, or cache its answers."
        )
    elif checks.alone > 1e-6 * max(1e-9, findings.within):
        yield (
            f"A draft's reward depends on what is rated with it: it differs by up to {checks.alone:.3g} when a draft is rated "
            "alone. Samplers rate drafts in calls of many sizes: rate each draft independently."
        )
    if abs(findings.drift) > 0.5:
        longer = "longer" if findings.drift > 0 else "shorter"
        yield (
            f"The reward follows length (correlation {findings.drift:+.2f}): tilting by it makes responses {longer}. "
            "Where that is not meant, take length out of the reward."
        )
    if speed.per_rating > speed.per_token * findings.length:
        yield (
            f"Rating a draft takes {speed.per_rating:.2g} s, longer than drawing it ({speed.per_token * findings.length:.2g} s): "
            "rate in batches, or take a cheaper reward."
        )


def _about_draws(findings: Findings, engine: Engine) -> Iterator[str]:
    if findings.flat == findings.prompts:
        yield (
            "No two draws of a prompt differ in reward: there is nothing to tilt by. Raise the temperature, fix the reward, or "
            "let it grade partial success, by which filters find what no draw reached (docs/chains.md)."
        )
    elif findings.flat * 3 > findings.prompts:
        yield (
            f"On {findings.flat} of {findings.prompts} prompts all draws have the same reward: independent draws gain nothing "
            "there, and β and sampler are judged on the others."
        )
    if findings.poor:
        have = "prompt has" if findings.poor == 1 else "prompts have"
        yield (
            f"{findings.poor} {have} no draw as good as the mean of all {findings.prompts}: what the model never draws, no "
            "weight can find. Take a better model, or more draws there."
        )
    if findings.excluded > 0.5:
        yield f"The reward excludes {findings.excluded:.0%} of the draws (-inf): let it fall to a finite value where it can."
    if findings.capped > 0.05:
        yield (
            f"{findings.capped:.0%} of the responses hit the cap of {engine.max_tokens} tokens and are rated as they stand: "
            "raise it (max_tokens) where answers are cut."
        )
    if findings.distinct < 0.25:
        yield f"Only {findings.distinct:.0%} of a prompt's draws differ in text: a higher temperature gives more to choose from."


def _about_estimates(examination: Examination, goal: Goal) -> Iterator[str]:
    findings, share, kl, beta = examination.findings, examination.share, examination.kl, examination.beta
    if share is None or kl is None or beta is None:
        return
    varied, count = findings.prompts - findings.flat, findings.draws / findings.prompts
    if varied < _FEW:
        what = "the draws of one prompt" if varied == 1 else f"{varied} prompts"
        yield f"The intervals come from {what} and are too narrow: examine {_FEW} prompts or more whose reward varies."
    for name, wanted, found in (("KL (nats)", goal.kl, kl.value), ("share of effective draws", goal.share, share.value)):
        if wanted is not None and abs(found - wanted) > 0.01 * wanted:
            yield (
                f"A {name} of {wanted:g} cannot be had, or not be told, from {count:.0f} draws of these rewards: β is for "
                f"{found:.2f}. Draw a larger pilot (draws), or ask for less."
            )
    heavy = examination.heavy
    if count * share.value < 4 or heavy * 3 > varied:
        few = f"{count * share.value:.1f} of {count:.0f} draws hold the weight"
        why = f"k̂ shows a heavy tail of the weights on {heavy} of {varied} prompts" if heavy * 3 > varied else few
        yield (
            f"The pilot is too small for β = {beta.value:.3g}: {why}, and rarer, better draws would change the figures. "
            f"Draw a pilot of {4 * count:.0f} for each prompt (draws), or take a larger β."
        )
