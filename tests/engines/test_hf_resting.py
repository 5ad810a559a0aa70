"""Rows whose step has ended rest where they are: drawn further at once, they are neither copied nor read again."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from exptilt.draft import Draft
from exptilt.engines.hf.loading import read_weights
from exptilt.engines.hf.network import Network
from exptilt.engines.hf.slots import Slots
from exptilt.engines.language import LanguageEngine
from exptilt.engines.sampling import Sampling
from exptilt.keys import Key
from exptilt.usage import Work

from .laws import agree

PROMPTS = ["a prompt with a beginning that is long enough for a trunk", "another prompt, whose beginning differs", "short"]


@pytest.fixture
def engine(model_folder: Path) -> LanguageEngine[Any]:
    return LanguageEngine(read_weights(model_folder, name="small"), Sampling(max_tokens=24, top_k=8))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is copied and read, as it happens."""
    found: list[str] = []

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def watched(*args: Any, **given: Any) -> Any:
            found.append(name)
            return original(*args, **given)

        monkeypatch.setattr(owner, name, watched)

    for owner, name in ((Slots, "join"), (Slots, "fork"), (Slots, "snapshot"), (Network, "prefill")):
        watch(owner, name)
    return found


def keys(count: int, seed: int = 0) -> list[Key]:
    return [Key(seed, i) for i in range(count)]


def going(drafts: Sequence[Draft]) -> list[Draft]:
    return [draft for draft in drafts if draft.finish is None]


def alone(engine: LanguageEngine[Any], drafts: Sequence[Draft], named: Sequence[Key], tokens: int | None) -> list[Draft]:
    """Each drawn further by itself, with nothing at rest."""
    engine.backend.decoder.settle()
    found = []
    for draft, key in zip(drafts, named, strict=True):
        found += engine.extend([draft], [key], tokens)
        engine.backend.decoder.settle()
    return found


@pytest.mark.parametrize("prompt", PROMPTS)
def test_steps_of_one_token_go_on_in_place(engine: LanguageEngine[Any], prompt: str, calls: list[str]):
    drafts = engine.extend([engine.start(prompt)] * 6, keys(6), 1)
    calls.clear()
    for step in range(1, 8):
        drafts = engine.extend(going(drafts), keys(len(going(drafts)), step), 1)
        assert not {"join", "prefill"} & set(calls), step
        assert calls.count("snapshot") <= sum(draft.finish is not None for draft in drafts), "those that have ended"
        calls.clear()
    resting = {branch.rest for branch in engine.backend.decoder.branches}
    assert len(resting) == len({draft.tokens[:-1] for draft in going(drafts)}), "equal ones are one still"
    last = going(drafts)
    found = engine.extend(last, keys(len(last), 99))
    agree(engine, found, alone(engine, last, keys(len(last), 99), None))


def test_those_that_do_not_go_on_are_not_fed_with_the_others(engine: LanguageEngine[Any]):
    begun = going(engine.extend([engine.start(PROMPTS[0])] * 6, keys(6), 4))
    some, others = begun[:2], begun[2:]
    assert {draft.tokens[:-1] for draft in others} - {draft.tokens[:-1] for draft in some}
    work = Work()
    found = engine.metered(work).extend(some, keys(len(some), 1), 3)
    assert work.forwards <= sum(len(draft.tokens) - 4 for draft in found)
    after = engine.extend(others, keys(len(others), 1), 3)
    agree(engine, found, alone(engine, some, keys(len(some), 1), 3))
    agree(engine, after, alone(engine, others, keys(len(others), 1), 3))


def test_several_go_on_from_one_place_and_parted_ones_from_theirs(engine: LanguageEngine[Any], calls: list[str]):
    """Rollouts: each candidate's rows, and rows whose last tokens differ while all before are equal."""
    candidates = going(engine.extend([engine.start(PROMPTS[0])] * 5, keys(5), 3))
    several = [draft for draft in candidates for _ in range(4)]
    calls.clear()
    rolled = engine.extend(several, keys(len(several), 1), 4)
    assert "join" not in calls
    assert "fork" in calls
    agree(engine, rolled, alone(engine, several, keys(len(several), 1), 4))


