"""Draws of a model that are kept, so that ways to stop, to weigh and to choose are compared on the very same draws.

`drawn` runs `Independent` on the problems of a task and keeps of each draw which response it was, and of each different response
its log-probability, length, answer, and whether it is right and checked. `Replay` is an engine that hands the kept draws out
again by their numbers. A run of k draws on it is the run of k draws on the model, since a draft depends on nothing but its prompt
and its key; so stop rules and weights are those of the library itself, and cost nothing to compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

import exptilt as xt
from exptilt.blocks import BlockSize
from exptilt.core import Engine
from exptilt.draft import Draft, Prompt
from exptilt.evaluation.evaluate import all_results
from exptilt.evaluation.tasks import Task
from exptilt.keys import Floats, Key
from exptilt.usage import Work

Reward = Callable[[str, Sequence[Draft]], Sequence[float]]


@dataclass(frozen=True)
class Pool:
    """The draws of P problems, N of each, with the R different responses among them; those of a problem stand together.

    rows: int [P, N], which response a draw was, counted from the problem's first.
    first: int [P + 1], where a problem's responses begin.
    log_q: float [R], nats. tokens: int [R]. right, checked: float [R], the values of two rewards.
    answers: str [R], "" for none.
    """

    rows: np.ndarray[Any, Any]
    first: np.ndarray[Any, Any]
    log_q: np.ndarray[Any, Any]
    tokens: np.ndarray[Any, Any]
    right: np.ndarray[Any, Any]
    checked: np.ndarray[Any, Any]
    answers: np.ndarray[Any, Any]

    @property
    def problems(self) -> int:
        return self.rows.shape[0]

    @property
    def draws(self) -> int:
        return self.rows.shape[1]

    def of_draws(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """What each draw has of something that the responses have, [P, N]."""
        return values[self.rows + self.first[:-1, None]]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, allow_pickle=False, **{item.name: getattr(self, item.name) for item in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Pool:
        with np.load(path, allow_pickle=False) as file:
            return cls(**{item.name: file[item.name] for item in fields(cls)})

    @classmethod
    def joined(cls, pools: Sequence[Pool]) -> Pool:
        """The problems of several pools, one after the other."""
        starts = np.cumsum([0, *(pool.first[-1] for pool in pools)])
        first = [pool.first[:-1] + start for pool, start in zip(pools, starts, strict=False)]
        whole = {item.name: np.concatenate([getattr(pool, item.name) for pool in pools]) for item in fields(cls)}
        return cls(**(whole | {"first": np.concatenate([*first, starts[-1:]]).astype(np.int32)}))


def drawn(engine: Engine, task: Task, draws: int, seed: int, right: Mapping[str, str], checker: Reward, concurrency: int) -> Pool:
    """The draws that `Independent(draws)` makes of a task's problems. right: the reference of each prompt."""
    target = xt.Target(engine, xt.rewards.Zero(), beta=1.0)
    outcomes = xt.run(target, task.prompts, xt.Independent(draws), seed=seed, concurrency=concurrency)
    return pooled(all_results(outcomes), task, right, checker)


def pooled(results: Sequence[xt.Result], task: Task, right: Mapping[str, str], checker: Reward) -> Pool:
    """The draws of results of `Independent`. right: the reference of each prompt."""
    rows, first, kept = [], [0], dict[str, list[Any]]((name, []) for name in ("log_q", "tokens", "right", "checked", "answers"))
    for result in results:
        numbers: dict[Draft, int] = {}
        seen = [numbers.setdefault(_bare(draft), len(numbers)) for draft in result.population.drafts]
        logs = {row: draft.logq for row, draft in zip(seen, result.population.drafts, strict=True)}
        rows.append(seen)
        first.append(first[-1] + len(numbers))
        kept["log_q"] += [sum(logs[row] or ()) for row in range(len(numbers))]
        kept["tokens"] += [draft.decided for draft in numbers]
        kept["right"] += [float(task.correct(draft.text, right[str(result.prompt)])) for draft in numbers]
        kept["checked"] += checker(str(result.prompt), list(numbers))
        kept["answers"] += [task.answer(draft.text) or "" for draft in numbers]
    types = {"log_q": np.float32, "tokens": np.uint8, "right": np.float32, "checked": np.float32, "answers": np.str_}
    columns = {name: np.array(values, dtype=types[name]) for name, values in kept.items()}
    return Pool(np.array(rows, dtype=np.uint16), np.array(first, dtype=np.int32), **columns)


def _bare(draft: Draft) -> Draft:
    """A response without its log-probabilities, whose last digits depend on the batch it was drawn in."""
    return Draft(draft.prompt, draft.tokens, None, draft.text, draft.finish)


# ---------------------------------------------------------------------------------------------------------- replayed


@dataclass(frozen=True)
class Replay:
    """An engine that hands out a pool's draws: the prompt is the number of its problem, and a key ends with that of the draw.

    A draft has one token, the number of its response, with the whole log-probability; its text is its answer. It counts as
    many generated tokens as the response had.

    part: how many draws each run of the sampler takes, where a run shares its tokens out; beyond the pool's last draw it begins
        again with the first.
    """

    pool: Pool
    work: Work
    part: int = 0
    name: str = "replay"
    max_tokens: int = 1
    alphabet: str = "replay"

    @property
    def can(self) -> frozenset[str]:
        return frozenset({"logq"})

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"engine": self.name}

    def with_sampling(self, **changes: Any) -> Engine:
        raise NotImplementedError("kept draws have the sampling parameters that they were drawn with")

    def metered(self, work: Work) -> Engine:
        return Replay(self.pool, work, self.part)

    def prompt_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        return ()

    def start(self, prompt: Prompt) -> Draft:
        return Draft(prompt)

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        found = [self._draw(draft.prompt, key) for draft, key in zip(drafts, keys, strict=True)]
        self.work.add(generated=sum(int(self.pool.tokens[response(self.pool, draft)]) for draft in found))
        return found

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        raise NotImplementedError("kept draws cannot be scored")

    def _draw(self, prompt: Prompt, key: Key) -> Draft:
        number, draw = int(str(prompt)), key.path[-1]
        assert isinstance(draw, int)  # Independent names its drafts by their numbers
        if "part" in key.path:
            before = key.path[key.path.index("part") + 1]
            assert isinstance(before, int)  # and a run the parts of a prompt
            draw = (draw + self.part * before) % self.pool.draws
        row = int(self.pool.rows[number, draw])
        at = int(self.pool.first[number]) + row
        return Draft(prompt, (row,), (float(self.pool.log_q[at]),), str(self.pool.answers[at]), "stop")


def response(pool: Pool, draft: Draft) -> int:
    """Which of the pool's responses a replayed draft is."""
    return int(pool.first[int(str(draft.prompt))]) + draft.tokens[0]


def rewarded(pool: Pool, values: np.ndarray[Any, Any]) -> Reward:
    """The reward of replayed drafts that the responses have these values of."""
    return lambda prompt, drafts: [float(values[response(pool, draft)]) for draft in drafts]


def answered(text: str) -> str | None:
    """The answer of a replayed draft."""
    return text or None
