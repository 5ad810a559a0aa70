"""What a run costs, and what it may cost."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

_LOCK = threading.Lock()  # one for all: it is held for five additions


@dataclass
class Work:
    """What one engine did. Tokens are counted per row; a forward is one evaluation of the network for one row, and for
    all rows of equal tokens where the engine evaluates those once: then there are fewer forwards than generated tokens. Scoring
    takes one for each row, or for each tree of responses that begin alike.

    prompt: tokens of prompts and prefixes that were prefilled.
    cached: those whose cache was reused instead.
    """

    prompt: int = 0
    cached: int = 0
    generated: int = 0
    scored: int = 0
    forwards: int = 0

    def add(self, *, prompt: int = 0, cached: int = 0, generated: int = 0, scored: int = 0, forwards: int = 0) -> None:
        """Add to the counts; several threads may do so at once."""
        with _LOCK:
            self.prompt += prompt
            self.cached += cached
            self.generated += generated
            self.scored += scored
            self.forwards += forwards


@dataclass
class Usage:
    """The cost of one run: work of the reference model and of the proposal apart, reward calls, seconds.

    reward_calls counts calls of the reward, rated the drafts it rated, reused those whose reward was known already.
    """

    reference: Work = field(default_factory=Work)
    proposal: Work = field(default_factory=Work)
    reward_calls: int = 0
    rated: int = 0
    reused: int = 0
    seconds: float = 0.0

    @classmethod
    def total(cls, parts: Sequence[Usage]) -> Usage:
        """What several runs cost together."""
        whole = cls()
        for part in parts:
            whole.reference.add(**vars(part.reference))
            whole.proposal.add(**vars(part.proposal))
            whole.reward_calls += part.reward_calls
            whole.rated += part.rated
            whole.reused += part.reused
            whole.seconds += part.seconds
        return whole

    @property
    def tokens(self) -> int:
        """Tokens generated and scored by both models: what a token budget counts."""
        return sum(work.generated + work.scored for work in (self.reference, self.proposal))

    def copy(self) -> Usage:
        """The counts as they are now, which later work does not change."""
        return Usage(
            Work(**vars(self.reference)),
            Work(**vars(self.proposal)),
            self.reward_calls,
            self.rated,
            self.reused,
            self.seconds,
        )


@dataclass(frozen=True)
class Budget:
    """Limits of one prompt's run, and of a whole run. They are caps: no run spends more.

    tokens: generated and scored, both models together. A call that could exceed them, if all its drafts reached their cap, is not
        begun: to end a call under way would keep short drafts and lose long ones. What has been drawn is still rated.
    seconds: wall clock. A call under way is given up within a step of the engine; a reward that does not end is left behind in
        a thread.
    reward_calls: calls of the reward.
    total_tokens: generated and scored for all prompts of a run, which `run(allocate=...)` shares out among them. Rounds are
        planned by what a prompt's runs cost so far, so the last one may end a little above it or below.
    """

    tokens: int | None = None
    seconds: float | None = None
    reward_calls: int | None = None
    total_tokens: int | None = field(default=None, metadata={"came later": True})  # as `exptilt.describe.LATER`

    def __post_init__(self) -> None:
        for name in ("tokens", "seconds", "reward_calls", "total_tokens"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"budget {name}={value} must be positive, or None for no limit")

    def spent(self, usage: Usage, more: int = 0) -> str | None:
        """The limit that `usage` has reached, or `more` tokens could exceed, in words; None while there is room."""
        if self.tokens is None and self.seconds is None and self.reward_calls is None:
            return None
        for name, value in (("tokens", usage.tokens), ("seconds", usage.seconds), ("reward_calls", usage.reward_calls)):
            limit = getattr(self, name)
            if limit is not None and value >= limit:
                return f"{name}: {value:.6g} of {limit:.6g}"
        if self.tokens is not None and usage.tokens + more > self.tokens:
            return f"tokens: {usage.tokens} of {self.tokens}, and the next call may take {more} more"
        return None
