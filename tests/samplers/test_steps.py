"""Steps of text: blocks that end where the text says so keep weights proper, draw by no key twice, and are refused in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

import exptilt as xt
from exptilt.blocks import Block, schedule, step_needs
from exptilt.cli.terminal import describe_sampler
from exptilt.core import Sampler, Target, check_capabilities
from exptilt.describe import describe
from exptilt.draft import Draft
from exptilt.engines.table import TableEngine
from exptilt.errors import CapabilityError, TargetError, UsageError
from exptilt.keys import Key
from exptilt.names import choose_sampler
from exptilt.running.described import sampler_words
from exptilt.samplers import ETS, SMC, Rejection, SuffixMCMC
from exptilt.testing.enumeration import distance, expected_weights, paths
from exptilt.testing.samplers import check_sampler
from exptilt.testing.toys import Toy, autoregressive, constrained, masked
from tests.samplers.test_mcmc import matrix, suffix_states


def lined(toy: Toy, symbols: tuple[str, ...]) -> Toy:
    """The same toy with its tokens written as these symbols; the last one ends the text."""

    def written(engine: Any) -> TableEngine:
        return replace(engine, symbols=symbols, _known={})

    proposal = toy.target.proposal and written(toy.target.proposal)
    return replace(toy, target=replace(toy.target, engine=written(toy.target.engine), proposal=proposal))


def lines_value(prompt: str, drafts: list[Draft]) -> list[float]:
    return [0.4 * draft.text.count("\n") - 0.1 * draft.decided for draft in drafts]


BLOCKS: dict[str, Any] = {
    "every token ends a line": "\n",
    "an end of two tokens": "\n\n",
    "an end that never comes": "x",
    "a token by its id": {0},
    "capped": Block("\n\n", tokens=1),
    "two steps at the most": Block("\n", steps=2),
}


def samplers(block: Any) -> dict[str, Sampler]:
    return {
        "smc": SMC(2, block, 1, threshold=1.0),
        "smc, value": SMC(2, block, value=lines_value, threshold=0.9),
        "ets": ETS(2, 1, block),
        "ets, value": ETS(2, 1, block, value=lines_value, returns="chain"),
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("name", samplers("\n"))
def test_weights_are_proper_with_steps_of_text(name: str, block: str, seed: int) -> None:
    toy = lined(autoregressive(seed, cap=3), ("\n", ""))
    error = distance(expected_weights(samplers(BLOCKS[block])[name], toy.target), toy.gamma)
    assert error < 1e-9 * max(1.0, toy.z)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", samplers("\n"))
def test_weights_are_proper_where_an_end_lies_inside_a_token(name: str, seed: int) -> None:
    """Some drafts pause and others do not, so that steps of unequal lengths compete."""
    toy = lined(autoregressive(seed, symbols=3, cap=2), ("a", "b\nc", ""))
    assert distance(expected_weights(samplers("\n")[name], toy.target), toy.gamma) < 1e-9 * max(1.0, toy.z)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["smc", "ets", "ets, candidates"])
def test_weights_are_proper_with_a_proposal_and_a_constraint(name: str, seed: int) -> None:
    chosen = {**samplers("\n"), "ets, candidates": ETS(2, 1, "\n", propose_candidates=True, value=lines_value)}
    toy = lined(autoregressive(seed, cap=3, proposal=True), ("\n", ""))
    toy = constrained(toy, lambda tokens: tokens[-1] == 0)
    assert distance(expected_weights(chosen[name], toy.target), toy.gamma) < 1e-9 * max(1.0, toy.z)


def test_steps_pass_the_contract_of_samplers() -> None:
    """The contract's run with recorded keys, too: no stream serves twice, and equal keys give equal populations."""
    toys = [lined(autoregressive(seed, cap=3), ("\n", "")) for seed in (11, 12)]
    assert check_sampler(SMC(2, Block("\n\n", tokens=2), 1, threshold=1.0), toys) == 2
    assert check_sampler(ETS(2, 1, "\n"), toys) == 2


def test_a_step_of_one_token_is_a_block_of_one_token() -> None:
    """Where every token ends a line, block="\\n" draws what block=1 draws, but for the last step, which has no next one."""
    toy = lined(autoregressive(3, cap=4), ("\n", ""))
    for seed in range(20):
        for one, other in ((SMC(4, "\n"), SMC(4, 1)), (ETS(3, 2, "\n"), ETS(3, 2, 1))):
            [*_, first], [*_, second] = one(toy.target, "x", Key(seed)), other(toy.target, "x", Key(seed))
            assert first.drafts == second.drafts
            assert first.log_w.tolist() == second.log_w.tolist()


