"""The promises of engines: what every engine keeps, each a check that `exptilt.testing.engines` runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from exptilt.blocks import Block
from exptilt.draft import Draft
from exptilt.engines.certainty import CertainEngine
from exptilt.errors import CapabilityError
from exptilt.keys import Floats
from exptilt.testing.contract import require
from exptilt.testing.engines import EngineContract, keys, promise
from exptilt.usage import Work


def grown(stem: Draft, draft: Draft) -> tuple[int, ...]:
    """The tokens decided after the stem, in the order of their decisions."""
    order = range(draft.decided) if draft.order is None else draft.order
    return tuple(draft.tokens[position] for position in order[stem.decided :])


def logq_of(draft: Draft) -> Floats:
    return np.array(draft.logq or (), dtype=np.float64)


# ------------------------------------------------------------------------------------------------- the distribution


def _require_close(score: Floats, recorded: Floats, tolerance: float, what: str) -> None:
    """Relative as well: that of an improbable token is a difference of large logits, and rounding grows with them."""
    require(len(score) == len(recorded), f"{what}: {len(score)} values for {len(recorded)} decisions")
    close = np.allclose(score, recorded, rtol=tolerance, atol=tolerance)
    require(
        close, f"{what}: they differ by up to {np.max(np.abs(score - recorded), initial=0.0):.3g} nats ({tolerance:g} allowed)"
    )


@promise("logq", "score")
def recorded_log_probabilities_are_the_scores(case: EngineContract) -> None:
    some = case.alone[:32]
    for draft, score in zip(some, case.engine.score(some), strict=True):
        _require_close(score, logq_of(draft), case.tolerance, f"score against logq of {draft.text[:40]!r}")


@promise("score")
def a_score_from_some_decision_on_is_the_end_of_the_whole_score(case: EngineContract) -> None:
    drafts = case.alone[:24]
    starts = [number % (draft.decided + 1) for number, draft in enumerate(drafts)]
    for whole, part, start in zip(case.engine.score(drafts), case.engine.score(drafts, starts), starts, strict=True):
        _require_close(part, whole[start:], case.tolerance, f"score from decision {start} on")


@promise("continue", "score")
def continuations_of_three_tokens_follow_the_distribution(case: EngineContract) -> None:
    _require_frequencies(case, case.start(1)[0], 3)


@promise("continue", "score")
def what_follows_a_cut_follows_the_conditional_distribution(case: EngineContract) -> None:
    long = [draft for draft in case.alone if draft.decided > 3]
    require(bool(long), "no response has more than three tokens: give other prompts or a higher max_tokens")
    stem = long[0].cut(2)
    require((stem.decided, stem.finish) == (2, None), "a draft cut after two decisions must be unfinished")
    _require_frequencies(case, stem, 2)


def _require_frequencies(case: EngineContract, stem: Draft, tokens: int) -> None:
    """Continuations are as frequent as their scores say, within five standard errors.

    The outcomes compared are the most frequent of other draws; all others are taken together.
    """
    found = case.engine.extend([stem] * case.draws, keys(case.draws, 1), tokens)
    examples = {grown(stem, draft): draft for draft in found}
    common = [name for name, times in Counter(grown(stem, draft) for draft in found).most_common(12) if times >= 30]
    require(
        len(common) > 1,
        "fewer than two continuations are common: draw by the keys, and give prompts with a few different answers",
    )
    scores = case.engine.score([examples[name] for name in common], [stem.decided] * len(common))
    expected = {name: math.exp(score.sum()) for name, score in zip(common, scores, strict=True)}
    drawn = case.engine.extend([stem] * case.draws, keys(case.draws, 2), tokens)
    counts = Counter(name if name in expected else () for name in (grown(stem, draft) for draft in drawn))
    for name, p in {**expected, (): 1 - sum(expected.values())}.items():
        share, slack = counts[name] / case.draws, 5 * math.sqrt(max(p * (1 - p), 1 / case.draws) / case.draws)
        require(abs(share - p) < slack, f"{name or 'the rest'} has the frequency {share:.4f}, but its score says {p:.4f}")


@promise("steps")
def a_step_of_text_ends_with_the_first_token_that_completes_its_end(case: EngineContract) -> None:
    texts = "".join(draft.text for draft in case.alone)
    require(bool(texts), "no response has any text: give other prompts")
    step, stems = Block(Counter(texts).most_common(1)[0][0]), case.start(24)
    for seed in (3, 4):
        grown = case.engine.extend(stems, keys(24, seed), step)
        for stem, draft in zip(stems, grown, strict=True):
            counts = range(stem.decided + 1, draft.decided)
            parts = case.engine.extend([draft.cut(count) for count in counts], keys(len(counts)), 0)
            early = [part for part in parts if step.ends_in(stem.text, part.text)]
            require(not early, f"a step of text that ends at {step.texts} went past {early[:1]}")
            ended = stem.finish or draft.finish or step.ends_in(stem.text, draft.text)
            require(bool(ended), f"a step of text that ends at {step.texts} ended with {draft.text!r}")
        stems = grown
    [short] = case.engine.extend(case.start(1), keys(1), Block("\0", tokens=2))
    require(short.decided <= 2, f"a step of at most 2 tokens has {short.decided}")


# ------------------------------------------------------------------------------------------ keys, batches and threads


def _require_same(drafts: Sequence[Draft], alone: Sequence[Draft]) -> None:
    """All but one have the same tokens, and those nearly the same log-probabilities: rounding depends on the batch."""
    same = [(one, other) for one, other in zip(drafts, alone, strict=True) if one.tokens == other.tokens]
    require(len(same) >= len(alone) - 1, f"{len(alone) - len(same)} of {len(alone)} drafts differ from those of single calls")
    for one, other in same:
        told = (one.prompt, one.text, one.finish, one.order) == (other.prompt, other.text, other.finish, other.order)
        require(told, f"equal tokens with other texts or ends: {one} and {other}")
        if one.logq is not None:
            _require_close(logq_of(one), logq_of(other), 1e-4, "logq in a batch against logq alone")


@promise(when=lambda case: case.seeded)
def a_batch_gives_what_single_calls_give_in_their_order(case: EngineContract) -> None:
    _require_same(case.engine.extend(case.start(case.singles), keys(case.singles)), case.alone)


@promise(when=lambda case: case.seeded)
def sixteen_threads_at_once_get_what_single_calls_give(case: EngineContract) -> None:
    jobs = list(zip(case.start(case.singles), keys(case.singles), strict=True))
    with ThreadPoolExecutor(16) as pool:
        drafts = list(pool.map(lambda job: case.engine.extend([job[0]], [job[1]])[0], jobs))
    _require_same(drafts, case.alone)


@promise()
def copies_of_one_draft_differ_by_their_keys(case: EngineContract) -> None:
    different = len({draft.tokens for draft in case.engine.extend([case.start(1)[0]] * 32, keys(32))})
    require(different > 8, f"32 keys gave {different} different responses to one prompt: draws must depend on their keys")


# ----------------------------------------------------------------------------------------------------- drafts and ends


@promise()
def the_cap_holds_and_ends_are_told(case: EngineContract) -> None:
    cap = case.engine.max_tokens
    finishes = {draft.finish for draft in case.alone}
    require(finishes <= {"stop", "length"}, f"finished drafts say finish={finishes}")
    longest = max(draft.decided for draft in case.alone)
    require(longest <= cap, f"a draft has {longest} tokens, and max_tokens is {cap}")
    if "continue" in case.engine.can:  # else a response may be one piece
        lengths = {draft.decided for draft in case.alone if draft.finish == "length"}
        require(lengths <= {cap}, f'drafts of {lengths} tokens say finish="length", and max_tokens is {cap}')
    require(any(draft.text for draft in case.alone), "no draft has a text")


@promise("continue")
def a_call_decides_as_many_tokens_as_it_is_asked_for(case: EngineContract) -> None:
    half = case.engine.extend(case.start(20), keys(20), 2)
    require(
        all(draft.decided == 2 for draft in half if draft.finish is None),
        "an unfinished draft lacks some of the two tokens asked for",
    )
    require(all(draft.decided <= 2 for draft in half if case.stops), "a draft has more tokens than the two asked for")
    whole = case.engine.extend(half, keys(20, 1))
    require(all(draft.finish is not None for draft in whole), "a draft is unfinished although no number of tokens was given")
    for stem, draft in zip(half, whole, strict=True):
        require(draft.cut(stem.decided).tokens == stem.cut(stem.decided).tokens, f"{draft} does not continue {stem}")
        kept = draft.logq is None or draft.logq[: stem.decided] == stem.logq
        require(kept, "extending a draft changed the log-probabilities that it had")
    if {"logq", "score"} <= case.engine.can:
        for draft, score in zip(whole, case.engine.score(whole), strict=True):
            _require_close(score, logq_of(draft), case.tolerance, "score against logq of a draft drawn in two calls")


@promise(when=lambda case: case.stops and case.seeded)
def a_stop_string_ends_the_text_before_it(case: EngineContract) -> None:
    letter = Counter(letter for draft in case.alone for letter in set(draft.text)).most_common(1)[0][0]
    stopping = case.engine.with_sampling(stop=[letter])
    drafts = stopping.extend(case.start(case.singles), keys(case.singles))
    right = sum(draft.text == other.text.partition(letter)[0] for draft, other in zip(drafts, case.alone, strict=True))
    require(
        right >= case.singles - 1, f"with stop={letter!r} {case.singles - right} of {case.singles} texts do not end before it"
    )
    stopped = [draft for draft, before in zip(drafts, case.alone, strict=True) if letter in before.text]
    said = sum(draft.finish == "stop" for draft in stopped)
    require(said >= len(stopped) - 1, f'{len(stopped) - said} of {len(stopped)} stopped drafts do not say finish="stop"')


@promise()
def finished_drafts_come_back_unchanged_and_in_their_order(case: EngineContract) -> None:
    new = case.start(2)[1]
    one, fresh, two, other = case.engine.extend([case.alone[0], new, case.alone[2], new], keys(4, 3))
    require((one, two) == (case.alone[0], case.alone[2]), "a finished draft was changed by extend")
    finished = all(draft.prompt == new.prompt and draft.finish is not None for draft in (fresh, other))
    require(finished, "drafts between finished ones are not finished, or not of their prompt")
    require(case.engine.extend([], []) == [], "extend of no drafts must give none")
    require("score" not in case.engine.can or case.engine.score([]) == [], "score of no drafts must give none")


# ------------------------------------------------------------------------------------------------- work, views, claims


@promise()
def a_meter_counts_what_its_own_engine_does(case: EngineContract) -> None:
    work, other = Work(), Work()
    engine, silent = case.engine.metered(work), case.engine.metered(other)
    drafts = engine.extend(case.start(6), keys(6, 5))
    decided = sum(draft.decided for draft in drafts)
    if "continue" in engine.can:  # else a response may be one piece
        require(work.generated == decided, f"{work.generated} tokens counted as generated, {decided} drawn")
    require(min(work.generated, work.forwards) > 0 == work.scored, f"drawing was counted as {work}")
    if "score" in engine.can:
        engine.score(drafts)
        require(work.scored == decided, f"{work.scored} tokens counted as scored, {decided} rated")
    require(other == Work(), f"another meter of the engine counted {other}")
    require(dict(silent.settings) == dict(engine.settings), "a meter changed the settings")


@promise("continue")
def tokens_whose_cache_was_reused_are_counted(case: EngineContract) -> None:
    work = Work()
    engine = case.engine.metered(work)
    stems = engine.extend([case.start(1)[0]] * 8, keys(8, 6), 2)
    stem = next((draft for draft in stems if draft.finish is None), None)
    require(stem is not None, "eight responses of one prompt all end within two tokens: give prompts with longer ones")
    assert stem is not None
    before = work.cached
    engine.extend([stem] * 4, keys(4, 7), 2)
    require((work.cached > before) == case.caches, f"{work.cached - before} reused tokens counted, caches={case.caches}")


@promise()
def a_view_has_another_temperature_over_the_same_tokens(case: EngineContract) -> None:
    engine = case.engine
    settings = dict(engine.settings)
    heat = settings["temperature"]
    hot = engine.with_sampling(temperature=1.5 * heat)
    same = (hot.name, hot.alphabet, hot.max_tokens) == (engine.name, engine.alphabet, engine.max_tokens)
    require(same, "another temperature changed name, alphabet or max_tokens")
    require(dict(hot.settings) == settings | {"temperature": 1.5 * heat}, "settings do not tell the new temperature alone")
    require(dict(engine.settings) == settings, "with_sampling changed the engine itself")
    require(dict(hot.with_sampling(temperature=heat).settings) == settings, "going back to the old temperature changed something")
    drafts = hot.extend(case.start(24), keys(24))
    if {"logq", "score"} <= hot.can:
        for draft, score in zip(drafts, hot.score(drafts), strict=True):
            _require_close(score, logq_of(draft), case.tolerance, "score against logq at a higher temperature")
    if "score" in engine.can:
        cold, warm = (float(np.mean(np.concatenate(engine.score(some)))) for some in (case.alone[:24], drafts))
        require(warm < cold, "draws at a higher temperature are not less likely")


@promise()
def an_engine_can_what_it_claims_and_refuses_the_rest(case: EngineContract) -> None:
    engine = case.engine
    drafts = engine.extend(case.start(4), keys(4, 8))
    told = [draft.logq is not None for draft in drafts]
    require(set(told) == {"logq" in engine.can}, f'"logq" in can is {"logq" in engine.can}; drafts carry them: {told}')
    full = all(draft.logq is None or len(draft.logq) == draft.decided for draft in drafts)
    require(full, "a draft does not have one log-probability for each decision")
    attempts: dict[str, Callable[[], Any]] = {
        "continue": lambda: engine.extend([engine.extend(case.start(1), keys(1), 1)[0]], keys(1), 1),
        "score": lambda: engine.score(drafts),
    }
    for ability, attempt in attempts.items():
        _require_claim(ability, attempt, ability in engine.can)
    if case.seeded:
        again = engine.extend(case.start(4), keys(4, 8))
        require([draft.tokens for draft in again] == [draft.tokens for draft in drafts], "the same keys gave other drafts")
    if "certainty" in engine.can:
        require(isinstance(engine, CertainEngine), '"certainty" is claimed, and there is no method of that name')
        assert isinstance(engine, CertainEngine)
        counts = [len(sure.entropy) for sure in engine.certainty(drafts)]
        require(counts == [draft.decided for draft in drafts], "certainty does not have one value for each decision")


def _require_claim(ability: str, attempt: Callable[[], Any], claimed: bool) -> None:
    try:
        attempt()
    except CapabilityError as refused:
        require(not claimed, f'"{ability}" is claimed and refused: {refused}')
        return
    require(claimed, f'"{ability}" is not claimed, and not refused with CapabilityError either')
