"""The parameters that, together with the weights, are the distribution of a masked-diffusion engine.

A response has `max_tokens` positions, cut into blocks of `block` that are decided one after the other from left to
right. A block is decided in *steps*: the network looks at what was decided before the step (everything else is masked),
some holes of the block are chosen, and their tokens are drawn independently from softmax(logits/temperature). A step
decides `per_step` positions, fewer where the block has fewer holes left.

Which holes a step takes:

- "left": the first ones. "random": any, each with equal chance.
- "max-probability", "margin", "entropy": those of which the network is surest, by the probability of the likeliest
  token, by its lead over the second, or by the entropy (nats) of the distribution; ties go to the first.
- "low-confidence": tokens are drawn for *all* holes of the block, and those with the highest probability of the drawn
  token stay (LLaDA, 2502.09992). Here the choice depends on what was drawn.

In all but the last the choice does not depend on the tokens of the step, so a path (the positions in order, with their
tokens) has the density Π softmax(logits/temperature)[token] over its decisions, times the chance of the order where it is
random, which cancels between distributions of the same order. "low-confidence" has no such product: no log-probabilities exist.

With `threshold` a step takes more than `per_step` holes where the network is sure: with "max-probability" all whose
likeliest token has at least that probability, with "left" the first ones up to the first that has not (an idea of Fast-dLLM,
2505.22618). How many is known before any token is drawn, so the density is still the product. It is another
distribution of the same network: each step draws its tokens independently of one another, given the state before the step.

With `cache` the network is evaluated on the whole response at the first step of a block only. Later steps feed a part of
it, and keys and values of the rest stay what they were then: with "dual" only the block is fed, with "prefix" the block
and all that comes after it. Both are block caches of Fast-dLLM, and again other distributions of the same network: the product
above with the conditional distributions that the network has under this cache, whose state is a function of the prompt, the
decisions before the block and those of the block before the step. A draft that is continued or scored goes through it again.

The end: once a complete block holds an end-of-text token the response is finished, and the positions of later blocks stay
undecided. The text ends at the first end-of-text token; what follows it in its block was decided and counts in the
density. With block=None every position is decided.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from exptilt.engines.sampling import check_min_p

Order = Literal["left", "random", "max-probability", "margin", "entropy", "low-confidence"]
Cache = Literal["none", "prefix", "dual"]


@dataclass(frozen=True)
class DiffusionSampling:
    """Which positions are decided when, and how their tokens are drawn.

    temperature, top_p, top_k, min_p: the distribution of one token, as in `exptilt.engines.sampling.Sampling`.
    max_tokens: positions of a response.
    block: positions per block, None for one block.
    per_step: positions per step.
    order: see above.
    threshold: probability from which more positions join a step; None for steps of fixed size.
    cache: which part of the response is not fed again within a block: none, what comes before it, or all outside it.
    guidance: scale w of classifier-free guidance: logits u + (1+w)·(c-u), u those with a masked prompt; 0 for none.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    max_tokens: int = 256
    block: int | None = 32
    per_step: int = 1
    order: Order = "max-probability"
    threshold: float | None = None
    cache: Cache = "none"
    guidance: float = 0.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature} must be positive and finite. For greedy decoding give top_k=1.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be above 0 and at most 1; 1 keeps every token")
        check_min_p(self.min_p)
        for name, optional in (("max_tokens", False), ("per_step", False), ("block", True), ("top_k", True)):
            value = getattr(self, name)
            if not ((optional and value is None) or (isinstance(value, int) and value >= 1)):
                raise ValueError(f"{name}={value!r} must be a whole number of 1 or more{', or None' if optional else ''}")
        if self.order not in get_args(Order):
            raise ValueError(f"order={self.order!r} is unknown: give one of {', '.join(get_args(Order))}")
        if self.cache not in get_args(Cache):
            raise ValueError(f"cache={self.cache!r} is unknown: give one of {', '.join(get_args(Cache))}")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold} must be a probability above 0, or None for steps of fixed size")
        if self.threshold is not None and self.order not in ("left", "max-probability"):
            raise ValueError(f'threshold={self.threshold} goes with order="max-probability" or "left", not {self.order!r}')
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance={self.guidance} must be finite; 0 is the model without guidance")

    @property
    def truncated(self) -> bool:
        """Whether some tokens may have probability zero."""
        return self.top_k is not None or self.top_p < 1 or self.min_p > 0

    @property
    def has_density(self) -> bool:
        """Whether log-probabilities of paths exist."""
        return self.order != "low-confidence"

    @property
    def looks(self) -> bool:
        """Whether the network must be asked before it is known which positions a step takes."""
        return self.order not in ("left", "random")

    def span(self, decided: int) -> tuple[int, int]:
        """First position and end of the block in which decision number `decided` falls."""
        size = self.block or self.max_tokens
        first = decided // size * size
        return first, min(first + size, self.max_tokens)

    def fed(self, decided: int) -> tuple[int, int] | None:
        """First position and end of what steps after the first feed, in the block of decision `decided`; None for all."""
        first, last = self.span(decided)
        return {"none": None, "prefix": (first, self.max_tokens), "dual": (first, last)}[self.cache]

    def step_start(self, decided: int) -> int:
        """How many decisions came before the step that decision number `decided` is part of.

        With a threshold the steps of a block have to be found one after the other: this is where the first began.
        """
        first, _ = self.span(decided)
        return first if self.threshold is not None else first + (decided - first) // self.per_step * self.per_step

    def settings(self) -> dict[str, Any]:
        """The parameters as JSON values; files of runs without min_p do not name it."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("min_p", 0.0)}
