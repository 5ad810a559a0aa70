"""Descriptions: equal for equal things in any process, different where code differs, blind to what code changes as it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import exptilt as xt
from exptilt.describe import describe
from exptilt.testing.toys import autoregressive

ROOT = Path(__file__).resolve().parents[2]
TARGET = autoregressive(0).target

_SCRIPT = """
import re
from dataclasses import dataclass
from functools import partial

WORDS = {{"yes", "no", "maybe", "never", "ever"}}
PATTERN = re.compile("a+")

def helper(text):
    return {constant} if text in WORDS else {{"a", "b"}}.__len__()

def reward(prompt, drafts, scale=1.0):
    return [helper(draft.text) * scale + len(PATTERN.findall(prompt)) for draft in drafts]

def made(power):
    return lambda prompt, drafts: [float(len(prompt)) ** power for _ in drafts]

@dataclass(frozen=True)
class Ruled:
    limit: int
    def __call__(self, prompt, drafts):
        return [min(self.limit, {constant}) for _ in drafts]

class Plain:
    def __init__(self, words):
        self.words = words
        self.me = self
    def score(self, prompt, drafts):
        return [1.0 for _ in drafts]
    __call__ = score

THINGS = [reward, made(2), made(3), partial(reward, scale=2.0), Ruled(4), Ruled(5)]
THINGS += [Plain(WORDS), Plain(()).score, len, object(), Ruled]
"""
_PRINT = "\nimport json\nfrom exptilt.describe import describe\nprint(json.dumps([describe(thing) for thing in THINGS]))"


def described(folder: Path, constant: float, hash_seed: int) -> list:
    """The descriptions that another process gives for a file of functions."""
    (folder / "mine.py").write_text(_SCRIPT.format(constant=constant))
    command = [sys.executable, "-c", "from mine import THINGS" + _PRINT]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}:{ROOT}",
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)


def test_descriptions_are_the_same_in_every_process(tmp_path: Path) -> None:
    first = described(tmp_path, 0.5, 1)
    assert first == described(tmp_path, 0.5, 2)
    assert len({json.dumps(thing) for thing in first}) == len(first)
    assert "0x" not in json.dumps(first)


def test_descriptions_see_changed_code(tmp_path: Path) -> None:
    """A constant changes inside a helper and inside a method: all that use either count as changed, the others do not."""
    changed = [a != b for a, b in zip(described(tmp_path, 0.5, 1), described(tmp_path, 0.75, 1), strict=True)]
    assert changed == [True, False, False, True, True, True, False, False, False, False, True]


def test_tangled_code_is_read_once() -> None:
    """Forty functions that all name each other once took exponential time: every path through them was followed."""
    names = [f"f{number}" for number in range(40)]
    space: dict = {"__name__": "tangled"}
    exec("\n".join(f"def {name}(): return {', '.join(names)}" for name in names), space)
    assert describe(space["f0"])["code"] != describe(space["f1"])["code"]


def test_descriptions_are_readable() -> None:
    assert describe(xt.ETS(8, 2, 32)) == {
        "type": "ETS", "candidates": 8, "rollouts": 2, "block": 32, "returns": "rollouts",
        "temper": 1, "value": None, "propose_candidates": False, "step_weights": None, "floor": 0.2,
    }  # fmt: skip
    counted = {"type": "Vote", "answer": "number", "weighted": True}
    assert describe(xt.vote(xt.answers.number)) == counted | {"distinct": True}
    assert describe(xt.vote(xt.answers.number, distinct=False)) == counted  # as in files from before there was a choice
    assert describe(xt.vote(xt.answers.number, weighted=False)) == counted | {"weighted": False}
    assert describe(xt.draw) == "draw"
    assert describe(TARGET.engine) == describe(dict(TARGET.engine.settings))


# ------------------------------------------------------------------------------------------ what code changes as it runs

_MEMORIES = """
import functools
from collections import Counter
from dataclasses import dataclass, field

