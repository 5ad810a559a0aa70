"""Fewer tokens for the same answer: stop rules, distinct weights and early abort against best-of-n and votes, on the tiny model.

    python reproduce/fewer_tokens.py             # about 20 minutes on 1 core; writes docs/fewer_tokens.md and fewer_tokens.png
    python reproduce/fewer_tokens.py --tables    # only the page and the figure, from the results so far

Three seeds of 300 held-out word problems each, temperature 1, a cap of 96 tokens; no setting was chosen on these problems and
seeds. 128 draws of each problem are made once and kept (`reproduce/pool.py`), and whatever chooses among independent draws is
run on them, so that all comparisons are paired by problem. What draws in blocks (`Rejection` with early abort) runs on the model.

Tokens are those generated. Every method sees the first 64 draws at most. A vote's limit is the answer that infinitely many draws
would choose: it is proved by all 128 draws for most problems, and elsewhere taken from the distinct weights of the last 64.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from bench.record import machine  # noqa: E402
from exptilt.core import Engine  # noqa: E402
from exptilt.draft import Draft, prompt_digest  # noqa: E402
from exptilt.errors import AllWeightsZero  # noqa: E402
from exptilt.evaluation.evaluate import all_results  # noqa: E402
from exptilt.evaluation.tasks import Task, load_task  # noqa: E402
from exptilt.populations.certificate import certified  # noqa: E402
from exptilt.populations.distinct import log_found  # noqa: E402
from exptilt.running.session import Session  # noqa: E402
from exptilt.usage import Work  # noqa: E402
from reproduce import published_rules as published  # noqa: E402
from reproduce.pool import Pool, Replay, answered, drawn, response, rewarded  # noqa: E402

RESULTS = ROOT / "reproduce" / "results" / "fewer_tokens.json"
POOL = ROOT / "reproduce" / "results" / "fewer_tokens.npz"
SEEDS = (1409, 1423, 1427)
DRAWS, SHOWN = 128, 64  # kept for each problem; seen by any method
SIZES = (1, 2, 4, 8, 16, 32, 64)
LEVELS = (0.8, 0.9, 0.95, 0.99)
CHECKED = xt.rewards.Arithmetic(most_steps=8)
STRICT = 0.01  # β of the checker: a draft with one wrong step of eight is accepted once in 270,000


@dataclass(frozen=True)
class Plan:
    """One method that chooses among independent draws. reward: "none", "right" or "checked"."""

    group: str
    name: str
    sampler: xt.Independent
    select: Any
    reward: str = "none"
    until: Any = None


@dataclass(frozen=True)
class Found:
    """What a method did. right: "1" or "0" for each problem. tokens: generated for a problem in the mean, and its standard error.

    stopped: on how many problems its rule stopped it before the limit. errors: how many of those ended with another answer than
    the vote's limit has.
    """

    group: str
    right: str
    tokens: float
    tokens_error: float
    stopped: int = 0
    errors: int = 0

    @property
    def shares(self) -> np.ndarray[Any, Any]:
        return np.array([float(digit) for digit in self.right])


# ------------------------------------------------------------------------------------------------------------ methods


VOTES = (xt.vote(answered, weighted=False), xt.vote(answered), xt.vote(answered, distinct=False))
"""The plain majority, the vote that counts each response once, and the one that counts weighted draws."""


def plans() -> Iterator[Plan]:
    """All methods on the kept draws, those of a figure's line one after the other."""
    plain, majority, once, weighted = xt.Independent, *VOTES
    for size in SIZES[:-1]:
        yield Plan("true verifier", f"best-of-{size}", plain(size), xt.best, "right")
    for limit in SIZES[:-1]:
        rule = xt.until.reward(1.0)
        yield Plan("true verifier", f"first success of {limit}", plain(limit, batch=1), xt.best, "right", rule)
    for batch in (2, 4):
        name = f"first success of 32, batches of {batch}"
        yield Plan("true verifier", name, plain(32, batch=batch), xt.best, "right", xt.until.reward(1.0))
    for size in SIZES[:-1]:
        yield Plan("checker", f"best-of-{size}", plain(size), xt.best, "checked")
    for limit in SIZES[:-1]:
        yield Plan("checker", f"first success of {limit}", plain(limit, batch=1), xt.best, "checked", xt.until.reward(1.0))
    for size in SIZES:
        yield Plan("vote", f"majority of {size}", plain(size), majority)
    for size in SIZES:
        yield Plan("vote", f"distinct, {size} draws", plain(size), once)
    for size in (4, 8, 32):
        yield Plan("checker vote", f"vote of {size}", plain(size), weighted, "checked")
    for size in (4, 8, 32):
        yield Plan("checker vote", f"distinct, {size} draws", plain(size), once, "checked")
    yield from stopped_votes()