def test_other_temperatures_go_on_from_the_same_place(engine: LanguageEngine[Any]):
    begun = going(engine.extend([engine.start(PROMPTS[0])] * 3, keys(3), 2))
    warm = engine.with_sampling(temperature=3.0)
    both: list[list[Draft]] = [[], []]
    threads = [
        threading.Thread(target=lambda i=i, law=law: both[i].extend(law.extend(begun, keys(len(begun), 4))))
        for i, law in enumerate((engine, warm))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for law, found in zip((engine, warm), both, strict=True):
        assert [draft.tokens for draft in found] == [draft.tokens for draft in alone(law, begun, keys(len(begun), 4), None)]


def test_rows_cut_from_those_at_rest_find_what_they_need(engine: LanguageEngine[Any]):
    """One call with rows that rest, rows that are cut from these, and a new prompt: only the new prompt is read."""
    begun = going(engine.extend([engine.start(PROMPTS[0])] * 4, keys(4), 6))
    mixed = [*begun, *(draft.cut(3) for draft in begun), engine.start(PROMPTS[1])]
    work = Work()
    found = engine.metered(work).extend(mixed, keys(len(mixed), 2))
    assert 0 < work.prompt < len(engine.prompt_tokens(PROMPTS[1]))
    agree(engine, found, alone(engine, mixed, keys(len(mixed), 2), None))


def test_scores_of_what_rests_read_its_beginning_from_memory(engine: LanguageEngine[Any]):
    begun = going(engine.extend([engine.start(PROMPTS[0])] * 3, keys(3), 6))
    before = Work()
    engine.metered(before).score(begun, [5] * len(begun))
    assert before.prompt == 0
    assert not any(branch.rest for branch in engine.backend.decoder.branches)
    found = engine.extend(begun, keys(len(begun), 3))
    agree(engine, found, alone(engine, begun, keys(len(begun), 3), None))


def test_the_cost_of_rows_that_rested_is_that_of_rows_whose_beginning_is_known(engine: LanguageEngine[Any]):
    begun = going(engine.extend([engine.start(PROMPTS[0])] * 4, keys(4), 3))
    rested, known = Work(), Work()
    one = engine.metered(rested).extend(begun, keys(len(begun), 1), 2)
    engine.backend.decoder.settle()
    again = engine.metered(known).extend(begun, keys(len(begun), 1), 2)
    assert [draft.tokens for draft in one] == [draft.tokens for draft in again]
    assert rested == known


def test_rows_that_share_much_join_anew_on_a_longer_trunk(engine: LanguageEngine[Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("exptilt.engines.hf.decode.NEW_TRUNK", 4)
    monkeypatch.setattr("exptilt.engines.hf.decode.LEAST_TRUNK", 2)
    chain = engine.extend([engine.start(PROMPTS[0])], keys(1), 8)
    parted = going(engine.extend(chain * 6, keys(6, 1), 2))
    trunks = engine.backend.decoder.slots.trunks
    assert trunks is not None
    before = max(len(trunk.tokens) for trunk in trunks.held if trunk)
    found = engine.extend(parted, keys(len(parted), 2), 2)
    after = max(len(trunk.tokens) for trunk in trunks.held if trunk)
    assert after > before
    agree(engine, found, alone(engine, parted, keys(len(parted), 2), 2))


def test_what_rests_when_others_go_on_is_kept_as_a_prefix(engine: LanguageEngine[Any], calls: list[str]):
    """A step of other rows does not advance it; nothing stays in the slots after that."""
    resting, decoder = going(engine.extend([engine.start(PROMPTS[0])] * 3, keys(3), 4)), engine.backend.decoder
    calls.clear()
    engine.extend([engine.start(PROMPTS[1])] * 2, keys(2, 1))
    assert "snapshot" in calls
    assert not decoder.branches
    work = Work()
    found = engine.metered(work).extend(resting, keys(len(resting), 2))
    assert work.prompt == 0
    agree(engine, found, alone(engine, resting, keys(len(resting), 2), None))


def test_without_the_fast_paths_nothing_rests(model_folder: Path):
    slow: LanguageEngine[Any] = LanguageEngine(read_weights(model_folder, name="small", fast=False), Sampling(max_tokens=12))
    begun = going(slow.extend([slow.start(PROMPTS[0])] * 3, keys(3), 2))
    assert not slow.backend.decoder.branches
    found = slow.extend(begun, keys(len(begun), 1))
    assert [draft.tokens[:2] for draft in found] == [draft.tokens for draft in begun]
