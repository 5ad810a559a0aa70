"""Masked diffusion: methods at equal evaluations of the network, the effect of M, K and I, throughput, and memory.

    python reproduce/diffusion.py                    # everything, 200 problems: about two hours on 2 cores
    python reproduce/diffusion.py compare --problems 48
    python reproduce/diffusion.py compare --first 48 --problems 96 --results other.json    # a process of its own
    python reproduce/diffusion.py merge --others other.json
    python reproduce/diffusion.py grid --problems 24
    python reproduce/diffusion.py throughput memory
    python reproduce/diffusion.py tables             # write docs/diffusion_results.md from the results so far

Problems are taken in portions and every finished portion is kept in reproduce/results/diffusion.json, so a run that was
stopped goes on where it was. The model is tiny-mdlm at temperature 1; the reward checks the arithmetic of the worked
steps, never the reference answer. A *forward* is one evaluation of the network for one row; rows in the same state share
theirs. ETS sets the price, and the independent draws get as many as cost the same. With a block cache a forward may feed
a block only, so the positions fed are counted as well, and seconds of one processor, which other jobs on the machine
disturb less than those of the clock; the methods take turns on every portion of problems.

ETS-IS draws its rollouts from a cheaper law of the same network and rescores them by the reference, which takes one
evaluation for each step of the reference: as many as drawing would have. "Fast scores" need no rescoring: any positive
score keeps the weights of the chain exact, so rollouts of the fast law may serve as scores as they are, if only the
chain's own finished candidates form the population. "ETS of" a law has that law as its p.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout without installing

import exptilt as xt
from exptilt.core import Work
from exptilt.evaluation.evaluate import all_results, judge, wilson
from exptilt.evaluation.tasks.word_problems import word_problems
from exptilt.populations.diagnostics import log_sum

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "reproduce/results/diffusion.json"
PAGE = ROOT / "docs/diffusion_results.md"
PORTION = 12  # problems between two saves
BETA = 0.1
STEP = 16  # decisions per guidance step
SEED = 50  # of the problems
NUMBER = xt.answers.number
GRID = {
    **{f"I = {64 // block}, M = 4, K = 1": xt.ETS(4, 1, block) for block in (32, 16, 8, 4)},
    **{f"I = 4, M = {m}, K = 1": xt.ETS(m, 1, STEP) for m in (2, 8)},
    **{f"I = 4, M = 4, K = {k}": xt.ETS(4, k, STEP) for k in (2, 4)},
}


@dataclass(frozen=True)
class FastScores:
    """A look-ahead by another law, as the `value` of ETS: β·log of the mean of exp(r/β) over its rollouts.

    A function of the draft: its rollouts are keyed by what the draft holds.
    """

    engine: Any
    reward: Callable[..., Any]
    beta: float
    rollouts: int

    def __call__(self, prompt: str, drafts: list[xt.Draft]) -> list[float]:
        copies = [draft for draft in drafts for _ in range(self.rollouts)]
        names = [blake2b(repr((prompt, draft.tokens, draft.order)).encode(), digest_size=8).hexdigest() for draft in copies]
        keys = [xt.Key(0, name, i % self.rollouts) for i, name in enumerate(names)]
        rewards = np.asarray(self.reward(prompt, self.engine.extend(copies, keys))).reshape(len(drafts), self.rollouts)
        return [float(self.beta * (log_sum(row / self.beta) - math.log(self.rollouts))) for row in rewards]


LAWS: dict[str, dict[str, Any]] = {
    "threshold": {"threshold": 0.9},  # in the order of the reference, together with all that follow while the network is sure
    "dual cache": {"cache": "dual"},
    "dual cache, threshold": {"cache": "dual", "threshold": 0.9},
}


def measured(name: str, target: xt.Target, sampler: Any, selects: dict[str, Any], first: int, count: int, more: Work) -> dict:
    """Run a sampler on some of the problems: right answers by select, forwards and seconds in all."""
    problems = word_problems("test", first + count, seed=SEED)[first:]
    began, processor, before = time.monotonic(), time.process_time(), replace(more)
    results = all_results(xt.run(target, [problem.question for problem in problems], sampler, seed=first, concurrency=32))
    spent = [work for result in results for work in (result.usage.reference, result.usage.proposal)]
    right = {
        title: [judge(result, problem.answer, select, correct, 0) for result, problem in zip(results, problems, strict=True)]
        for title, select in selects.items()
    }
    record = {
        "right": right,
        "forwards": sum(work.forwards for work in spent) + more.forwards - before.forwards,
        "fed": sum(work.prompt for work in spent) + more.prompt - before.prompt,
        "seconds": time.process_time() - processor,
        "clock": time.monotonic() - began,
    }
    print(name, first, {title: round(float(np.mean(some)), 3) for title, some in right.items()}, record["forwards"], flush=True)
    return record


def correct(text: str, reference: str) -> bool:
    return NUMBER(text) == reference


# --------------------------------------------------------------------------------------------------------- comparison


def methods(engine: Any, work: Work, draws: int) -> dict[str, tuple[xt.Target, Any, dict[str, Any]]]:
    """Target, sampler and selects by name. work: where the engines of fast scores count theirs."""
    target = xt.Target(engine, xt.rewards.Arithmetic(), beta=BETA)
    guided, ends = xt.ETS(4, 1, STEP), {"drawn": xt.draw, "voted": xt.vote(NUMBER)}
    laws = {name: engine.with_sampling(**changes) for name, changes in LAWS.items()}
    both = laws["dual cache, threshold"]
    scores = FastScores(both.metered(work), target.reward, BETA, rollouts=2)  # type: ignore[arg-type]
    votes = {"plain": None, "majority": xt.vote(NUMBER, weighted=False), "best": xt.best}
    return {
        "ETS": (target, guided, ends),
        **{f"ETS-IS, proposal: {name}": (replace(target, proposal=law), guided, ends) for name, law in laws.items()},
        "ETS, fast scores: dual cache, threshold": (target, xt.ETS(4, 1, STEP, value=scores), ends),
        "ETS of: dual cache": (replace(target, engine=laws["dual cache"]), guided, ends),
        "ETS of: dual cache, threshold": (replace(target, engine=both), guided, ends),
        "draws": (target, xt.Independent(draws), votes),
        "draws of: dual cache, threshold": (replace(target, engine=both), xt.Independent(draws), votes),
    }


def compare(engine: Any, records: dict, problems: range, deadline: float) -> None:
    """Portions of problems, every method on each portion before the next."""
    work, done = Work(), records.setdefault("compare", {})
    if "price" not in records:
        records["price"] = price(xt.Target(engine, xt.rewards.Arithmetic(), beta=BETA))
    for first in problems[::PORTION]:
        count = min(PORTION, problems.stop - first)
        for name, (target, sampler, selects) in methods(engine, work, records["price"]).items():
            mine = done.setdefault(name, {})
            if str(first) not in mine and time.monotonic() < deadline:
                mine[str(first)] = measured(name, target, sampler, selects, first, count, work)
                save(records)


def price(target: xt.Target) -> int:
    """How many draws cost as many forwards as one run of ETS, on the first portion of problems.

    Draws of one problem that agree so far share their forwards, so the cost of n draws is less than n times that of one:
    n is found by trying.
    """
    questions = [problem.question for problem in word_problems("test", PORTION, seed=SEED)]

    def forwards(sampler: Any) -> int:
        return sum(result.usage.reference.forwards for result in all_results(xt.run(target, questions, sampler, seed=0)))

    goal, draws = forwards(xt.ETS(4, 1, STEP)), 4
    for _ in range(3):
        draws = max(2, round(draws * goal / forwards(xt.Independent(draws))))
    return draws


def grid(engine: Any, records: dict, problems: range, deadline: float) -> None:
    """ETS over the number of steps (I), candidates (M) and rollouts (K)."""
    target = xt.Target(engine, xt.rewards.Arithmetic(), beta=BETA)
    done = records.setdefault("grid", {})
    for first in problems[::PORTION]:
        for name, sampler in GRID.items():
            mine = done.setdefault(name, {})
            if str(first) not in mine and time.monotonic() < deadline:
                count = min(PORTION, problems.stop - first)
                ends = {"drawn": xt.draw, "voted": xt.vote(NUMBER)}
                mine[str(first)] = measured(name, target, sampler, ends, first, count, Work())
                save(records)


# ------------------------------------------------------------------------------------------------ throughput, memory


def throughput(engine: Any, records: dict) -> None:
    """Plain draws for 32 prompts, all in flight and one at a time: seconds, and seconds of the bare network.

    Seconds of one processor: with one thread they are those of the clock on an idle machine.
    """
    questions = [problem.question for problem in word_problems("test", 32, seed=SEED)]
    target = xt.Target(engine, xt.rewards.Arithmetic(), beta=BETA)
    found: dict[str, float] = {}
    for together in (32, 1):
        xt.run(target, questions[:2], xt.Independent(1), concurrency=2)  # warm
        began = time.process_time()
        results = all_results(xt.run(target, questions, xt.Independent(1), concurrency=together))
        found[f"seconds, {together} in flight"] = time.process_time() - began
        found["forwards"] = sum(result.usage.reference.forwards for result in results)
    from exptilt.engines.diffusion.network import View

    network = engine.backend.network
    row = (1,) * 113
    for rows in (1, 4, 32):
        began, turns = time.process_time(), 128 // rows
        for _ in range(turns):
            network.features([View(row)] * rows, list(range(rows)), [100] * rows)
        found[f"milliseconds per row, bare network, {rows} rows"] = (time.process_time() - began) / (turns * rows) * 1000
    records["throughput"] = found
    save(records)
    print(found)


def memory(records: dict) -> None:
    """Peak memory of drawing with a vocabulary of 50,000, catching hidden states or taking all logits; own processes."""
    runs = {
        "hidden states of holes caught": "thin",
        "the same with the dual cache": "dual",
        "all logits, [rows, length, vocabulary]": "whole",
        "model loaded": "none",
    }
    found = {}
    for title, kind in runs.items():
        command = [sys.executable, __file__, "peak", "--kind", kind]
        found[title] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    records["memory"] = {"vocabulary": 50_000, "rows": 32, "length": 256, "peak MiB": found}
    save(records)
    print(records["memory"])


def peak(kind: str) -> None:
    """Take two steps of 32 responses of 192 positions with a random model and print the peak of the process's memory in MiB."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from exptilt.engines.diffusion.decode import MaskedDecoder
    from exptilt.engines.diffusion.network import MaskedNetwork
    from exptilt.engines.diffusion.row import Row
    from exptilt.engines.diffusion.sampling import DiffusionSampling

    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
    model: Any = BertForMaskedLM(BertConfig(vocab_size=50_000, max_position_embeddings=257, **shape))
    network = MaskedNetwork(model.eval(), mask=3, thin=kind != "whole")
    law = DiffusionSampling(max_tokens=192, block=32, per_step=4, cache="dual" if kind == "dual" else "none")
    rows = [Row((i + 5,) * 64, law, [], [], 0, 8, xt.Key(0, i).rng()) for i in range(32)]
    decoder = MaskedDecoder(network, frozenset({2}))
    decoder.join(rows)
    while kind != "none" and decoder.rows:
        decoder.step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


