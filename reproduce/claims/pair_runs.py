"""Runs of a real pair of models: Qwen2.5-Coder-1.5B-Instruct, and its 0.5B as the proposal, on programs.

    python reproduce/claims/pair_runs.py MODEL.gguf PROPOSAL.gguf     # hours on two cores; goes on where it was stopped

The tasks are those of `reproduce/real_small.py`: GSM-Symbolic answered by programs (60 problems), and the problems of HumanEval
whose docstring has examples (54), at temperature 0.7. The reward is the agreement with a pilot there, the first 8 plain draws of
a problem, which every method pays for, and the share of the docstring's examples here; β = 0.1, as published for ETS. Both files
are run by transformers in bfloat16 (`gguf:`), which draws faster than llama.cpp does here. Finished methods are kept in
reproduce/results/claims/pair, finished problems under runs/pair. `reproduce/claims/pair.py` reads them.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from exptilt.core import Engine  # noqa: E402
from exptilt.draft import Draft  # noqa: E402
from exptilt.evaluation.evaluate import all_results  # noqa: E402
from exptilt.evaluation.tasks import Task  # noqa: E402
from reproduce.claims.cells import Cell, Cells, columns, energies  # noqa: E402
from reproduce.claims.finding import RESULTS  # noqa: E402
from reproduce.methods import Beam, Plan, Results, ets_chain, nothing, told, true_reward  # noqa: E402
from reproduce.pool import Pool, pooled  # noqa: E402
from reproduce.real_small import TEMPERATURE, examples, gsm_programs, humaneval_with_examples, returned, whole  # noqa: E402

FOLDER, RUNS = RESULTS / "pair", ROOT / "runs" / "pair"
DRAWS, PILOT, BETA, SEED, PROBLEMS = 32, 8, 0.1, 71, 60
BLOCK, MOVES, POWER = 16, 32, 4.0
PREFIXES, ROLLOUTS, DIRECT = 24, 16, 32  # of the energies
PARAMETERS = {"model": 1_543_714_304, "proposal": 494_032_768}
SIZES = (1, 2, 4, 8, 16, 32)
STATES = (4, 8, 16, 33)  # of a chain, its first draft among them
CELLS = Cells("pair", FOLDER)


@dataclass(frozen=True)
class Agreed:
    """1.0 for a draft with its problem's most frequent answer among the pilot, else 0.0. modes: by prompt."""

    modes: Mapping[str, str | None]

    def __call__(self, prompt: str, drafts: Sequence[Draft]) -> list[float]:
        return [float(self.modes[prompt] is not None and returned(draft.text) == self.modes[prompt]) for draft in drafts]


@dataclass(frozen=True)
class Bench:
    """A task by its name, what is said of the reward that its methods follow, and of how many plain draws that is made.

    load: makes the task of so many problems; the package that has them is not needed to read what was run.
    """

    title: str
    name: str
    load: Callable[[int], Task]
    told: str
    pilot: int

    @cached_property
    def task(self) -> Task:
        return self.load(PROBLEMS)

    @property
    def reward(self) -> Any:
        """Known once the plain draws are there."""
        pool = drawn(self)
        if not self.pilot or pool is None:
            return xt.rewards.UnitTests(examples, extract=whole, continues=True)
        answers = pool.of_draws(pool.answers)[:, : self.pilot]
        return Agreed({text: _mode(row.tolist()) for text, row in zip(self.task.texts, answers, strict=True)})


def _mode(answers: list[str]) -> str | None:
    """The most frequent answer, the first of equals; None where there is none."""
    found = Counter(answer for answer in answers if answer).most_common(1)
    return found[0][0] if found else None


def benches() -> list[Bench]:
    return [
        Bench("GSM-Symbolic programs", "gsm-symbolic", gsm_programs, f"agreement with {PILOT} pilot draws", PILOT),
        Bench("HumanEval", "humaneval-completion", humaneval_with_examples, "the docstring's examples", 0),
    ]


def first_states(states: int, vote: Any) -> Any:
    """The vote of a chain's first states."""

    def chosen(population: xt.Population, key: xt.Key) -> Draft:
        return vote(xt.Population.unweighted(population.drafts[:states], population.rewards[:states]), key)

    return chosen


