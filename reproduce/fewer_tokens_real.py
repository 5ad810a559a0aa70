"""Fewer tokens for the same answer on a real small model: Qwen2.5-Coder-0.5B-Instruct, quantised, in llama.cpp.

    python reproduce/fewer_tokens_real.py MODEL.gguf    # 60 problems of each task: about an hour on 2 cores
    python reproduce/fewer_tokens_real.py --tables      # write docs/fewer_tokens_real.md from the draws so far

Needs exptilt[llamacpp,gym,eval]. The tasks are those of `reproduce/real_small.py` at temperature 0.7: GSM-Symbolic answered by
programs, and HumanEval completed. 32 draws of each problem are made once; every finished problem is kept under runs/, so a run
that was stopped goes on where it was. Whatever chooses among independent draws is then run on them by `reproduce/pool.py`, so
that all comparisons are paired by problem. No setting was chosen on these draws.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from bench.record import machine  # noqa: E402
from exptilt.draft import Draft  # noqa: E402
from exptilt.evaluation.evaluate import all_results  # noqa: E402
from exptilt.evaluation.tasks import Task, load_task  # noqa: E402
from reproduce import published_rules as published  # noqa: E402
from reproduce.fewer_tokens import VOTES, Found, Plan, replayed  # noqa: E402
from reproduce.methods import nothing, told  # noqa: E402
from reproduce.pool import Pool, answered, pooled  # noqa: E402
from reproduce.real_small import TEMPERATURE, examples, gsm_programs, whole  # noqa: E402

POOLS = ROOT / "reproduce" / "results" / "fewer_tokens_real"
PAGE = ROOT / "docs" / "fewer_tokens_real.md"
RUNS = ROOT / "runs" / "fewer_tokens_real"
DRAWS, SEED = 32, 20
SIZES = (1, 2, 4, 8, 16, 32)
RESAMPLES = 10_000
_EXAMPLES = xt.rewards.UnitTests(examples, extract=whole, continues=True)


@dataclass(frozen=True)
class Bench:
    """A task, what its vote counts, and the reward that a user would have, if there is one."""

    title: str
    task: Task
    checker: Any = None


def benches(problems: int) -> list[Bench]:
    coded = load_task("humaneval-completion", problems=problems)
    return [
        Bench("GSM-Symbolic, answered by programs", gsm_programs(problems)),
        Bench("HumanEval, completed", replace(coded, answer=_named, max_tokens=192), _passed),
    ]


def _passed(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    """The share of the docstring's examples that each program passes; 0 where there are none, so that nothing is known."""
    return list(_EXAMPLES(prompt, drafts)) if examples(prompt) else [0.0] * len(drafts)


def _named(text: str) -> str:
    """A program's name in a vote: equal texts are one answer."""
    return hashlib.blake2b(text.strip().encode(), digest_size=8).hexdigest()


def plans(bench: Bench) -> Iterator[Plan]:
    plain, once, _ = VOTES
    for reward in ("right", *(["checked"] if bench.checker else [])):
        group = "the right answers" if reward == "right" else "the examples"
        for size in SIZES:
            yield Plan(group, f"best-of-{size}", xt.Independent(size), xt.best, reward)
        for size in SIZES[1:]:
            yield Plan(group, f"first success of {size}", xt.Independent(size, batch=1), xt.best, reward, xt.until.reward(1.0))
    for size in SIZES[1:]:
        yield Plan("vote", f"majority of {size}", xt.Independent(size), plain)
        yield Plan("vote", f"distinct, {size} draws", xt.Independent(size), once)
    most = xt.Independent(DRAWS, batch=1)
    yield Plan("stopped vote", f"certain, {DRAWS} at most", most, once, until=xt.until.certain(answered))
    for level in (0.9, 0.95):
        yield Plan("stopped vote", f"sure {level:g}", most, plain, until=xt.until.sure(answered, level))
    yield Plan("stopped vote", "Beta rule 0.95", most, plain, until=published.beta(answered, 0.95))
    yield Plan("stopped vote", "Dirichlet rule 0.95", most, plain, until=published.dirichlet(answered, 0.95))


# -------------------------------------------------------------------------------------------------------------- draws