# -------------------------------------------------------------------------------------------------------------- tables


def table(done: dict, draws: int = 1) -> list[str]:
    """Rows of a table over the portions that every method has done. draws: how many a method that draws has made."""
    wanted = sorted(set.intersection(*[set(portions) for portions in done.values()]), key=int)
    lines = [
        "| method | picked by | accuracy | 95 % interval | forwards | positions fed | seconds |",
        "|---|---|---:|---|---:|---:|---:|",
    ]
    count = 0
    for name, portions in done.items():
        parts = [portions[first] for first in wanted]
        for title in parts[0]["right"]:
            right = np.concatenate([part["right"][title] for part in parts])
            count = len(right)
            low, high = wilson(float(right.mean()), count)
            share = count * (draws if title == "plain" else 1)
            costs = [sum(part[cost] for part in parts) / share for cost in ("forwards", "fed", "seconds")]
            cells = (f"{right.mean():.1%}", f"{low:.1%} to {high:.1%}", f"{costs[0]:,.0f}", f"{costs[1]:,.0f}", f"{costs[2]:.2f}")
            lines.append(f"| {name} | {title} | " + " | ".join(cells) + " |")
    return [f"{count} problems; costs are per problem, seconds those of one processor.", "", *lines, ""]


def tables(records: dict) -> None:
    """Write the page of results."""
    lines = ["# Masked diffusion: measurements", "", f"Written by `reproduce/diffusion.py`. {records.get('machine', '')}", ""]
    lines += [f"tiny-mdlm, {json.dumps(records.get('law', {}))}, β = {BETA}, reward: arithmetic of the steps.", ""]
    if "compare" in records:
        lines += [
            "## Methods at equal forwards",
            "",
            f"ETS: M = 4, K = 1, {STEP} decisions per step. Rows named draws use {records['price']} responses each.",
            "",
        ]
        lines += table(records["compare"], records["price"])
    if "grid" in records:
        lines += ["## Steps, candidates and rollouts", "", *table(records["grid"])]
    if "throughput" in records:
        lines += ["## Throughput", "", *[f"- {name}: {value:,.2f}" for name, value in records["throughput"].items()], ""]
    if "memory" in records:
        lines += [
            "## Peak memory",
            "",
            f"{records['memory']['rows']} rows of {records['memory']['length']} positions, "
            f"vocabulary {records['memory']['vocabulary']:,}; MiB of the process.",
            "",
        ]
        lines += [f"- {name}: {value:,.0f}" for name, value in records["memory"]["peak MiB"].items()]
    PAGE.write_text("\n".join(lines).rstrip() + "\n")


