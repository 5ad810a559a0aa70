"""Chats as prompts: keys, results files, reports, rewards; and drafts whose output is not text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.blocks import BlockSize
from exptilt.core import Target
from exptilt.draft import Chat, Draft, Prompt, question
from exptilt.engines import TableEngine
from exptilt.errors import TargetError
from exptilt.evaluation.evaluate import evaluate
from exptilt.keys import Floats, Key
from exptilt.populations.population import Population
from exptilt.populations.utilities import rouge1
from exptilt.rating import rate
from exptilt.report import write_report
from exptilt.running.lines import decode
from exptilt.running.request import number_jobs
from exptilt.testing.toys import random_table
from exptilt.usage import Work
from tests.report.stores import Page

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How many?"},
    {"role": "assistant", "content": "The answer is"},
]
TABLE = TableEngine(random_table(3, 4), 6, 3)
seen: list[Prompt] = []


def reward(prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
    globals()["seen"].append(prompt)
    return [sum(draft.tokens) / 4 for draft in drafts]


TARGET = Target(TABLE, reward, 0.5)


def test_a_list_of_messages_and_its_chat_are_one_prompt() -> None:
    one, other = (xt.sample(TARGET, prompt, xt.ETS(3, 2, 2)) for prompt in (MESSAGES, Chat.of(MESSAGES)))
    assert one.prompt == other.prompt == Chat.of(MESSAGES)
    assert one.draft == other.draft
    assert one.draft.prompt == Chat.of(MESSAGES)
    assert seen[-1] == Chat.of(MESSAGES)
    assert list(xt.stream(TARGET, MESSAGES, xt.ETS(3, 2, 2)))[-1].draft == one.draft


def test_strings_keep_the_names_they_had_before_there_were_chats() -> None:
    """The digest of a prompt names its random stream and its line: another one would redraw every results file."""
    assert [job.name for job in number_jobs(["prompt 0", "prompt 0"])] == ["1df4d9375a13909e-0", "1df4d9375a13909e-1"]
    names = {job.name for job in number_jobs([MESSAGES, MESSAGES[:2], json.dumps(MESSAGES)])}
    assert len(names) == 3


def test_chats_are_kept_in_a_results_file_and_read_back(tmp_path: Path) -> None:
    store, prompts = tmp_path / "a.jsonl", ["why?", MESSAGES, Chat.of(MESSAGES[:2]), MESSAGES]
    drawn, read = (xt.run(TARGET, prompts, xt.Independent(3), store=store) for _ in range(2))
    lines = [decode(line) for line in store.read_text().splitlines()[1:]]
    assert sorted(json.dumps(line["prompt"]) for line in lines) == sorted(
        json.dumps(prompt) for prompt in ("why?", MESSAGES, MESSAGES[:2], MESSAGES)
    )
    for before, after in zip(drawn, read, strict=True):
        assert isinstance(before, xt.Result)
        assert isinstance(after, xt.Result)
        assert (before.prompt, before.draft, before.population.drafts) == (after.prompt, after.draft, after.population.drafts)
    assert drawn[1].prompt == Chat.of(MESSAGES)


def test_the_report_shows_the_turns_of_a_chat(tmp_path: Path) -> None:
    """Its prompts were once taken for texts, which a list of messages is not: no page was written."""
    store, answers = tmp_path / "a.jsonl", {Chat.of(MESSAGES): "2", "why?": "1"}
    xt.run(TARGET, ["why?", MESSAGES], xt.ETS(3, 2, 2), store=store, select=xt.vote(xt.answers.number))
    page = Page(write_report([store], tmp_path / "report.html", references=answers))
    by = {entry["prompt"]: entry for entry in page.data["overview"]["prompts"]}
    chat = by["system: Be brief.\n\nuser: How many?\n\nassistant: The answer is"]
    assert chat["turns"] == MESSAGES
    assert (chat["reference"], by["why?"]["reference"], by["why?"]["turns"]) == ("2", "1", None)


def test_one_failed_chat_is_recorded_as_its_messages(tmp_path: Path) -> None:
    def fails(prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        raise OSError("no score")

    store = tmp_path / "a.jsonl"
    drawn, read = (xt.run(replace(TARGET, reward=fails), [MESSAGES], xt.Independent(2), store=store)[0] for _ in range(2))
    assert drawn == read
    assert drawn.prompt == Chat.of(MESSAGES)
    with pytest.raises(xt.RewardError, match="Be brief"):
        xt.run(replace(TARGET, reward=fails), [MESSAGES], xt.Independent(2), on_error="stop")


def test_rewards_that_read_the_prompt_take_chats() -> None:
    draft = Draft("x", (1,), text="7", finish="stop")
    asked = Chat.of([{"role": "user", "content": "3+4?"}])
    matches = xt.rewards.Matches(xt.answers.number, {asked: "7"})
    assert rate(matches, asked, [draft]).tolist() == [1.0]
    with pytest.raises(xt.RewardError, match="Be brief"):
        rate(matches, Chat.of(MESSAGES), [draft])
    assert question(asked) == "3+4?"
    assert question(Chat.of(MESSAGES)).startswith("system: Be brief.")


# ----------------------------------------------------------------------------------------- drafts that are not text


class Pictures:
    """A table whose finished drafts are arrays instead of texts."""

    def __init__(self, table: TableEngine = TABLE) -> None:
        self.table = table
        self.name, self.can, self.max_tokens, self.alphabet = "pictures", table.can, table.max_tokens, table.alphabet
        self.settings = {"engine": "pictures"}

    def with_sampling(self, **changes: Any) -> Pictures:
        return Pictures(self.table.with_sampling(**changes))

    def metered(self, work: Work) -> Pictures:
        return Pictures(self.table.metered(work))

    def prompt_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        return ()

    def start(self, prompt: Prompt) -> Draft:
        return self.table.start(prompt)

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        drawn = self.table.extend(drafts, keys, tokens)
        return [replace(draft, text="", output=np.array(draft.tokens)) for draft in drawn]

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        return self.table.score(drafts, starts)


PICTURES = Target(Pictures(), lambda prompt, drafts: [float(draft.output.sum()) for draft in drafts], 1.0)


@pytest.mark.parametrize("select", [xt.vote(xt.answers.number), xt.mbr(rouge1)], ids=["vote", "mbr"])
def test_a_select_that_reads_text_refuses_drafts_without_it(select: Any) -> None:
    """A vote among images counted their empty texts, and mbr found all of them equal: both answered with nonsense."""
    with pytest.raises(TargetError, match=r"reads text.*ndarray.*draw or best"):
        xt.sample(PICTURES, "a cat", xt.Independent(4), select=select)
    with pytest.raises(TargetError, match="reads text"):
        select(xt.sample(PICTURES, "a cat", xt.Independent(4)).population, Key(0))


@pytest.mark.parametrize(
    "wrong",
    [
        xt.rewards.Arithmetic(),
        xt.rewards.Matches(xt.answers.number, "7"),
        xt.rewards.Each(len),
        xt.rewards.Agreement(xt.answers.number, pilot=3),
        xt.rewards.Sum([(1.0, xt.rewards.Arithmetic())]),
    ],
    ids=["rule", "reference", "function of text", "agreement", "part of a sum"],
)
def test_a_reward_that_reads_text_refuses_drafts_without_it(wrong: Any) -> None:
    with pytest.raises(TargetError, match=r"reads text.*ndarray"):
        xt.sample(replace(PICTURES, reward=wrong), "a cat", xt.Independent(4))


def test_what_reads_no_text_takes_any_draft() -> None:
    for select in (xt.draw, xt.best):
        assert xt.sample(PICTURES, "a cat", xt.SMC(4, 2), select=select).draft.output is not None
    assert xt.sample(replace(PICTURES, reward=xt.rewards.LogProb()), "a cat", xt.Independent(4)).reward is not None
    empty = Population([Draft("x", (3,), text="", finish="stop")], np.zeros(1), np.zeros(1))
    assert xt.vote(xt.answers.number)(empty, Key(0)).text == ""  # an empty text is a text


def test_chats_are_scored_as_strings_are() -> None:
    """The select of a score draws by the prompt's digest, which was once asked of a string."""
    scores, results = evaluate(
        TARGET,
        [Chat.of(MESSAGES), "why?"],
        ["2", "0"],
        xt.Independent(4),
        {"vote": xt.vote(xt.answers.number), "draw": xt.draw},
        lambda text, reference: xt.answers.number(text) == reference,
    )
    drawn = xt.sample(TARGET, MESSAGES, xt.Independent(4))
    assert results[0].prompt == Chat.of(MESSAGES)
    assert scores[1].right[0] == (xt.answers.number(drawn.text) == "2")
