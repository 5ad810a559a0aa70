"""The nouns of exptilt: drafts, keys, engines, rewards, targets, and what a run may cost.

exptilt draws from π(y|x) ∝ p(y|x)·exp(r(x,y)/β). An *engine* is the distribution p: a model together with its temperature,
truncation, stop rule and token cap. A *reward* is the function r. A *target* joins the two with β. A *sampler*
(`exptilt.samplers`) turns a target into weighted populations of drafts, and a *select* picks one answer from them.

Everything here is a plain record or a protocol; nothing draws, decodes or keeps state. Log-probabilities are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import numpy as np

from exptilt.blocks import BlockSize
from exptilt.draft import Draft, Prompt
from exptilt.errors import CapabilityError, RewardError, TargetError
from exptilt.keys import Floats, Key
from exptilt.populations.population import Population
from exptilt.proposals import check_cover
from exptilt.rating import Reward as Reward
from exptilt.rating import bounds, rate, reward_name
from exptilt.usage import Work

# ------------------------------------------------------------------------------------------------------- protocols
# A prompt is a `Prompt`, a string or a Chat. It is typed Any in protocols, because an implementation may take strings alone.


@runtime_checkable
class Engine(Protocol):
    """The distribution p(y|x): a model with its sampling parameters, fixed at construction.

    Engines are blocking and safe to call from many threads. `can` is a subset of
    "continue" (extend unfinished drafts), "steps" (extend by a step of text), "logq" (drafts carry log-probabilities), "score"
    (rate given drafts under this same distribution), "certainty" (`exptilt.engines.certainty`) and "evidence"
    (`exptilt.engines.image.evidence`).
    """

    @property
    def name(self) -> str:
        """The name that a user gives, such as "hf:HuggingFaceTB/SmolLM2-135M-Instruct"."""
        ...

    @property
    def can(self) -> frozenset[str]: ...

    @property
    def max_tokens(self) -> int:
        """The cap on response tokens; a response cut there is an outcome of the distribution like any other."""
        ...

    @property
    def alphabet(self) -> str:
        """A digest of the token vocabulary: two engines with the same alphabet can read each other's drafts."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that fixes the distribution, as JSON values: model and sampling parameters."""
        ...

    def with_sampling(self, **changes: Any) -> Engine:
        """The same weights under other sampling parameters."""
        ...

    def metered(self, work: Work) -> Engine:
        """The same engine, which adds the cost of its calls to `work`."""
        ...

    def prompt_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        """The token ids that come before the response, those of a prefill last. Raises PromptError as `start` does."""
        ...

    def start(self, prompt: Prompt) -> Draft:
        """The empty draft of a prompt. Raises PromptError where the prompt is empty, too long, or a chat it cannot take."""
        ...

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        """Decide up to `tokens` more positions of each draft (None: to its end), one key per draft.

        A `Block` decides up to the end of a step of text, where the engine can do "steps".

        Finished drafts come back unchanged; the order is kept.
        """
        ...

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        """Log-probability (nats) under this distribution of the decisions of each draft, in their order.

        starts: for each draft the number of the first decision that is wanted; by default 0.
        """
        ...


@runtime_checkable
class PromptReward(Protocol):
    """A reward that must see the engine or draw a pilot before it is a function of (x, y), such as agreement.

    `bind` is called once per prompt, before sampling, and returns the function. `fixed` says whether that function
    stays the same while the sampler runs; where it does not, no target exists and weights mean nothing.
    """

    @property
    def fixed(self) -> bool: ...

    def needs(self) -> frozenset[str]:
        """What the engine must be able to do, as in `Engine.can`."""
        ...

    def bind(self, engine: Engine, prompt: Any, key: Key) -> Reward: ...


# ---------------------------------------------------------------------------------------------------------- target