KNOWN = {}
SCALES = {"a": 1.0}
COUNT = 0

def by_global(prompt, drafts):
    return [remember(draft.text) for draft in drafts]

def remember(text):
    global COUNT
    COUNT += 1
    return KNOWN.setdefault(text, float(len(text)) * SCALES["a"])

def made():
    known = {}
    def by_closure(prompt, drafts):
        for draft in drafts:
            known[draft.text] = float(len(draft.text))
        return [known[draft.text] for draft in drafts]
    return by_closure

def by_default(prompt, drafts, memo={}, *, seen=Counter()):
    seen.update(draft.text for draft in drafts)
    return [memo.setdefault(draft.text, 1.0) for draft in drafts]

class ByAttribute:
    def __init__(self):
        self.known, self.calls, self.scale = {}, 0, 2.0
    def __call__(self, prompt, drafts):
        self.calls += 1
        known = self.known
        for draft in drafts:
            known[draft.text] = self.scale
        return [known[draft.text] for draft in drafts]

@dataclass(frozen=True)
class ByField:
    scale: float
    known: dict = field(default_factory=dict)
    last: str = ""
    def __call__(self, prompt, drafts):
        object.__setattr__(self, "last", prompt)
        for draft in drafts:
            self.known.update({draft.text: self.scale})
        return [self.known[draft.text] for draft in drafts]

@functools.lru_cache
def cached(text):
    return float(len(text))

def by_cache(prompt, drafts):
    return [cached(draft.text) for draft in drafts]
"""


@pytest.fixture
def memories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "memories.py").write_text(_MEMORIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "memories", raising=False)
    import memories  # type: ignore[import-not-found]

    return memories


@pytest.mark.parametrize("name", ["by_global", "made()", "by_default", "ByAttribute()", "ByField(2.0)", "by_cache"])
def test_what_a_reward_remembers_is_no_setting(memories: Any, name: str) -> None:
    """A dict that a reward filled between two runs made the results file one "of other settings"."""
    reward = eval(name, vars(memories))
    before = describe(reward)
    xt.sample(xt.Target(TARGET.engine, reward, 1.0), "try it", xt.Independent(4))
    assert describe(reward) == before


def test_what_a_reward_reads_is_a_setting(memories: Any) -> None:
    """Leaving out whole dicts and objects, not what changes in them, would pass the test above."""
    before = describe(memories.by_global), describe(memories.ByAttribute()), describe(memories.ByField(2.0))
    memories.SCALES["a"] = 3.0
    other = memories.ByAttribute()
    other.scale = 3.0
    after = describe(memories.by_global), describe(other), describe(memories.ByField(3.0))
    assert all(one != two for one, two in zip(before, after, strict=True))


def lambdas() -> list[Any]:
    return [lambda prompt, drafts: [1.0 for _ in drafts], lambda prompt, drafts: [2.0 for _ in drafts]]


def test_lambdas_on_one_line_are_told_apart() -> None:
    """The source of a lambda is that of its whole line, where others may stand."""
    one, two = map(describe, lambdas())
    assert one["code"] != two["code"]
    assert [one, two] == list(map(describe, lambdas()))


def test_comments_and_the_version_of_python_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytecode differs between versions of Python, so that a file written under one could not be resumed under another."""
    codes = []
    for number, text in enumerate(("return [0.5 for _ in drafts]", "return [0.5 for _ in drafts]   # half\n\n    # an end")):
        (tmp_path / f"plain{number}.py").write_text(f"def rate(prompt, drafts):\n    {text}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        module = __import__(f"plain{number}")
        codes.append(describe(module.rate))
        module.rate.__code__ = module.rate.__code__.replace(co_code=module.rate.__code__.co_code + b"\x09\x00")  # one NOP more
        assert describe(module.rate) == codes[-1]
    assert codes[0] == codes[1]
