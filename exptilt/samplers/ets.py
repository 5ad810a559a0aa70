"""ETS: energy-guided test-time scaling (Li et al., 2601.21484), with the weights that make it exact.

One chain grows block by block. At step i, M candidate extensions c_1..c_M of the chain are drawn from p, each is
finished K times by rollouts u_mk, its energy is estimated as Ê_m = (1/K) Σ_k exp(r(u_mk)/β), and one candidate is
picked with probability Ê_m/Σ Ê. A finished candidate needs no rollouts: its energy is exp(r(c_m)/β) itself.

The published chain alone follows π only as M grows (bias O(1/M)). What makes a run exact is the weight

    w = exp(r(y_I)/β) · Π_i 1/(M·P_i(j_i)),     P_i(m) the probability with which step i picks candidate m, j_i the pick,

which is proper for γ = p·exp(r/β) for every M, K and number of steps, as long as every candidate that can still lead to a
response with γ > 0 has P_i(m) > 0. The scores may be anything: energies, tempered energies s^τ, or the exponential of
a value model. P is proportional to them, except for a floor under unfinished candidates, which keeps it positive
where an estimated energy is 0 and the true one is not (`exptilt.samplers.picks`). A finished candidate that the reward
excludes is never picked; where all are finished and excluded, the chain has weight zero.

Every rollout counts too: with W_i = Π_{s<i} 1/(M·P_s(j_s)), the rollouts of step i with weights W_i·exp(r/β)/(MK) are
properly weighted too, so all rollouts of all steps, each step's weights times a fixed α_i with Σα = 1, are one properly
weighted population.
The number of steps is fixed beforehand, ceil(max_tokens/block), or `max_tokens` for steps of text (each has one token at the
least), of which the last goes to the end: a chain that ends early counts with its finished
response at every step left. Populations are yielded after each step, once there is a weight above zero, and a last one
with the response of a chain that ended early.

The trace of each population is the `Tree` of the steps so far.

With a proposal q this is ETS-IS: rollouts are drawn from q and carry p/q over their own tokens; candidates are drawn
from q as well if `propose_candidates` is set, then s_m gains the factor l_m = p(c_m)/q(c_m), and W the factor l_j; a
candidate with p(c_m) = 0 is never picked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np

from exptilt.blocks import Blocks, BlockSize, as_block, schedule, step_needs
from exptilt.core import Target
from exptilt.draft import Draft, Prompt
from exptilt.errors import AllWeightsZero, TargetError
from exptilt.keys import Floats, Key
from exptilt.populations.population import Population
from exptilt.rating import rate
from exptilt.samplers.command import Command
from exptilt.samplers.common import LookAhead, Value, at_least_one, log_ratio, look_ahead
from exptilt.samplers.picks import FLOOR, check_floor, log_picks
from exptilt.samplers.trace import Tree
from exptilt.watching import grow, settle


@dataclass(frozen=True)
class ETS:
    """Guided selection among candidates by their energies.

    candidates: how many candidates per step (M).
    rollouts: how many per unfinished candidate (K).
    block: tokens per step, or the text that ends a step, such as a newline (`exptilt.blocks`); None for one step to the end.
    returns: "rollouts" puts all rollouts of all steps into the population; "chain" only the chain's response, which without
        its weight, and with a floor near 0, is the published algorithm.
    temper: scores are raised to this power; below 1 guards against a single lucky rollout.
    value: scores partial candidates instead of rollouts; then only the last step's candidates form the population.
    propose_candidates: draw candidates, not only rollouts, from the target's proposal.
    step_weights: the share α_i of each step, non-negative; by default proportional to 1/i², the best of five rules
        (`reproduce/step_weights.py`): later steps are guided better, but their weights are noisier.
    floor: the share δ of each pick that unfinished candidates keep whatever their scores, above 0 and below 1. It keeps
        weights proper under hard constraints; the default is near the best by measured variance (`reproduce/floors.py`).
    """

    candidates: int
    rollouts: int = 1
    block: Blocks | None = None
    returns: Literal["rollouts", "chain"] = "rollouts"
    temper: float = 1.0
    value: Value | None = None
    propose_candidates: bool = False
    step_weights: tuple[float, ...] | None = None
    floor: float = FLOOR
    weighted: ClassVar[bool] = True
    command: ClassVar[Command] = Command(
        "ets",
        "guided selection among candidate continuations, by the energy of their rollouts",
        start={"candidates": 8, "block": 32},
    )

    def __post_init__(self) -> None:
        at_least_one(self, "candidates", "rollouts")
        as_block("ETS", self.block)
        if self.returns not in ("rollouts", "chain"):
            raise ValueError(f'ETS(returns={self.returns!r}): give "rollouts" or "chain"')
        if not 0 <= self.temper < math.inf:
            raise ValueError(f"ETS(temper={self.temper}): give a power of 0 or more; 1 uses the energies as they are")
        if self.step_weights is not None and not (min(self.step_weights, default=0) >= 0 < sum(self.step_weights)):
            raise ValueError(f"ETS(step_weights={self.step_weights}): give non-negative numbers, one at least positive")
        check_floor(self, self.floor)

    def steps(self, max_tokens: int) -> int:
        """How many guidance steps a response of up to `max_tokens` takes at the most."""
        return len(schedule(self.block, max_tokens))

    def needs(self, target: Target) -> frozenset[str]:
        """ "continue" for more than one step, "steps" for those of text; "score" where there is a proposal."""
        if target.proposal is None and self.propose_candidates:
            raise TargetError("ETS(propose_candidates=True) has no proposal to draw from: give the target one")
        self._alphas(target)  # this refuses step weights of another number of steps
        more = step_needs(self.block, target.engine.max_tokens)
        return more if target.proposal is None else more | {"score"}

    def __call__(self, target: Target, prompt: Prompt, key: Key) -> Iterator[Population]:
        pool, tree, log_m = _Pool(), Tree(), math.log(self.candidates)
        chain, log_w = target.engine.start(prompt), 0.0
        shares, blocks = self._shares(target), schedule(self.block, target.engine.max_tokens)
        for step, (alpha, block) in enumerate(zip(shares, blocks, strict=True)):
            here = key.child("step", step)
            candidates, log_l = self._candidates(target, chain, block, here)
            ahead, log_e = self._energies(target, prompt, candidates, here)
            log_u = log_w + log_l[ahead.owner] + ahead.log_h + ahead.log_share - log_m
            first = pool.add(ahead.drafts, log_u, ahead.rewards, alpha)

            log_p = self._log_picks(candidates, log_l, log_e)
            ended, response = log_p is None, ([], np.zeros(0), np.zeros(0))  # all are excluded: weight zero from here
            if log_p is not None:
                pick = here.child("pick").choose(np.exp(log_p))
                chain, log_w = candidates[pick], log_w + log_l[pick] - log_p[pick] - log_m
                tree = tree.grown(candidates, log_e, pick, log_w, ahead.owner, first)
                if self.returns == "chain":
                    settle(self, chain.text)
                if ended := chain.finish is not None:
                    response = [chain], log_w + ahead.log_h[ahead.owner == pick], ahead.rewards[ahead.owner == pick]
            if step + 1 < len(shares):
                if pool.alive:
                    yield pool.population(tree)
                elif not ended:
                    grow(self, tree)
            if ended:  # a chain that ended counts with its response, or with none, at every step left
                pool.add(*response, 1.0 if self.returns == "chain" else sum(shares[step + 1 :]))
                break
        yield pool.population(tree)

    def _shares(self, target: Target) -> tuple[float, ...]:
        """The share α_i of each step's rollouts; a response that ends the chain has those of all later steps."""
        alphas = self._alphas(target)
        return (0.0,) * len(alphas) if self.returns == "chain" else alphas

    def _alphas(self, target: Target) -> tuple[float, ...]:
        """The share α_i of each step in the population, summing to one."""
        steps = self.steps(target.engine.max_tokens)
        if self.value is not None:  # without rollouts, only the last step is sure to have finished drafts
            return (0.0,) * (steps - 1) + (1.0,)
        given = self.step_weights or tuple(1.0 / (step + 1) ** 2 for step in range(steps))
        if len(given) != steps:
            raise TargetError(
                f"ETS has {len(given)} step_weights but takes {steps} steps with block={self.block!r} to the engine's "
                f"max_tokens={target.engine.max_tokens}: give {steps} of them"
            )
        return tuple(alpha / sum(given) for alpha in given)

    def _log_picks(self, candidates: list[Draft], log_l: Floats, log_e: Floats) -> Floats | None:
        """log P of picking each candidate; None where all are lost. Scores are tempered only where they are positive."""
        unfinished, log_s = np.array([draft.finish is None for draft in candidates]) & (log_l > -math.inf), log_l + log_e
        if self.temper == 0:
            log_s = np.where((log_s > -math.inf) | unfinished, 0.0, -math.inf)
        elif self.temper != 1:
            log_s = self.temper * log_s
        return log_picks(log_s, unfinished, self.floor)

    def _candidates(self, target: Target, chain: Draft, block: BlockSize | None, key: Key) -> tuple[list[Draft], Floats]:
        """M extensions of the chain by one block, and log l_m = log p/q of each (zero where p drew them)."""
        law = target.law if self.propose_candidates else target.engine
        keys = [key.child("candidate", number) for number in range(self.candidates)]
        candidates = law.extend([chain] * self.candidates, keys, block)
        if law is target.engine:
            return candidates, np.zeros(self.candidates)
        return candidates, log_ratio(target, candidates, [chain.decided] * self.candidates)

    def _energies(self, target: Target, prompt: Prompt, candidates: list[Draft], key: Key) -> tuple[LookAhead, Floats]:
        """Finished drafts with their weights, and log Ê of each candidate."""
        if self.value is None:
            ahead = look_ahead(target, prompt, candidates, self.rollouts, key.child("rollout"))
            return ahead, ahead.log_energies(len(candidates))
        done = [number for number, draft in enumerate(candidates) if draft.finish is not None]
        partial = [number for number, draft in enumerate(candidates) if draft.finish is None]
        ahead = look_ahead(target, prompt, [candidates[number] for number in done], 1, key)
        ahead = replace(ahead, owner=np.array(done, dtype=np.intp)[ahead.owner])
        log_energies = np.empty(len(candidates))
        log_energies[done] = ahead.log_h
        log_energies[partial] = target.tilt(rate(self.value, prompt, [candidates[number] for number in partial]))
        return ahead, log_energies


@dataclass
class _Pool:
    """The rollouts of the steps so far, each step's weights times its α."""

    drafts: list[Draft] = field(default_factory=list)
    log_w: list[Floats] = field(default_factory=list)
    rewards: list[Floats] = field(default_factory=list)
    share: float = 0.0
    alive: bool = False  # whether any draft so far has a positive weight

    def add(self, drafts: list[Draft], log_w: Floats, rewards: Floats, alpha: float) -> int | None:
        """Take drafts in; the row of the first of them, None where α is zero and they do not count."""
        if not alpha > 0:
            return None
        first = len(self.drafts)
        self.drafts += drafts
        self.log_w.append(log_w + math.log(alpha))
        self.rewards.append(rewards)
        self.share += alpha
        self.alive = self.alive or log_w.max(initial=-math.inf) > -math.inf
        return first

    def population(self, tree: Tree) -> Population:
        """The population of the steps so far: their α made to sum to one, which keeps it properly weighted."""
        if not self.drafts:
            raise AllWeightsZero("every candidate of an ETS step was excluded by the reward: draw more candidates or rollouts")
        log_w = np.concatenate(self.log_w) - math.log(self.share)
        return Population(self.drafts, log_w, np.concatenate(self.rewards), trace=tree)
