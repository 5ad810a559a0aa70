"""The contract of engines: what every engine promises, each promise a check of its own in `CHECKS`.

Recorded log-probabilities are those of the distribution that was actually sampled; the draws of a key depend on nothing
else; drafts end where they say; work is counted; abilities are there as claimed, and refused otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from exptilt.core import Engine
from exptilt.draft import Draft, Prompt
from exptilt.keys import Key
from exptilt.testing.contract import ContractError


@dataclass(frozen=True)
class EngineContract:
    """An engine, and what is known of it beyond its protocol.

    prompts: prompts that it answers in many ways; drafts are drawn from them in turn.
    tolerance: nats between a recorded log-probability and its score, absolute and relative.
    singles: how many drafts are drawn one by one, to be compared with batches; 32 or more.
    draws: how many draws the checks of frequencies may take; their tolerance is five standard errors.
    caches: whether it reuses what it has computed of a prefix.
    stops: whether it takes stop strings.
    seeded: whether the same key gives the same draft; a server may not know seeds.
    """

    engine: Engine
    prompts: Sequence[Prompt]
    tolerance: float = 1e-5
    singles: int = 100
    draws: int = 1000
    caches: bool = True
    stops: bool = True
    seeded: bool = True

    def start(self, count: int) -> list[Draft]:
        return [self.engine.start(self.prompts[number % len(self.prompts)]) for number in range(count)]

    @cached_property
    def alone(self) -> list[Draft]:
        """Finished drafts, each from a call of its own."""
        pairs = zip(self.start(self.singles), keys(self.singles), strict=True)
        return [self.engine.extend([draft], [key])[0] for draft, key in pairs]


@dataclass(frozen=True)
class Check:
    """One promise.

    run: raises ContractError where it is broken.
    needs: the abilities it is about.
    when: what else must hold for the engine.
    """

    run: Callable[[EngineContract], None]
    needs: frozenset[str] = frozenset()
    when: Callable[[EngineContract], bool] = lambda case: True

    def applies(self, case: EngineContract) -> bool:
        return self.needs <= case.engine.can and self.when(case)


CHECKS: dict[str, Check] = {}


def check_engine(engine: Engine, prompts: Sequence[Prompt], **known: Any) -> list[str]:
    """Check every promise that concerns the engine's abilities. Returns the names of those checked.

    prompts: two or more, which the engine answers in many ways (hot, or cut to few tokens). known: fields of `EngineContract`.
    Raises ContractError that names the promise.
    """
    case = EngineContract(engine, prompts, **known)
    checked = [name for name, check in CHECKS.items() if check.applies(case)]
    for name in checked:
        try:
            CHECKS[name].run(case)
        except ContractError as broken:
            raise ContractError(f"{engine.name} does not keep a promise ({name.replace('_', ' ')}): {broken}") from None
    return checked


def promise(
    *needs: str, when: Callable[[EngineContract], bool] = lambda case: True
) -> Callable[[Callable[[EngineContract], None]], Callable[[EngineContract], None]]:
    def enter(run: Callable[[EngineContract], None]) -> Callable[[EngineContract], None]:
        CHECKS[run.__name__] = Check(run, frozenset(needs), when)
        return run

    return enter


def keys(count: int, seed: int = 0) -> list[Key]:
    return [Key(seed, number) for number in range(count)]