def stopped_votes() -> Iterator[Plan]:
    """Votes that a rule ends; all are asked after every draw, and draw 64 at the most."""
    (vote, once, _), draws = VOTES, xt.Independent(SHOWN, batch=1)
    for limit in SIZES[2:]:
        few, rule = xt.Independent(limit, batch=1), xt.until.certain(answered)
        yield Plan("stopped vote", f"certain, {limit} at most", few, once, until=rule)
    for level in LEVELS:
        yield Plan("stopped vote", f"sure {level:g}", draws, vote, until=xt.until.sure(answered, level))
    yield Plan("stopped vote", "Beta rule 0.95", draws, vote, until=published.beta(answered, 0.95))
    for level in LEVELS:
        yield Plan("stopped vote", f"Dirichlet rule {level:g}", draws, vote, until=published.dirichlet(answered, level))
    for size in (4, 5):
        yield Plan("stopped vote", f"window of {size}", draws, vote, until=published.window(answered, size))


def replayed(pool: Pool, plan: Plan, limits: list[str]) -> Found:
    """A method's run on the kept draws. limits: the answer of each problem's vote of infinitely many draws."""
    values = {"right": pool.right, "checked": pool.checked}
    reward = xt.rewards.Zero() if plan.reward == "none" else rewarded(pool, values[plan.reward])
    target = xt.Target(Replay(pool, Work()), reward, beta=0.1)
    prompts = [str(number) for number in range(pool.problems)]
    outcomes = xt.run(target, prompts, plan.sampler, select=plan.select, until=plan.until, concurrency=1)
    results = all_results(outcomes)
    right = [pool.right[response(pool, result.draft)] for result in results]
    ended = [(result, limit) for result, limit in zip(results, limits, strict=True) if result.stopped == "until"]
    wrong = sum(result.draft.text != limit for result, limit in ended)
    return found(plan.group, right, [result.usage.tokens for result in results], len(ended), wrong)


def allocated(pool: Pool, limits: Sequence[str], draws: int) -> tuple[Found, Found]:
    """A vote at the tokens of so many draws for each problem: with equal shares, and shared out by the run in parts of four.

    errors: how many answers differ from the limit's.
    """
    prompts, target = [str(number) for number in range(pool.problems)], xt.Target(Replay(pool, Work(), 4), xt.rewards.Zero(), 1.0)
    equal = all_results(xt.run(target, prompts, xt.Independent(draws), select=xt.vote(answered), concurrency=1))
    budget = xt.Budget(total_tokens=sum(result.usage.tokens for result in equal))
    shared = all_results(
        xt.run(target, prompts, xt.Independent(4), select=xt.vote(answered), budget=budget, allocate="accuracy", concurrency=1)
    )
    both = []
    for results in (equal, shared):
        right = [pool.right[response(pool, result.draft)] for result in results]
        wrong = sum(result.text != limit for result, limit in zip(results, limits, strict=True))
        both.append(found("sharing out", right, [result.usage.tokens for result in results], len(results), wrong))
    return both[0], both[1]


def log_z_errors(pool: Pool, draws: int) -> dict[str, float]:
    """The root mean squared error of log Ẑ under the checker, in nats, with equal shares and shared out, at about equal tokens.

    It is measured against the distinct weights of all draws.
    """
    prompts = [str(number) for number in range(pool.problems)]
    target = xt.Target(Replay(pool, Work(), 4), rewarded(pool, pool.checked), beta=0.25)
    given: dict[str, Any] = {"select": xt.best, "concurrency": 1}
    exact = all_results(xt.run(target, prompts, xt.Independent(pool.draws, weights="distinct"), **given))
    equal = all_results(xt.run(target, prompts, xt.Independent(draws), **given))
    budget = xt.Budget(total_tokens=sum(result.usage.tokens for result in equal))
    shared = all_results(xt.run(target, prompts, xt.Independent(4), budget=budget, allocate="log_z", **given))
    errors = {}
    for name, results in (("equal", equal), ("shared", shared)):
        off = [(one.log_z or 0.0) - (other.log_z or 0.0) for one, other in zip(results, exact, strict=True)]
        errors[name] = float(np.sqrt(np.mean(np.square(off))))
        errors[f"{name}, tokens"] = float(np.mean([result.usage.tokens for result in results]))
    return errors