@dataclass(frozen=True)
class Target:
    """The distribution to draw from, π(y|x) ∝ p(y|x)·exp(r(x,y)/β).

    engine: the reference distribution p.
    reward: r, or a PromptReward that becomes one for each prompt.
    beta: β > 0 in units of the reward; small β trusts the reward, large β stays near p (ETS writes λ, TRL `beta`).
    proposal: a cheaper distribution q over the same tokens that samplers may draw from; weights correct for it, as long as q can
        draw whatever p can: one whose settings say that it cannot is refused (`exptilt.proposals`).
    """

    engine: Engine
    reward: Reward | PromptReward
    beta: float
    proposal: Engine | None = None

    def __post_init__(self) -> None:
        if isinstance(self.beta, bool) or not (isinstance(self.beta, Real) and 0 < self.beta < math.inf):
            raise TargetError(f"beta={self.beta!r} must be a positive finite number: it divides the reward, π ∝ p·exp(r/beta)")
        if not (callable(self.reward) or isinstance(self.reward, PromptReward)):
            raise TargetError(f"reward {self.reward!r} is not callable: give a function (prompt, drafts) -> floats")
        if self.proposal is None:
            return
        for name in ("alphabet", "max_tokens"):
            ours, theirs = getattr(self.engine, name), getattr(self.proposal, name)
            if ours != theirs:
                raise TargetError(
                    f"the proposal {self.proposal.name} has {name} {theirs} but the engine {self.engine.name} has {ours}: "
                    "importance ratios need both over the same responses. Give both the same tokenizer and token cap."
                )
        check_cover(self.engine, self.proposal)

    @property
    def law(self) -> Engine:
        """The engine that samplers draw from: the proposal if there is one, else the engine itself."""
        return self.engine if self.proposal is None else self.proposal

    @property
    def fixed(self) -> bool:
        """Whether the reward is a fixed function, so that π exists and weights mean something."""
        return self.is_bound or cast(PromptReward, self.reward).fixed

    @cached_property
    def is_bound(self) -> bool:
        """Whether the reward is a function already, the same for all prompts, so that it needs no `bind`."""
        return not isinstance(self.reward, PromptReward)

    def bind(self, prompt: Prompt, key: Key) -> Target:
        """This target with its reward made a function for `prompt`; itself where the reward is one already."""
        return self if self.is_bound else replace(self, reward=cast(PromptReward, self.reward).bind(self.engine, prompt, key))

    def rate(self, prompt: Prompt, drafts: Sequence[Draft]) -> Floats:
        """Rewards r(x, y) of the drafts, checked; float64 of shape [len(drafts)]."""
        if not callable(self.reward):
            raise TargetError(f"reward {reward_name(self.reward)} must be bound to a prompt first: call target.bind(prompt, key)")
        return rate(self.reward, prompt, drafts)

    def bounds(self, prompt: Prompt, drafts: Sequence[Draft]) -> Floats:
        """Upper bounds of the rewards that unfinished drafts can still get; float64 [drafts], +inf where nothing is known."""
        return bounds(self.reward, prompt, drafts)

    def tilt(self, values: Floats) -> Floats:
        """Rewards, or estimates of them, divided by β: float64 of the same shape, in nats; -inf stays.

        Raises RewardError where a finite value divided by β is too large for a float: no weight could be computed.
        """
        with np.errstate(over="ignore"):
            tilted = values / self.beta
        if not np.isfinite(tilted).all() and np.any(np.isinf(tilted) & np.isfinite(values)):
            raise RewardError(
                f"the reward {values[np.isinf(tilted)][0]:g} divided by beta={self.beta:g} is beyond the range of floats: scale "
                "the reward down, or raise beta; -inf excludes a draft"
            )
        return tilted


class Sampler(Protocol):
    """An algorithm that yields populations for a target: anytime, each better than the last, the last is the answer.

    `weighted` says whether its weights are proper (math of `exptilt.populations.population`), so that log Ẑ exists.
    """

    weighted: ClassVar[bool]

    def needs(self, target: Target) -> frozenset[str]:
        """What the target's engine must be able to do. Raises TargetError where the target has parts it cannot use."""
        ...

    def __call__(self, target: Target, prompt: Any, key: Key) -> Iterator[Population]: ...


def check_capabilities(sampler: Sampler, target: Target) -> None:
    """Refuse, before any work, a sampler whose needs the engine, the proposal or the reward's engine cannot meet."""
    needs = sampler.needs(target)
    if isinstance(target.reward, PromptReward):
        needs |= target.reward.needs()
    wanted: list[tuple[Engine, frozenset[str]]] = [(target.engine, needs)]
    if target.proposal is not None:
        wanted.append((target.proposal, (sampler.needs(target) - {"score"}) | {"logq"}))
    for engine, need in wanted:
        if missing := need - engine.can:
            raise CapabilityError(
                f"{type(sampler).__name__} with reward {reward_name(target.reward)} needs {sorted(need)} but {engine.name} "
                f"can {sorted(engine.can)}: {sorted(missing)} is missing. Choose an engine that can "
                f"({_CURES[min(missing)]}), or a sampler that needs less, such as Independent."
            )


_CURES = {
    "continue": "a local model, or a server that continues raw text",
    "steps": "a local model that writes from left to right; or blocks counted in tokens, such as block=32",
    "logq": "a local model, or a server that returns processed log-probabilities",
    "score": "a local model; for a target without proposal no scoring is needed",
    "evidence": "an image-diffusion model that was trained with a class, or text, for none",
    "certainty": "a local model, which sees whole distributions",
}