def merge(records: dict, others: list[Path]) -> None:
    """Add the portions of other results files to these."""
    for other in others:
        found = json.loads(other.read_text())
        records |= {name: part for name, part in found.items() if name not in records}
        for part in {"compare", "grid"} & found.keys():
            for name, portions in found[part].items():
                records[part].setdefault(name, {}).update(portions)
    save(records)


def save(records: dict) -> None:
    path = Path(records["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in records.items() if name != "path"}
    path.write_text(json.dumps(kept, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("compare", "grid", "throughput", "memory", "tables", "merge", "peak")
    parser.add_argument("parts", nargs="*", choices=parts, default=parts[:-2])
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="leave out the problems before this one")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="results files for merge")
    parser.add_argument("--minutes", type=float, default=600.0, help="start no portion after this time")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where they are kept: one file for each process")
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    parser.add_argument("--machine", default=f"{platform.machine()}, 2 cores.", help="a remark on the machine for the page")
    options = parser.parse_args()
    if options.parts == ["peak"]:
        return peak(options.kind)
    records = json.loads(options.results.read_text()) if options.results.exists() else {}
    records["path"] = str(options.results)
    deadline = time.monotonic() + 60 * options.minutes
    engine: Any = xt.load("tiny-mdlm")
    records |= {"law": engine.sampling.settings(), "machine": options.machine}
    for part in options.parts:
        if part in ("compare", "grid"):
            {"compare": compare, "grid": grid}[part](engine, records, range(options.first, options.problems), deadline)
        elif part == "throughput":
            throughput(engine, records)
        elif part == "merge":
            merge(records, options.others)
        else:
            {"memory": memory, "tables": tables}[part](records)
    return None


if __name__ == "__main__":
    main()