def test_steps_end_where_the_text_says_so() -> None:
    """The trace tells where each step ended: after the first newline of the step, also one inside a token."""
    engine = TableEngine(lambda prefix: [0.5, 0.3, 0.2], 12, 2, symbols=("a", "b\nc", ""))
    target = Target(engine, lambda prompt, drafts: [draft.text.count("a") / 4 for draft in drafts], 1.0)
    ends: Counter[str] = Counter()
    for seed in range(20):
        [*_, population] = ETS(2, 1, "\n")(target, "x", Key(seed))
        before = ""
        for step in population.trace.steps:  # type: ignore[union-attr]
            for candidate in step.candidates:
                own = candidate.removeprefix(before)
                assert own.count("\n") <= 1
                ends["paused" if own.endswith("b\nc") else "finished"] += 1
            before = step.candidates[step.pick]
    assert min(ends["paused"], ends["finished"]) > 10


@pytest.mark.parametrize("seed", range(3))
def test_aborting_by_lines_makes_the_decisions_of_the_undisturbed_chain(seed: int) -> None:
    """`Rejection` and `SuffixMCMC` take steps of text too: acceptance is by whole drafts, so nothing of their laws changes."""
    toy = lined(autoregressive(seed, cap=3), ("\n", ""))
    top = max(toy.target.rate("x", [Draft("x", tokens) for tokens in toy.gamma]))  # type: ignore[arg-type]
    assert distance(expected_weights(Rejection(2, 3, top, block="\n"), toy.target), toy.gamma) < 1e-9 * max(1.0, toy.z)
    sampler = SuffixMCMC(1, block="\n")
    states = suffix_states(sampler, toy)
    plain = matrix(SuffixMCMC(1), toy.target, states, lambda state: state.draft.tokens)
    assert abs(matrix(sampler, toy.target, states, lambda state: state.draft.tokens) - plain).max() < 1e-12


# ------------------------------------------------------------------------------------------------------------- blocks


def test_the_number_of_steps_is_fixed_beforehand() -> None:
    assert schedule(None, 9) == [None]
    assert schedule(4, 9) == [4, 4, 4]
    assert schedule("\n", 3) == [Block("\n"), Block("\n"), None]
    assert schedule(Block("\n", steps=2), 9) == [Block("\n", steps=2), None]
    assert step_needs(9, 9) == step_needs(Block("\n", steps=1), 9) == frozenset()
    assert step_needs(4, 9) == {"continue"}
    assert step_needs("\n", 9) == {"continue", "steps"}


def test_blocks_are_equal_however_they_are_written() -> None:
    """A set has no order of its own: results files and comparisons must not depend on it."""
    assert Block({"\n", ".", 7}) == Block((7, ".", "\n", "."))
    assert Block("\n").ends == ("\n",)


@pytest.mark.parametrize(
    ("before", "now", "ended"),
    [
        ("", "a\n", True),
        ("a\n", "a\nb", False),
        ("a\n", "a\n\n", True),
        ("a\n", "a\n\nb", True),
        ("a\ufffd", "aé\n", True),  # the step before ended inside a character
        ("a\ufffd", "aéb", False),
        ("a\n\ufffd", "a\né", False),
    ],
)
def test_what_ends_a_step_is_in_its_own_text(before: str, now: str, ended: bool) -> None:
    assert Block("\n").ends_in(before, now) == ended


@pytest.mark.parametrize("bad", [0, -1, True, 2.0, "", set(), {""}, {-3}, {1.5}, [b"x"], {"ends": "."}])
@pytest.mark.parametrize("make", [lambda b: SMC(2, b), lambda b: ETS(2, 1, b), lambda b: SuffixMCMC(2, block=b)])
def test_bad_blocks_are_refused_at_construction(make: Any, bad: Any) -> None:
    with pytest.raises(ValueError, match=r"block=.*give a whole number"):
        make(bad)


@pytest.mark.parametrize("bad", [{"ends": ()}, {"ends": "\n", "tokens": 0}, {"ends": "\n", "steps": 1.5}, {"ends": (True,)}])
def test_bad_steps_of_text_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="Block"):
        Block(**bad)