def found(group: str, right: Any, tokens: Any, stopped: int = 0, errors: int = 0) -> Found:
    costs = np.asarray(tokens, dtype=np.float64)
    digits = "".join("1" if each else "0" for each in right)
    return Found(group, digits, float(costs.mean()), float(costs.std() / np.sqrt(len(costs))), stopped, errors)


def vote_limits(pool: Pool) -> tuple[list[str], list[bool]]:
    """For each problem the answer that a vote of infinitely many draws chooses, and whether that is proved."""
    engine, limits, proved = Replay(pool, Work()), [], []
    for number in range(pool.problems):
        seen = [engine.start(str(number))] * pool.draws
        drafts = engine.extend(seen, [xt.Key(0, draw) for draw in range(pool.draws)])
        whole = xt.Population.unweighted(drafts, np.zeros(len(drafts)))
        sure = certified(whole, answered, beta=1.0, reward_max=0.0)
        limits.append(sure or _heaviest(drafts[SHOWN:]))
        proved.append(sure is not None)
    return limits, proved


def _heaviest(drafts: list[Draft]) -> str:
    """The answer with the most distinct weight."""
    different = list(dict.fromkeys(drafts))
    log_q = np.array([(draft.logq or (0.0,))[0] for draft in different])
    shares: dict[str, float] = {}
    for draft, weight in zip(different, np.exp(log_q - log_found(log_q, len(drafts))), strict=True):
        if draft.text:
            shares[draft.text] = shares.get(draft.text, 0.0) + float(weight)
    return max(shares, key=lambda name: shares[name])


# ------------------------------------------------------------------------------------------------ early abort


ABORTED = ("checker: rejection of 128, early abort", xt.Rejection(1, 128, 1.0, block=2))
"""The first draft that the checker accepts, of 128 at the most, each given up as soon as a line of it is wrong."""


def rejected(engine: Engine, tasks: Sequence[Task], sampler: xt.Rejection) -> Found:
    """The first draft that the checker accepts, drawn on the model; a problem without one counts as wrong, at its full cost."""
    target = xt.Target(engine, CHECKED, STRICT)

    def one(seed: int, task: Task, number: int) -> tuple[bool, int]:
        prompt = task.texts[number]
        key = xt.Key(seed, prompt_digest(prompt), 0)
        session = Session(target, prompt, key)
        try:
            text = session.run(sampler, key.child("sampler")).drafts[0].text
        except AllWeightsZero:
            return False, session.usage.tokens
        return task.correct(text, task.references[number]), session.usage.tokens

    asked = [(seed, task, number) for seed, task in zip(SEEDS, tasks, strict=False) for number in range(len(task))]
    with ThreadPoolExecutor(128) as threads:
        right, tokens = zip(*threads.map(lambda parts: one(*parts), asked), strict=True)
    return found("checker", right, tokens)


# ------------------------------------------------------------------------------------------------------------ results


