"""Blocks: what is decided in one step, a number of tokens or a step of text that ends where the text says so.

    xt.SMC(16, block=32)                                 # 32 tokens
    xt.SMC(16, block="\\n")                               # a line
    xt.ETS(8, block={".", "\\n", 198})                    # up to any of these strings or token ids
    xt.ETS(8, block=xt.Block("\\n", tokens=64, steps=12)) # lines of 64 tokens at the most; the 12th step goes to the end

A step of text ends after the first token that completes one of its ends in the step's own text: what is decoded after the token,
less what was decoded before the step. An end may lie inside a token, then the rest of the token belongs to the step as well; an
end that began before the step does not count. Where a step ends depends on the tokens decided so far and on nothing else, and
how many steps there are at the most is fixed beforehand (`schedule`): that is all that the weights of guided samplers ask for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """A step of text.

    ends: the strings, and ids of tokens, that end a step and belong to it; one of them, or several.
    tokens: a step that has not ended after so many tokens ends there; None where it may be as long as the response.
    steps: how many steps a response has at the most, the last of which goes to its end; None for as many as it has tokens.
    """

    ends: tuple[str | int, ...] | Set[str | int] | str
    tokens: int | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        given = (self.ends,) if isinstance(self.ends, str | int) else tuple(self.ends)
        bad = [end for end in given if end == "" or isinstance(end, bool) or not isinstance(end, str | int)]
        if bad or not given or any(isinstance(end, int) and end < 0 for end in given):
            raise ValueError(f"Block(ends={self.ends!r}): give a string that ends a step, the id of a token, or several of them")
        ordered = sorted(set(given), key=lambda end: (isinstance(end, str), end))  # a set has no order of its own
        object.__setattr__(self, "ends", tuple(ordered))
        for name, value in (("tokens", self.tokens), ("steps", self.steps)):
            if value is not None and not (type(value) is int and value >= 1):
                raise ValueError(f"Block({name}={value!r}): give a whole number of 1 or more, or None for no limit")

    @property
    def words(self) -> str:
        """The block in a few words, for people."""
        tokens = "" if self.tokens is None else f" within {self.tokens} tokens"
        return f"up to {' or '.join(map(repr, self.ends))}{tokens}{'' if self.steps is None else f', {self.steps} at the most'}"

    @property
    def texts(self) -> tuple[str, ...]:
        """The strings among its ends."""
        return tuple(end for end in self.ends if isinstance(end, str))

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of tokens among its ends."""
        return tuple(end for end in self.ends if isinstance(end, int))

    def ends_in(self, before: str, now: str) -> bool:
        """Whether one of its strings is in the step's own text. before, now: the response's text before the step, and now."""
        # A text that ends inside a character is decoded otherwise once that is complete.
        own = next((place for place, (one, other) in enumerate(zip(before, now, strict=False)) if one != other), len(before))
        return any(text in now[own:] for text in self.texts)


BlockSize = int | Block
"""What an engine draws in one call: up to so many tokens, or a step of text."""

Blocks = int | str | Set[str | int] | Block
"""What users write for a block: a count of tokens, a string or a set of strings and token ids that end it, or a `Block`."""


def as_block(owner: str, given: Blocks | None) -> BlockSize | None:
    """A block as users write it, checked. Raises ValueError that names the owner of the setting."""
    if given is None or isinstance(given, Block) or (type(given) is int and given >= 1):
        return given
    if isinstance(given, int | float | Mapping):
        raise ValueError(f"{owner}(block={given!r}): give a whole number of 1 or more, a text or several, or an xt.Block")
    try:
        return Block(given)
    except (TypeError, ValueError):
        raise ValueError(
            f"{owner}(block={given!r}): give a whole number of tokens of 1 or more, a string that ends a step, such as "
            '"\\n", or a set of such strings and of token ids'
        ) from None


def schedule(given: Blocks | None, max_tokens: int) -> list[BlockSize | None]:
    """What each step draws, as many as there can be; together they decide a response of up to `max_tokens`."""
    block = as_block("", given)
    if block is None:
        return [None]
    if isinstance(block, int):
        return [block] * math.ceil(max_tokens / block)
    steps = max_tokens if block.steps is None else min(block.steps, max_tokens)  # a step has one token at the least
    return [*[block] * (steps - 1), None]


def step_needs(given: Blocks | None, max_tokens: int) -> frozenset[str]:
    """What drawing by this block asks of an engine (`exptilt.core.Engine.can`)."""
    steps = schedule(given, max_tokens)
    if len(steps) == 1:
        return frozenset()
    return frozenset({"continue", "steps"} if isinstance(steps[0], Block) else {"continue"})
