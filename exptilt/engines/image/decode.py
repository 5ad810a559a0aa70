"""Denoising: all paths in flight, of all callers, take one step together, each at its own noise level.

A step of a path needs one output of the network, for the state before it. Paths that are equal so far, such as the candidates of
one draft, need the same one: it is evaluated once, and kept as long as states are.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from exptilt.draft import Prompt
from exptilt.engines.image.noise import Noise
from exptilt.engines.image.paths import Paths
from exptilt.engines.image.sampling import ImageSampling
from exptilt.engines.image.steps import Schedule, Step
from exptilt.errors import ModelError
from exptilt.keys import Floats
from exptilt.usage import Work

Tokens = tuple[int, ...]


class Model(Protocol):
    """A network ready to serve, with its schedule.

    name: what errors and settings call it.
    shape: of a state, such as (channels, height, width).
    pixels: whether states are pictures, so that `decode` costs nothing.
    settings: what fixes it, as JSON values.
    levels: the times that it was trained with, and what is left of the picture's variance at each (ᾱ): float64 [levels] each.
    """

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def pixels(self) -> bool: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    @property
    def levels(self) -> tuple[Floats, Floats]: ...

    @property
    def conditional(self) -> bool:
        """Whether something stands for "no class", so that guidance and evidence are known."""
        ...

    def check_null(self, what: str) -> Hashable:
        """What stands for "no class" or "no text". Raises ValueError where nothing does. what: needs it."""
        ...

    def condition(self, prompt: Prompt) -> Hashable:
        """What the network is told of a prompt. Raises PromptError where it cannot be told."""
        ...

    def schedule(self, sampling: ImageSampling) -> Schedule:
        """The steps. Raises ValueError, with a cure, for sampling parameters that the model cannot follow."""
        ...

    def predict(self, x: Floats, times: Floats, conditions: Sequence[Any], guidance: Floats) -> Floats:
        """The network's output for each scaled state: float64 of the shape of x, [states, *shape]."""
        ...

    def decode(self, x: Floats) -> list[Any]:
        """The picture of each state, as an array."""
        ...


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
    final: Floats | None = None
    output: Any = None
    cost: Work = field(default_factory=Work)
    _anchor: int = 0

    def begin(self) -> None:
        """Take the first decision, the noise that a path begins with, which needs no network."""
        if not self.done:
            self._decide(np.zeros(self.chain.shape), self.chain.schedule.start)

    @property
    def over(self) -> bool:
        return self.final is not None or (self.done == len(self.tokens) < self.chain.schedule.decisions)

    def wants(self) -> list[Request]:
        """The output that the next step needs; none where an earlier one serves it too."""
        if self.over or self.done > len(self.chain.schedule.steps):
            return []
        anchor = self.chain.anchor(self.done)
        if anchor == self._anchor:
            return []
        return [request(self.chain, self.prompt, self.condition, self.tokens[:anchor], self.states[anchor])]

    def take(self, wanted: Sequence[Request], outputs: Sequence[Floats]) -> None:
        """Take one step, by the output that was wanted."""
        schedule = self.chain.schedule
        if self.over:
            return
        if self.done > len(schedule.steps):  # the last step drew noise, so nothing is left to do
            self.final = self.states[self.done]
            return
        step, x, noise = schedule.steps[self.done - 1], self.states[self.done], None
        for asked, output in zip(wanted, outputs, strict=True):
            self.clean, noise = schedule.expected(asked.step, asked.x, output)
            noise = noise if asked.step is step else None
            self._anchor = self.chain.anchor(self.done)
        assert self.clean is not None
        mean = schedule.mean(step, x, self.clean, noise)
        if self.done < schedule.decisions:
            self._decide(mean, step.sigma)
        else:
            self.final = mean
        if self.done > len(schedule.steps):
            self.final = self.states[self.done]

    def _decide(self, mean: Floats, sigma: float) -> None:
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
        found = {id(each.step): schedule.expected(each.step, each.x, out) for each, out in zip(wanted, outputs, strict=True)}
        for done in range(self.start, len(self.tokens)):
            if done == 0:
                mean, sigma = np.zeros(self.chain.shape), schedule.start
            else:
                step, anchor = schedule.steps[done - 1], self.chain.anchor(done)
                clean, estimate = found[id(schedule.steps[anchor - 1])]
                mean = schedule.mean(step, self.states[done], clean, estimate if anchor == done else None)
                sigma = step.sigma
            values.append(noise.log_prob(self.tokens[done], (self.states[done + 1] - mean) / sigma, sigma))
        self.logq = np.array(values, dtype=np.float64)