class Results:
    """What was found, in a file that a stopped run goes on from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.about: dict[str, Any] = {}
        self.methods: dict[str, Found] = {}
        if path.exists():
            read = json.loads(path.read_text())
            self.about = read["about"]
            self.methods = {name: Found(**values) for name, values in read["methods"].items()}

    def add(self, name: str, method: Found) -> None:
        self.methods[name] = method
        self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        methods = {name: asdict(method) for name, method in self.methods.items()}
        self.path.write_text(json.dumps({"about": self.about, "methods": methods}, indent=1) + "\n")


def kept(engine: Engine, tasks: Sequence[Task], draws: int, path: Path) -> Pool:
    """The draws of all problems, made where the file does not hold them; each seed is kept as soon as it is drawn."""
    if path.exists():
        return Pool.load(path)
    parts = []
    for seed, task in zip(SEEDS, tasks, strict=False):
        part = path.with_suffix(f".{seed}.npz")
        if not part.exists():
            references = dict(zip(task.texts, task.references, strict=True))
            drawn(engine, task, draws, seed, references, xt.rewards.Arithmetic(), concurrency=16).save(part)
        parts.append(part)
    Pool.joined([Pool.load(part) for part in parts]).save(path)
    for part in parts:
        part.unlink()
    return Pool.load(path)


def measure(results: Results, engine: Engine, tasks: Sequence[Task], pool: Pool) -> None:
    """Run what is not there yet."""
    began = time.monotonic()
    limits, proved = vote_limits(pool)
    same = [limit == str(reference) for limit, reference in zip(limits, references(tasks), strict=True)]
    unlike = pool.draws * pool.problems / len(pool.log_q)
    results.about |= {
        "machine": machine(), "problems": pool.problems, "draws": pool.draws, "proved": sum(proved), "limit right": sum(same),
        "draws of a response": unlike, "tokens of a draw": float(pool.of_draws(pool.tokens).mean()),
    }  # fmt: skip
    results.save()
    for plan in plans():
        name = f"{plan.group}: {plan.name}"
        if name not in results.methods:
            results.add(name, replayed(pool, plan, limits))
            print(f"{time.monotonic() - began:.0f} s: {name}", file=sys.stderr, flush=True)
    for draws in (4, 8, 16):
        if f"sharing out: equal shares, {draws} draws" not in results.methods:
            equal, shared = allocated(pool, limits, draws)
            results.add(f"sharing out: equal shares, {draws} draws", equal)
            results.add(f"sharing out: shared out, tokens of {draws} draws", shared)
    if "log_z" not in results.about:
        results.about["log_z"] = {str(draws): log_z_errors(pool, draws) for draws in (16, 32)}
        results.save()
    name, sampler = ABORTED
    if name not in results.methods:
        results.add(name, rejected(engine, tasks, sampler))
        print(f"{time.monotonic() - began:.0f} s: {name}", file=sys.stderr, flush=True)
    results.about["rare"] = rare(results, pool, 8)
    results.save()


def rare(results: Results, pool: Pool, draws: int) -> dict[str, Any]:
    """What distinct weights do on problems whose first draws all have a probability below 0.2, so that few repeat."""
    rows = np.exp(pool.of_draws(pool.log_q)[:, :draws]).max(axis=1) < 0.2
    once, every = (results.methods[f"vote: {name}"].shares[rows] for name in (f"distinct, {draws} draws", f"majority of {draws}"))
    return {"draws": draws, "problems": int(rows.sum()), "distinct": float(once.mean()), "majority": float(every.mean())}


def references(tasks: Sequence[Task]) -> list[str]:
    return [reference for task in tasks for reference in task.references]


def check(engine: Engine, task: Task, seed: int, pool: Pool) -> None:
    """Assert that replayed draws are the model's: first successes of the first problems, run on the model."""
    truth = dict(zip(task.texts, task.references, strict=True))
    target = xt.Target(
        engine, lambda prompt, drafts: [float(task.correct(each.text, truth[prompt])) for each in drafts], beta=0.1
    )
    sampler, rule = xt.Independent(8, batch=2), xt.until.reward(1.0)
    run = all_results(xt.run(target, task.prompts[:20], sampler, select=xt.best, until=rule, seed=seed))
    again = xt.Target(Replay(pool, Work()), rewarded(pool, pool.right), beta=0.1)
    kept_run = all_results(xt.run(again, [str(number) for number in range(20)], sampler, select=xt.best, until=rule))
    assert [result.usage.tokens for result in run] == [result.usage.tokens for result in kept_run]
    assert [task.answer(result.text) or "" for result in run] == [result.text for result in kept_run]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=300, help="for each seed")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--tables", action="store_true", help="only write the page and the figure from the results so far")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--pool", type=Path, default=POOL)
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    results = Results(options.results)
    if not options.tables:
        engine = xt.load("tiny", max_tokens=96, max_rows=512)
        tasks = [load_task("word-problems", problems=options.problems, seed=seed) for seed in SEEDS]
        pool = kept(engine, tasks, options.draws, options.pool)
        check(engine, tasks[0], SEEDS[0], pool)
        measure(results, engine, tasks, pool)
    from reproduce import fewer_tokens_page

    fewer_tokens_page.write(results, options.out)


if __name__ == "__main__":
    main()