def draw(model: Path, benches: Sequence[Bench]) -> None:
    """Make the draws that are not there yet."""
    engine = xt.load(f"llamacpp:{model}", temperature=TEMPERATURE, template=False, dtype="float16", memory=2**29, max_rows=64)
    for bench in benches:
        task = bench.task
        ready = engine.with_sampling(max_tokens=task.max_tokens, stop=task.stop)
        path = RUNS / f"{task.name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        target = xt.Target(ready, xt.rewards.Zero(), beta=1.0)
        progress = told(task.name)
        outcomes = xt.run(target, task.prompts, xt.Independent(DRAWS), seed=SEED, store=path, concurrency=4, progress=progress)
        right = dict(zip(task.texts, task.references, strict=True))
        pool = pooled(all_results(outcomes), task, right, bench.checker or nothing)
        pool.save(POOLS / f"{task.name}.npz")


# --------------------------------------------------------------------------------------------------------------- page

_PAGE = """\
# Fewer tokens on a real small model

This page is written by `reproduce/fewer_tokens_real.py`: Qwen2.5-Coder-0.5B-Instruct in 4 bits (Q4_K_M) in llama.cpp,
temperature 0.7, {draws} draws of each problem, one seed; {machine}. All methods choose among the same
draws, so differences are paired by problem; intervals are 95 % (bootstrap over problems). Tokens are those generated for a
problem; the last column compares them with those of all {draws} draws. What the methods are: [docs/stopping.md](stopping.md);
the same on 900 problems of a model made for it: [docs/fewer_tokens.md](fewer_tokens.md).
"""


def page(benches: Sequence[Bench]) -> str:
    lines = [_PAGE.format(draws=DRAWS, machine=machine())]
    for bench in benches:
        path = POOLS / f"{bench.task.name}.npz"
        if not path.exists():
            continue
        pool = Pool.load(path)
        limits = [_heaviest(pool, number) for number in range(pool.problems)]
        found = {f"{plan.group}: {plan.name}": replayed(pool, plan, limits) for plan in plans(bench)}
        unlike = len(pool.log_q) / (pool.draws * pool.problems)
        told = sum(bool(examples(prompt)) for prompt in bench.task.texts)
        known = f" {told} of the problems have examples in their docstrings." if bench.checker else ""
        lines += [
            f"## {bench.title}: {pool.problems} problems",
            "",
            f"{unlike:.0%} of the draws are texts that no earlier draw of their problem had.{known}",
            "",
            *_table(found),
            "",
        ]
    return "\n".join(lines)


def _heaviest(pool: Pool, number: int) -> str:
    """The answer that most of a problem's draws give, "" left out where another is there."""
    answers = pool.answers[pool.first[number] + pool.rows[number]]
    names, counts = np.unique(answers[answers != ""] if np.any(answers != "") else answers, return_counts=True)
    return str(names[np.argmax(counts)])


def _table(found: dict[str, Found]) -> list[str]:
    rng = np.random.default_rng(0)
    whole_cost = found[f"the right answers: best-of-{DRAWS}"].tokens
    lines = [
        f"| what is known | method | accuracy | against the same with {DRAWS} draws | tokens | of {DRAWS} draws' |",
        "|---|---|---|---|---|---|",
    ]
    for name, method in found.items():
        group, _, way = name.partition(": ")
        base = found[f"vote: majority of {DRAWS}" if "vote" in group else f"{group}: best-of-{DRAWS}"]
        gain = method.shares - base.shares
        means = gain[rng.integers(0, len(gain), (RESAMPLES, len(gain)))].mean(axis=1)
        low, high = np.quantile(means, (0.025, 0.975))
        against = "" if method is base else f"{100 * gain.mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        share = method.tokens / whole_cost
        cost = f"{method.tokens:.0f} ± {method.tokens_error:.0f}"
        lines.append(f"| {group} | {way} | {100 * method.shares.mean():.1f} % | {against} | {cost} | {share:.0%} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="a GGUF file")
    parser.add_argument("--problems", type=int, default=60, help="of each task")
    parser.add_argument("--tables", action="store_true", help="only write the page from the draws so far")
    options = parser.parse_args()
    if options.model is None and not options.tables:
        parser.error("give the GGUF file of the model, or --tables")
    found = benches(options.problems)
    if options.model is not None:
        draw(options.model, found)
    PAGE.write_text(page(found))


if __name__ == "__main__":
    main()