class Denoiser:
    """The batch of rows in flight: what `exptilt.engines.scheduler` drives. most: states that go through the network at once."""

    def __init__(self, model: Model, paths: Paths, most: int) -> None:
        self.model, self.paths, self.most = model, paths, most
        self.rows: dict[Any, None] = {}

    def join(self, rows: Sequence[Any]) -> None:
        for row in rows:
            row.begin()
        self.rows |= dict.fromkeys(rows)

    def leave(self, rows: Sequence[Any]) -> None:
        for row in rows:
            self.rows.pop(row, None)

    def step(self) -> list[Any]:
        """One step of every row; rows that are done leave and are returned."""
        rows = list(self.rows)
        wanted = [[] if row.over else row.wants() for row in rows]
        outputs = self._outputs(rows, wanted)
        for row, some in zip(rows, wanted, strict=True):
            row.take(some, [outputs[each.name] for each in some])
        over = [row for row in rows if row.over]
        self._decode([row for row in over if isinstance(row, Row)])
        self.leave(over)
        return over

    def _outputs(self, rows: Sequence[Any], wanted: Sequence[Sequence[Request]]) -> dict[Hashable, Floats]:
        """The output for each name, those not kept from before evaluated."""
        found: dict[Hashable, Floats] = {}
        missing: dict[Hashable, Request] = {}
        for row, some in zip(rows, wanted, strict=True):
            for each in some:
                if each.name in found or each.name in missing:
                    row.cost.cached += 1
                elif (kept := self.paths.get(("output", each.name))) is not None:
                    found[each.name] = kept
                    row.cost.cached += 1
                else:
                    missing[each.name] = each
                    row.cost.forwards += 1
        asked = list(missing.values())
        for first in range(0, len(asked), self.most):
            part = asked[first : first + self.most]
            for each, output in zip(part, self._evaluate(part), strict=True):
                found[each.name] = output
                self.paths.put(("output", each.name), output)
        return found

    def _evaluate(self, part: Sequence[Request]) -> Floats:
        x = np.stack([each.x * each.step.scale for each in part])
        times, guidance = (np.array(values) for values in ([e.step.time for e in part], [e.guidance for e in part]))
        outputs = self.model.predict(x, times, [each.condition for each in part], guidance)
        if outputs.shape != x.shape:
            raise ModelError(f"{self.model.name} returned the shape {outputs.shape} for states of {x.shape}: they must agree")
        if not np.isfinite(outputs).all():
            time = times[~np.isfinite(outputs).reshape(len(part), -1).all(1)][0]
            raise ModelError(
                f"{self.model.name} gave NaN or infinite values at time {time:g}: its weights are damaged, or numbers left the "
                'range of float16. Load it with dtype="float32".'
            )
        return outputs

    def _decode(self, rows: Sequence[Row]) -> None:
        """The picture of each row that is finished; of the others, where it costs nothing, the one that is expected."""
        shown: list[tuple[Row, Floats]] = []
        for row in rows:
            if row.final is not None:
                self.paths.put(("final", row.prompt, row.tokens), row.final)
            state = row.clean if row.final is None and self.model.pixels else row.final
            if state is not None:
                shown.append((row, state))
        for first in range(0, len(shown), self.most):
            part = shown[first : first + self.most]
            pictures = self.model.decode(np.stack([state for _, state in part]))
            for (row, _), picture in zip(part, pictures, strict=True):
                row.output = picture
