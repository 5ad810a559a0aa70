"""Rewards from the engine itself: how likely a draft is under it, and how sure it was at each token.

`LogProb` and `Power` read log p(y) under the engine's own distribution (capability "score"). `SelfCertainty` (Kang et al.,
2502.18581) and `NegativeEntropy` average a per-token measurement of the whole next-token distribution (capability
"certainty"; see `exptilt.engines.certainty`). Rewards are in nats, and none of them knows whether the draft is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from exptilt.core import Engine
from exptilt.draft import Draft, Prompt
from exptilt.engines.certainty import CertainEngine, Certainty
from exptilt.errors import CapabilityError
from exptilt.keys import Floats, Key


@dataclass(frozen=True)
class LogProb:
    """log p(y|x) in nats, divided by the number of tokens unless `mean` is False.

    The mean does not prefer short drafts; the sum does, and with β it targets p^(1 + 1/β).
    """

    mean: bool = True
    fixed = True

    def needs(self) -> frozenset[str]:
        """The capability "score"."""
        return frozenset({"score"})

    def bind(self, engine: Engine, prompt: Prompt, key: Key) -> BoundScore:
        """The reward under this engine's distribution."""
        return BoundScore(engine, _mean if self.mean else _sum)


@dataclass(frozen=True)
class Power:
    """r(y) = (α - 1)·log p(y|x): with β = 1 the target is the power distribution p^α/Z, as a reward for any sampler.

    alpha: α > 0; above 1 sharpens. With another β the exponent is 1 + (α - 1)/β. `SuffixMCMC(power=α)` has the same
    target without scoring. On a masked-diffusion engine log p is that of the order in which the draft was decided, so
    the distribution of paths is sharpened, not the distribution of texts.
    """

    alpha: float
    fixed = True

    def __post_init__(self) -> None:
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"Power(alpha={self.alpha}): give a positive exponent; above 1 sharpens, 1 leaves p as it is")

    def needs(self) -> frozenset[str]:
        """The capability "score"."""
        return frozenset({"score"})

    def bind(self, engine: Engine, prompt: Prompt, key: Key) -> BoundScore:
        """The reward under this engine's distribution."""
        return BoundScore(engine, _sum, self.alpha - 1.0)


@dataclass(frozen=True)
class SelfCertainty:
    """How far the next-token distributions p_t are from uniform, averaged over the draft's tokens.

    kind: "p-u" for KL(p_t‖U), which is log V less the entropy; "u-p" for KL(U‖p_t), the original form, which looks
    mostly at how improbable the improbable tokens are.
    """

    kind: Literal["p-u", "u-p"] = "u-p"
    fixed = True

    def __post_init__(self) -> None:
        if self.kind not in ("p-u", "u-p"):
            raise ValueError(f'SelfCertainty(kind={self.kind!r}): give "p-u" for KL(p_t‖U) or "u-p" for KL(U‖p_t)')

    def needs(self) -> frozenset[str]:
        """The capability "certainty"."""
        return frozenset({"certainty"})

    def bind(self, engine: Engine, prompt: Prompt, key: Key) -> BoundCertainty:
        """The reward under this engine's distribution."""
        return BoundCertainty(_certain(engine), _kl_to_uniform if self.kind == "p-u" else _kl_from_uniform)


@dataclass(frozen=True)
class NegativeEntropy:
    """-H(p_t) averaged over the draft's tokens: `SelfCertainty("p-u")` less the constant log V."""

    fixed = True

    def needs(self) -> frozenset[str]:
        """The capability "certainty"."""
        return frozenset({"certainty"})

    def bind(self, engine: Engine, prompt: Prompt, key: Key) -> BoundCertainty:
        """The reward under this engine's distribution."""
        return BoundCertainty(_certain(engine), _negative_entropy)


@dataclass(frozen=True)
class BoundScore:
    """scale · summary(per-token log-probabilities under `engine`); -inf for a draft that its distribution cannot produce.

    So it is for a negative scale too: -inf times (α - 1) < 0 would be +inf, but p^α of such a draft is 0 for every α > 0.
    """

    engine: Engine
    summary: Callable[[Floats], float]
    scale: float = 1.0

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        if self.scale == 0:
            return [0.0] * len(drafts)
        sums = map(self.summary, self.engine.score(drafts))
        return [log_p if log_p == -math.inf else self.scale * log_p for log_p in sums]


@dataclass(frozen=True)
class BoundCertainty:
    """The mean over tokens of one measurement of certainty."""

    engine: CertainEngine
    measure: Callable[[Certainty], Floats]

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        return [_mean(self.measure(certainty)) for certainty in self.engine.certainty(drafts)]


def _certain(engine: Engine) -> CertainEngine:
    """The engine as one that measures certainty."""
    if not isinstance(engine, CertainEngine):
        raise CapabilityError(f'{engine.name} cannot measure certainty: use an engine with "certainty" in its `can`')
    return engine


def _sum(values: Floats) -> float:
    return math.fsum(values)


def _mean(values: Floats) -> float:
    """The mean over tokens; 0 for a draft without tokens."""
    return math.fsum(values) / max(1, len(values))


def _kl_to_uniform(certainty: Certainty) -> Floats:
    return certainty.kl_to_uniform


def _kl_from_uniform(certainty: Certainty) -> Floats:
    return certainty.kl_from_uniform


def _negative_entropy(certainty: Certainty) -> Floats:
    return -certainty.entropy