def test_an_engine_that_cannot_end_a_step_is_refused_before_anything_is_drawn() -> None:
    toy = masked(1)
    for sampler in (SMC(2, "\n"), ETS(2, 1, "\n"), SuffixMCMC(2, block="\n")):
        with pytest.raises(CapabilityError, match=r"steps.*blocks counted in tokens"):
            check_capabilities(sampler, toy.target)
    engine = toy.target.engine
    with pytest.raises(CapabilityError, match="number of tokens"):
        engine.extend([engine.start("x")], [Key(1)], Block("\n"))
    with pytest.raises(CapabilityError, match="steps"):  # the proposal's ability counts as well
        check_capabilities(SMC(2, "\n"), replace(lined(autoregressive(1), ("\n", "")).target, proposal=unable(autoregressive(1))))


def unable(toy: Toy) -> Any:
    class Unable(TableEngine):
        can = frozenset({"continue", "logq", "score"})

    engine = toy.target.engine
    assert isinstance(engine, TableEngine)
    return Unable(engine.next_probs, engine.max_tokens, engine.end)


def test_step_weights_count_the_steps_there_can_be() -> None:
    target = lined(autoregressive(1, cap=3), ("\n", "")).target
    with pytest.raises(TargetError, match="2 step_weights but takes 3 steps"):
        ETS(2, 1, "\n", step_weights=(0.5, 0.5)).needs(target)
    ETS(2, 1, Block("\n", steps=2), step_weights=(0.5, 0.5)).needs(target)


@pytest.mark.parametrize(("text", "block"), [("32", 32), (r"\n", "\n"), (".", "."), (r"\n\n", "\n\n"), ("none", None)])
def test_the_command_line_reads_blocks_as_numbers_or_texts(text: str, block: Any) -> None:
    for name in ("smc", "ets"):
        assert choose_sampler(name).settings["block"].read(text) == block


def test_the_command_line_refuses_blocks_of_no_tokens() -> None:
    with pytest.raises((ValueError, UsageError), match="block"):
        choose_sampler("smc").make({"block": "0"})


# -------------------------------------------------------------------------------------------------------------- a model


def test_a_model_ends_steps_at_line_ends_and_says_the_same_of_all_ways_there() -> None:
    """Lines of a trained model: each step is one line, and what is drawn step by step has the scores of one draw."""
    pytest.importorskip("transformers")
    engine = xt.load("tiny", max_tokens=48)
    prompt = "Tom has 3 apples and buys 4 bags of 6. How many has he?"
    drafts, lines = [engine.start(prompt)] * 12, 0
    for step in range(48):
        if all(draft.finish for draft in drafts):
            break
        before = [draft.text for draft in drafts]
        grown = engine.extend(drafts, [Key(2, step, number) for number in range(12)], Block("\n"))
        for draft, old, text in zip(grown, drafts, before, strict=True):
            own = draft.text[len(text) :]
            lines += own.count("\n")
            assert old.finish or own.count("\n") == 1 or (draft.finish and own.count("\n") <= 1)
        drafts = grown
    assert all(draft.finish for draft in drafts)
    assert lines > 12
    for draft, score in zip(drafts, engine.score(drafts), strict=True):
        assert draft.logq == pytest.approx(score.tolist(), abs=1e-4)
    with pytest.raises(ValueError, match="ends at token 99999999"):
        engine.extend([engine.start(prompt)], [Key(3)], Block(99999999))  # type: ignore[arg-type]


def test_every_path_of_a_table_pauses_after_its_first_end() -> None:
    engine = TableEngine(lambda prefix: [0.5, 0.3, 0.2], 3, 2, symbols=("a", "\n", ""))
    law = Counter[str]()
    for probability, [draft] in paths(lambda key: engine.extend([engine.start("x")], [key], Block("\n", tokens=2))):
        law[repr(draft.text) + str(draft.finish)] += probability  # type: ignore[assignment]
    assert law == pytest.approx({"'\\n'None": 0.3, "''stop": 0.2, "'aa'None": 0.25, "'a\\n'None": 0.15, "'a'stop": 0.1})


def test_blocks_are_told_in_words_on_screens_and_reports() -> None:
    """A newline was printed as such, which broke the line that names the sampler."""
    lines, capped = SMC(4, "\n"), SMC(4, Block("\n", tokens=64, steps=3))
    for sampler, words in ((lines, r"SMC particles 4, block '\n'"), (capped, r"up to '\n' within 64 tokens, 3 at the most")):
        assert words in describe_sampler(sampler)
        assert words in sampler_words(describe(sampler))
