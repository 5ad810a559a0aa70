"""Engines and rewards that count what they do, ask before each call whether it may be done, and can be cancelled.

A sampler knows nothing of budgets or counters. The target that a `Session` gives it looks like the user's own, with

- engines that ask the budget before every call whether it may cost what it can at the most, and count each call's work;
- a reward that is called only for drafts it has not seen: a draft's identity is its tokens (and their order, in
  masked diffusion), so a Markov chain's repeats and a guided chain's finished candidates cost one rating each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from threading import Thread
from typing import Any, TypeVar

import numpy as np

from exptilt.blocks import BlockSize
from exptilt.cancelling import Flag, cancelled_by
from exptilt.core import Engine, Reward
from exptilt.draft import Draft, Prompt, known_logq
from exptilt.engines.certainty import CertainEngine, Certainty
from exptilt.engines.image.evidence import EvidentEngine
from exptilt.engines.log_probs import check_certain, check_drawn, check_scored
from exptilt.errors import Cancelled, CapabilityError, RewardError
from exptilt.keys import Floats, Key
from exptilt.rating import bounds, rate, reward_name, told_maximum
from exptilt.running.foresight import longest, unscored
from exptilt.usage import Usage, Work

Told = TypeVar("Told")
_GLANCE = 0.05  # seconds between two looks at whether the run was cancelled


@dataclass(frozen=True)
class MeteredEngine:
    """An engine that runs `check` before each call, with a function that tells how many tokens the call may take at the most, and
    adds what the call did to `works`.

    scored: whether the reference model scores every draft that is drawn here, as it does those of a proposal: then a draft is
        begun only where both can be paid for.
    cancel: once it is set, a call under way ends with `Cancelled`, where its engine can end it.
    ratios: where log p/q of scored drafts are noted, each over what is scored of it; nats.
    """

    engine: Engine
    works: tuple[Work, ...]
    check: Callable[[Callable[[], int]], None]
    cancel: Flag
    scored: bool = False
    ratios: list[float] | None = None

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def can(self) -> frozenset[str]:
        return self.engine.can

    @property
    def max_tokens(self) -> int:
        return self.engine.max_tokens

    @property
    def alphabet(self) -> str:
        return self.engine.alphabet

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.engine.settings

    def with_sampling(self, **changes: Any) -> MeteredEngine:
        return replace(self, engine=self.engine.with_sampling(**changes))

    def metered(self, work: Work) -> MeteredEngine:
        """Count in `work` too: what a session has seen stays counted in the session."""
        return replace(self, works=(*self.works, work))

    def prompt_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        return self.engine.prompt_tokens(prompt)

    def start(self, prompt: Prompt) -> Draft:
        return self.engine.start(prompt)

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        if all(draft.finish is not None for draft in drafts):
            return list(drafts)  # nothing to decide, so nothing to refuse: what is finished may still be rated
        extended = self._call(lambda: self._most(drafts, tokens), lambda engine: engine.extend(drafts, keys, tokens))
        check_drawn(self.name, extended, [draft.decided for draft in drafts])
        return extended

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        if not drafts:
            return []
        scores = self._call(lambda: sum(unscored(drafts, starts)), lambda engine: engine.score(drafts, starts))
        check_scored(self.name, scores)
        if self.ratios is not None:
            for draft, start, score in zip(drafts, starts or [0] * len(drafts), scores, strict=True):
                self.ratios.append(float(np.sum(score)) - math.fsum(known_logq(draft)[start:]))
        return scores

    def certainty(self, drafts: Sequence[Draft]) -> list[Certainty]:
        def measure(engine: Engine) -> list[Certainty]:
            if "certainty" not in engine.can or not isinstance(engine, CertainEngine):
                raise CapabilityError(f'{self.name} cannot measure certainty: use an engine with "certainty" in its `can`')
            return engine.certainty(drafts)

        certainties = self._call(lambda: sum(draft.decided for draft in drafts), measure)
        check_certain(self.name, certainties)
        return certainties

    def evidence(self, drafts: Sequence[Draft], key: Key, levels: int, noises: int) -> Floats:
        def ask(engine: Engine) -> Floats:
            if "evidence" not in engine.can or not isinstance(engine, EvidentEngine):
                raise CapabilityError(f'{self.name} tells no evidence of its drafts: use an engine with "evidence" in its `can`')
            return engine.evidence(drafts, key, levels, noises)

        return self._call(lambda: 0, ask)

    def _most(self, drafts: Sequence[Draft], tokens: BlockSize | None) -> int:
        """The tokens that a call of `extend` may take."""
        cap = self.max_tokens
        drawn = sum(longest(draft, cap, tokens) for draft in drafts)
        return 2 * drawn if self.scored else drawn

    def _call(self, most: Callable[[], int], verb: Callable[[Engine], Told]) -> Told:
        """What the engine tells, where the budget lets it be asked; its work is counted, whatever comes of it."""
        self.check(most)
        work = Work()
        try:
            with cancelled_by(self.cancel):
                return verb(self.engine.metered(work))
        finally:
            for total in self.works:
                total.add(**vars(work))


@dataclass(frozen=True)
class MeteredReward:
    """A reward that is counted in `usage`, and called only for the drafts it has not rated yet.

    remember: whether it may reuse its answers; False where the reward changes while the sampler runs.
    timeout: seconds that one call may take; None for any, which a call under way waits for even where `cancel` is set.
    cancel: passed on to engines that the reward calls.
    known: a cell for each draft: its reward, or nothing before it is rated.
    """

    reward: Reward
    usage: Usage
    check: Callable[[], None]
    cancel: Flag
    remember: bool
    timeout: float | None = None
    known: dict[Hashable, list[float]] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, prompt: Prompt, drafts: list[Draft]) -> Floats:
        if not self.remember:
            return self._rate(prompt, drafts)
        # A rule may read an unfinished draft in another way, and a likelihood reads a masked one in its order.
        # Each is hashed once, to find its cell: hashing thousands of tokens takes longer than all the rest.
        cells = [self.known.setdefault((prompt, draft.tokens, draft.finish, draft.order), []) for draft in drafts]
        fresh = {id(cell): (cell, draft) for cell, draft in zip(cells, drafts, strict=True) if not cell}
        if fresh:
            rated = self._rate(prompt, [draft for _, draft in fresh.values()])
            for (cell, _), reward in zip(fresh.values(), rated.tolist(), strict=True):
                cell.append(reward)
            if len(fresh) == len(drafts):
                return rated
        self.usage.reused += len(drafts) - len(fresh)
        return np.array([cell[0] for cell in cells], dtype=np.float64)

    @property
    def reward_max(self) -> float | None:
        """The reward's own upper bound."""
        return told_maximum(self.reward)

    def bound(self, prompt: Prompt, drafts: list[Draft]) -> Sequence[float]:
        """What the reward knows of unfinished drafts: free, and not counted."""
        return bounds(self.reward, prompt, drafts).tolist()

    def _rate(self, prompt: Prompt, drafts: list[Draft]) -> Floats:
        self.check()
        self.usage.reward_calls += 1
        self.usage.rated += len(drafts)
        with cancelled_by(self.cancel):
            if self.timeout is None:
                return rate(self.reward, prompt, drafts)
            return self._rate_in_time(self.timeout, prompt, drafts)

    def _rate_in_time(self, seconds: float, prompt: Prompt, drafts: list[Draft]) -> Floats:
        """Rate in a separate thread. A thread cannot be ended from outside: one that hangs is left behind, as a daemon.

        Time is counted in glances: while the run is stopped (Ctrl-Z) its reward does not work either.
        """
        answer: Future[Floats] = Future()

        def work() -> None:
            try:
                answer.set_result(rate(self.reward, prompt, drafts))
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for it
                answer.set_exception(error)

        Thread(target=copy_context().run, args=(work,), name="exptilt-reward", daemon=True).start()
        left = seconds
        while not wait([answer], min(_GLANCE, left)).done:
            left -= _GLANCE
            if self.cancel.is_set():
                raise Cancelled("the run was cancelled while the reward rated: run the prompt again")
            if left <= 0:
                raise RewardError(
                    f"reward {reward_name(self.reward)} did not return within {seconds:g} s for {len(drafts)} drafts. Make it "
                    "faster or allow more time (reward_timeout). Put code that may hang forever into rewards.Isolated, which can "
                    "end it."
                )
        return answer.result()