def plans(bench: Bench, p: Engine, q: Engine) -> Iterator[Plan]:
    """Every run of a task but its plain draws, what the papers' claims need most first."""
    plain, vote = xt.vote(bench.task.answer, weighted=False), xt.vote(bench.task.answer, distinct=False)
    target, nothing = xt.Target(p, bench.reward, BETA), xt.Target(p, xt.rewards.Zero(), 1.0)
    right = xt.Target(p, true_reward(bench.task), BETA)
    published, first = xt.ETS(8, 2, BLOCK, floor=1e-6), xt.ETS(3, 3, None, floor=1e-6)
    states = {f"QAlign, {n} states": first_states(n, plain) for n in STATES}
    powers = {f"power sampling, {n} states": first_states(n, plain) for n in STATES}
    yield Plan(target, published, {"ETS": ets_chain, "ETS, all rollouts vote": vote})
    yield Plan(target, first, {"ETS(3, 3), one step": ets_chain})
    yield Plan(right, first, {"ETS(3, 3), one step, verifier": ets_chain})
    yield Plan(target, xt.SuffixMCMC(MOVES), states)
    yield Plan(replace(target, proposal=q), published, {"ETS-IS": ets_chain, "ETS-IS, all rollouts vote": vote})
    yield Plan(replace(target, proposal=q), xt.Independent(16), {"GSI": xt.draw})
    yield Plan(nothing, xt.SuffixMCMC(MOVES, power=POWER), powers | {"power sampling": xt.draw})
    yield Plan(nothing, Beam(4, 4, BLOCK), {"beam search": xt.draw})
    yield Plan(target, xt.SMC(16, BLOCK), {"SMC": vote})


# ------------------------------------------------------------------------------------------------------------ draws


def pool_path(bench: Bench) -> Path:
    return FOLDER / f"{bench.name}.npz"


def draw(bench: Bench, p: Engine) -> None:
    """The plain draws, with the examples that each passes, unless they are there."""
    if pool_path(bench).exists():
        return
    outcomes = xt.run(
        xt.Target(p, xt.rewards.Zero(), 1.0), bench.task.prompts, xt.Independent(DRAWS), seed=SEED,
        store=RUNS / f"{bench.name}.jsonl", concurrency=16, progress=told(f"{bench.name}, draws"),
    )  # fmt: skip
    right = dict(zip(bench.task.texts, bench.task.references, strict=True))
    checker = nothing if bench.pilot else bench.reward
    pooled(all_results(outcomes), bench.task, right, checker).save(pool_path(bench))


def drawn(bench: Bench) -> Pool | None:
    return Pool.load(pool_path(bench)) if pool_path(bench).exists() else None


# --------------------------------------------------------------------------------------------------------- energies


def overlap(bench: Bench, p: Engine, q: Engine) -> Cell:
    """Of responses halfway: energies by the model's rollouts and, corrected, by the proposal's; p/q of these, and its k̂."""
    reward, found = true_reward(bench.task), []
    for number, prompt in enumerate(bench.task.texts):
        if len(found) == PREFIXES:
            break
        key = xt.Key(SEED, number)
        prefix = p.extend([p.start(prompt)], [key], BLOCK)[0]
        if prefix.finish is None:
            own = [key.child("own", place) for place in range(DIRECT)]
            proposed = [key.child("proposed", place) for place in range(ROLLOUTS)]
            found.append(energies(p, q, prefix, reward, 0.2, own, proposed))
            print(f"{bench.name}, energies: {len(found)} of {PREFIXES}", file=sys.stderr, flush=True)
    return columns(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Qwen2.5-Coder-1.5B-Instruct as a GGUF file")
    parser.add_argument("proposal", help="Qwen2.5-Coder-0.5B-Instruct as a GGUF file")
    options = parser.parse_args()
    named = {"template": False, "temperature": TEMPERATURE, "dtype": "bfloat16"}
    model, small = xt.load(f"gguf:{options.model}", **named), xt.load(f"gguf:{options.proposal}", **named)
    ready = [
        (bench, *(each.with_sampling(max_tokens=bench.task.max_tokens, stop=bench.task.stop) for each in (model, small)))
        for bench in benches()
    ]
    for bench, p, _ in ready:
        draw(bench, p)
    results = Results(FOLDER / "methods.json")
    for pair in zip(*(list(plans(*each)) for each in ready), strict=True):  # each method on both tasks before the next
        for (bench, _, _), plan in zip(ready, pair, strict=True):
            name = f"{bench.name}, {next(iter(plan.selects))}"
            flight = PROBLEMS if isinstance(plan.sampler, xt.SuffixMCMC) else 16  # a chain has but one row
            results.measure(bench.name, plan, bench.task, SEED, concurrency=flight, folder=RUNS, progress=told(name))
    for bench, p, q in ready:
        CELLS(f"energies, {bench.name}", partial(overlap, bench, p, q))


if __name__ == "__main__":
    main()
