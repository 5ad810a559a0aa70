"""Paths through the batch: one that is drawn, and one whose decisions are given and rated. Each says which output of the network
its next step needs, and takes that step by it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from exptilt.draft import Prompt
from exptilt.engines.image.noise import Noise
from exptilt.engines.image.paths import Paths
from exptilt.engines.image.steps import Schedule, Step
from exptilt.keys import Floats
from exptilt.usage import Work

Tokens = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Chain:
    """The distribution of a path, as rows need it.

    mark: the number that stands for it in tokens. network: names the network among others whose states are kept.
    """

    schedule: Schedule
    noise: Noise
    guidance: float
    reuse: int
    mark: int
    network: str
    shape: tuple[int, ...]
    paths: Paths

    def anchor(self, decided: int) -> int:
        """How many decisions came before the state whose expected picture the next step of a path uses."""
        return (decided - 1) // self.reuse * self.reuse + 1


class Request(NamedTuple):
    """An output of the network that is wanted. name: two requests of one name are for the same state."""

    name: Hashable
    x: Floats
    step: Step
    condition: Hashable
    guidance: float

    @property
    def evaluations(self) -> int:
        """How often the network is evaluated for it: guidance compares with no class."""
        return 1 if self.guidance == 1 else 2


def request(chain: Chain, prompt: Prompt, condition: Hashable, tokens: Tokens, x: Floats) -> Request:
    """The output at the state x after the decisions `tokens`."""
    step = chain.schedule.steps[len(tokens) - 1]
    return Request((chain.network, prompt, tokens, step.time, chain.guidance), x, step, condition, chain.guidance)


@dataclass(eq=False)
class Row:
    """A path that is being drawn, or drawn again from its tokens.

    tokens: all its decisions up to where it stops; `done` of them have been taken.
    states: by how many decisions came before; those it starts from, and those it passes.
    logq: the log-probability of each decision that it takes.
    told: the network's last output, and clean: the picture that is expected by it.
    final: the state at the end of the path; output: its picture.
    """

    chain: Chain
    prompt: Prompt
    condition: Hashable
    tokens: Tokens
    done: int
    states: dict[int, Floats]
    logq: list[float] = field(default_factory=list)
    clean: Floats | None = None
    told: Floats | None = None
    final: Floats | None = None
    output: Any = None
    cost: Work = field(default_factory=Work)
    _anchor: int = 0

    def begin(self) -> None:
        """Take the first decision, the noise that a path begins with, which needs no network."""
        if not self.done:
            self._decide(np.zeros(self.chain.shape), self.chain.schedule.start)
        self._end()

    @property
    def over(self) -> bool:
        return self.final is not None or (self.done == len(self.tokens) < self.chain.schedule.decisions)

    def wants(self) -> list[Request]:
        """The output that the next step needs; none where an earlier one serves it too."""
        if self.over:
            return []
        anchor = self.chain.anchor(self.done)
        if anchor == self._anchor:
            return []
        return [request(self.chain, self.prompt, self.condition, self.tokens[:anchor], self.states[anchor])]

    def take(self, wanted: Sequence[Request], outputs: Sequence[Floats]) -> None:
        """Take one step, by the output that was wanted."""
        if self.over:
            return
        schedule = self.chain.schedule
        step, x, noise = schedule.steps[self.done - 1], self.states[self.done], None
        for asked, output in zip(wanted, outputs, strict=True):
            self.told, (self.clean, noise) = output, schedule.expected(asked.step, asked.x, output)
            noise = noise if asked.step is step else None
            self._anchor = self.chain.anchor(self.done)
        assert self.clean is not None
        assert self.told is not None
        mean = schedule.mean(step, x, self.clean, noise)
        if self.done < schedule.decisions:
            self._decide(mean, step.deviation(self.told))
            self._end()
        else:
            self.final = mean

    def _end(self) -> None:
        """Where the last step draws noise too, the path is over with that decision."""
        if self.done > len(self.chain.schedule.steps):
            self.final = self.states[self.done]

    def _decide(self, mean: Floats, sigma: float | Floats) -> None:
        token = self.tokens[self.done]
        noise = self.chain.noise.value(token, self.done, self.chain.shape)
        self.logq.append(self.chain.noise.log_prob(token, noise, sigma))
        self.done += 1
        self.states[self.done] = mean + sigma * noise
        self.chain.paths.put(("state", self.prompt, self.tokens[: self.done]), self.states[self.done])
        self.cost.generated += 1


@dataclass(eq=False)
class Rated:
    """Given decisions of a path whose log-probabilities are wanted, from number `start` on. states: those before each of them,
    what they led to, and those whose expected picture is used. logq: float64 [decisions - start]."""

    chain: Chain
    prompt: Prompt
    condition: Hashable
    tokens: Tokens
    start: int
    states: dict[int, Floats]
    logq: Floats | None = None
    cost: Work = field(default_factory=Work)

    @property
    def over(self) -> bool:
        return self.logq is not None

    def begin(self) -> None:
        """Nothing: all states are known."""

    def wants(self) -> list[Request]:
        anchors = sorted({self.chain.anchor(done) for done in range(max(1, self.start), len(self.tokens))})
        return [request(self.chain, self.prompt, self.condition, self.tokens[:each], self.states[each]) for each in anchors]

    def take(self, wanted: Sequence[Request], outputs: Sequence[Floats]) -> None:
        schedule, noise, values = self.chain.schedule, self.chain.noise, []
        found = {
            id(each.step): (*schedule.expected(each.step, each.x, told), told) for each, told in zip(wanted, outputs, strict=True)
        }
        for done in range(self.start, len(self.tokens)):
            if done == 0:
                mean, sigma = np.zeros(self.chain.shape), schedule.start
            else:
                step, anchor = schedule.steps[done - 1], self.chain.anchor(done)
                clean, estimate, told = found[id(schedule.steps[anchor - 1])]
                mean = schedule.mean(step, self.states[done], clean, estimate if anchor == done else None)
                sigma = step.deviation(told)
            values.append(noise.log_prob(self.tokens[done], (self.states[done + 1] - mean) / sigma, sigma))
        self.logq = np.array(values, dtype=np.float64)
