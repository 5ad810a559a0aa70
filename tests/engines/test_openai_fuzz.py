"""Answers with one part replaced at random: each is read as a proper draft, or fails its prompt alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from exptilt.errors import AnswerError, ModelError, PromptError
from exptilt.keys import Key
from exptilt.usage import Work
from tests.engines.fake_server import Fake, serving
from tests.engines.served import CAP, load_from, table

pytest.importorskip("httpx2")

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 7, 2.5, 1e400, -1e400, 10**40, float("nan"), "", "a", "stop", "7", "\ud83d", [], [None], ["a"],
    [1, 2, 3, 4], [[]], {}, {"": None}, {"error": "x"}, {"content": [], "tokens": []}, [{"type": "text", "text": "a"}],
]  # fmt: skip
REPLACED = 120


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all parts of an answer, itself left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def altered(answer: Any, random: np.random.Generator) -> Any:
    """An answer with a part of it replaced, removed or doubled."""
    answer = json.loads(json.dumps(answer))
    found = [*places(answer)]
    *way, last = found[random.integers(len(found))]
    parent = answer
    for key in way:
        parent = parent[key]
    kind = random.integers(8)
    if kind == 0:
        del parent[last]
    elif kind == 1 and isinstance(parent, list):
        parent.append(parent[last])
    else:
        parent[last] = ODD[random.integers(len(ODD))]
    return answer


@pytest.mark.parametrize("make", ["vllm", "llamacpp", "other"])
@pytest.mark.parametrize("seeds", [True, False])
def test_no_answer_raises_anything_else(serve: Callable[..., Any], make: str, seeds: bool) -> None:
    random = np.random.default_rng([5, ["vllm", "llamacpp", "other"].index(make), seeds])
    fake = Fake(table(), make=make)
    work = Work()
    engine = serve(fake, seeds=seeds, attempts=1, backoff=0.0, concurrency=1).metered(work)
    good = engine.extend([engine.start("Q?")] * 2, [Key(0), Key(1)])
    fake.habit = lambda path, body, answer: (200, {}, altered(answer, random)) if body else None  # not where it is knocked at
    read = 0
    for number in range(REPLACED):
        with suppress(AnswerError, PromptError):
            drafts = engine.extend([engine.start(f"Q{number // 50}?")] * 2, [Key(2, number), Key(3, number)])
            read += 1
            for draft in drafts:
                assert draft.finish in ("stop", "length")
                assert 0 < len(draft.tokens) <= CAP + 1
                assert all(type(token) is int for token in draft.tokens)
                draft.text.encode()
                assert "logq" not in engine.can or (draft.logq and len(draft.logq) == len(draft.tokens))
                assert all(math.isfinite(value) and value <= 0 for value in draft.logq or ())
        if "score" in engine.can:
            with suppress(AnswerError, PromptError):
                assert all(not math.isnan(value) and value <= 0 for score in engine.score(good) for value in score)
    assert REPLACED / 10 < read < REPLACED, "some of it matters, some does not"
    assert all(type(value) is int and value >= 0 for value in vars(work).values())


@pytest.mark.parametrize("make", ["vllm", "llamacpp", "other"])
def test_a_server_that_is_odd_from_the_start_is_loaded_or_refused(make: str) -> None:
    """What a list of models or a trial held came through as TypeErrors and AttributeErrors."""
    random = np.random.default_rng(3)
    fake = Fake(table(), make=make)

    def habit(path: str, body: dict[str, Any], answer: Any) -> Any:
        return (200, {}, altered(answer, random)) if random.random() < 0.5 else None

    fake.habit, loaded = habit, 0
    with serving(fake) as url:
        for _ in range(REPLACED):
            with suppress(ModelError):
                load_from(url, attempts=1, backoff=0.0, concurrency=1, max_tokens=1).close()
                loaded += 1
    assert REPLACED / 10 < loaded < REPLACED
