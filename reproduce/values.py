"""What a learned value saves: as a proposal for every token, as `value=` of a particle filter, and plain draws beside them.

    python reproduce/values.py        # about twenty minutes on one core; what is done is kept under runs/values

Two settings. Chains of 24 steps (`tiny-chain`): one line in ten is wrong, and nearly every token shows whether the response can
still be right. Word problems that less than 5 % of tiny's responses solve: whether a line is right is as hard to see as to write.
The reward is 1 for a right response, else 0. Values are fitted to draws of other problems, and the tokens that this takes are
told beside those of the answers.

For each number of draws: the share of right answers under the weights, and the error of log Ẑ, whose truth is known. A chain has
one right response, whose probability is computed; for word problems it is the share of right ones among 2,048 draws.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from exptilt.answers import number  # noqa: E402
from exptilt.evaluation.tasks.chains import ChainCheck, chains  # noqa: E402
from exptilt.evaluation.tasks.word_problems import Split, word_problems  # noqa: E402
from exptilt.keys import Key  # noqa: E402
from exptilt.train import Fit, TwistedEngine  # noqa: E402
from exptilt.train.head import load_value  # noqa: E402
from exptilt.train.value import fit_value  # noqa: E402
from reproduce.pages import put_section  # noqa: E402

RESULTS = ROOT / "reproduce" / "results" / "values.json"
BETA, NUMBERS, WANTED = 0.2, (1, 2, 4, 8, 16, 32), 0.5
FIT = Fit(epochs=4, batch=64, learning_rate=3e-3, checkpoint=1000)
Row = dict[str, list[float]]


@dataclass(frozen=True)
class Setting:
    """Problems to learn from and others to answer. chance: of each of these, that a plain response is right."""

    title: str
    model: str
    cap: int
    block: int
    draws: int
    reward: Callable[[Any, Any], Any]
    train: Sequence[str]
    test: Sequence[str]
    chance: Mapping[str, float]
    ahead: Mapping[str, str] = field(default_factory=dict)  # the one right response of each problem, where there is one

    @property
    def log_z(self) -> dict[str, float]:
        return {each: math.log1p(math.expm1(1 / BETA) * chance) for each, chance in self.chance.items()}


# -------------------------------------------------------------------------------------------------------- settings


def of_chains(folder: Path) -> Setting:
    train = [each.question for each in chains("train", 200, 1, 24)]
    test = {each.question: each.solution for each in chains("test", 40, 2, 24)}
    with xt.load("tiny-chain", max_tokens=240) as engine:
        chance = {each: math.exp(log_chance(engine, each, solution)) for each, solution in test.items()}
    return Setting("chains of 24 steps", "tiny-chain", 240, 16, 16, ChainCheck(), train, [*test], chance, test)


def log_chance(engine: Any, prompt: str, solution: str, prefix: int = 0) -> float:
    """The log-probability of a chain's solution, from a number of its tokens on."""
    text = engine.backend.text.tokenizer
    ids = (*text(solution, add_special_tokens=False).input_ids, text.eos_token_id)
    return float(np.sum(engine.score([xt.Draft(prompt, tuple(ids), None, solution, "stop")], [prefix])[0]))


def of_word_problems(folder: Path) -> Setting:
    """Problems of which 16 responses solve one at most, and 128 others some but less than 5 %; 2,048 others tell their chance.

    To learn from there are those of the other split of which 16 responses solve one at most.
    """
    answers: dict[str, str] = {}

    def solved(name: str, problems: Sequence[str], draws: int, seed: int) -> dict[str, float]:
        with xt.load("tiny", max_tokens=96) as engine:
            target, store = xt.Target(engine, xt.rewards.Zero(), 1.0), folder / f"{name}.jsonl"
            found = xt.run(target, problems, xt.Independent(draws, weights="draws"), seed=seed, store=store)
        return {
            str(result.prompt): float(np.mean([number(d.text) == answers[str(result.prompt)] for d in result.population.drafts]))
            for result in found.answered
        }

    def hard(split: Split, count: int) -> list[str]:
        problems = {each.question: each.answer for each in word_problems(split, count, seed=77)}
        answers.update(problems)
        return [each for each, share in solved(f"{split}, 16", [*problems], 16, seed=0).items() if share < 0.1]

    train, candidates = hard("train", 1000), hard("test", 1500)
    test = [each for each, share in solved("test, 128", candidates, 128, seed=1).items() if 0 < share < 0.05]
    chance = solved("test, 2048", test, 2048, seed=2)

    def right(prompt: Any, drafts: Sequence[xt.Draft]) -> list[float]:
        return [float(number(draft.text) == answers[str(prompt)]) for draft in drafts]

    title = "word problems that under 5 % of responses solve"
    return Setting(title, "tiny", 96, 16, 64, right, train, [*chance], chance)


# --------------------------------------------------------------------------------------------------------- methods


def fitted(setting: Setting, folder: Path) -> tuple[Path, dict[str, int]]:
    """The folder of a value fitted to draws of the training problems, and the tokens that this took."""
    store = folder / "drawn.jsonl"
    with xt.load(setting.model, max_tokens=setting.cap) as engine:
        target = xt.Target(engine, setting.reward, BETA)
        drawn = xt.run(target, setting.train, xt.Independent(setting.draws), store=store)
    made = fit_value(setting.model, [store], folder / "value", fit=FIT)
    return folder / "value", {"drawn": drawn.usage.tokens, "read": made.tokens}


def measured(target: xt.Target, setting: Setting, sampler: Any) -> Row:
    """Of each problem: the share of right answers, log Ẑ less its truth, and the tokens, scored ones included."""
    row: Row = {"right": [], "error": [], "tokens": []}
    for outcome in xt.run(target, setting.test, sampler, seed=3):
        truth = setting.log_z[str(outcome.prompt)]
        held = isinstance(outcome, xt.Result)
        row["right"].append(outcome.population.mean_reward if held else 0.0)
        row["error"].append((outcome.population.log_z or 0.0) - truth if held else -truth)
        row["tokens"].append(outcome.usage.tokens if outcome.usage else 0)
    return row


def methods(engine: Any, setting: Setting, value: Any) -> dict[str, Callable[[int], tuple[xt.Target, Any]]]:
    plain = xt.Target(engine, setting.reward, BETA)
    twisted = TwistedEngine(engine, value, defence=0.05)
    ahead = xt.Target(engine, setting.reward, BETA, proposal=twisted)
    return {
        "plain draws": lambda n: (plain, xt.Independent(n)),
        "particle filter, rollouts": lambda n: (plain, xt.SMC(n, block=setting.block)),
        "particle filter, value=": lambda n: (plain, xt.SMC(n, block=setting.block, value=value.of(engine))),
        "twisted proposal": lambda n: (ahead, xt.Independent(n)),
        "twisted, filtered by value=": lambda n: (ahead, xt.SMC(n, block=setting.block, value=value.of(engine))),
    }


def value_error(engine: Any, setting: Setting, value: Any) -> float:
    """The root mean square of log V's error in nats, where a constant of each problem is free, halfway through responses."""
    found = []
    guess, target = value.of(engine), xt.Target(engine, setting.reward, BETA)
    for number_of, prompt in enumerate(setting.test):
        key = Key(9, number_of)
        start = engine.start(prompt)
        half = engine.extend([start] * 8, [key.child(i) for i in range(8)], setting.cap // 5)
        half = [draft for draft in half if draft.finish is None]
        truth = [log_value(engine, target, setting, draft, key.child("ahead", place)) for place, draft in enumerate(half)]
        if len(half) > 1:
            off = np.asarray(guess(prompt, half)) / BETA - np.array(truth)
            found += (off - off.mean()).tolist()
    return float(np.sqrt(np.mean(np.square(found))))


def log_value(engine: Any, target: xt.Target, setting: Setting, draft: Any, key: Any) -> float:
    """log E[exp(r/β) | draft]: exactly for a chain, by 64 rollouts else."""
    if setting.ahead:
        solution = setting.ahead[str(draft.prompt)]
        if not solution.startswith(draft.text):
            return 0.0
        chance = math.exp(log_chance(engine, draft.prompt, solution, len(draft.tokens)))
        return math.log1p(math.expm1(1 / BETA) * chance)
    whole = engine.extend([draft] * 64, [key.child(i) for i in range(64)])
    return float(np.log(np.mean(np.exp(np.array(target.rate(draft.prompt, whole)) / BETA))))


# ----------------------------------------------------------------------------------------------------------- table


def measure(setting: Setting, folder: Path) -> dict[str, Any]:
    place, training = fitted(setting, folder)
    value, rows = load_value(place), {}
    with xt.load(setting.model, max_tokens=setting.cap) as engine:
        for name, made in methods(engine, setting, value).items():
            for n in NUMBERS:
                kept = folder / f"{name}, {n}.json"
                if not kept.exists():
                    target, sampler = made(n)
                    kept.write_text(json.dumps(measured(target, setting, sampler)))
                    print(setting.title, name, n, *told(json.loads(kept.read_text())), flush=True)
                rows.setdefault(name, {})[n] = json.loads(kept.read_text())
        off = value_error(engine, setting, value)
    return {"title": setting.title, "problems": len(setting.test), "training": training, "log V": off, "rows": rows,
            "chance": float(np.mean([*setting.chance.values()]))}  # fmt: skip


def told(row: Row, chosen: np.ndarray | None = None) -> tuple[float, float, float]:
    """The share of right answers, the root mean square error of log Ẑ and the tokens of an answer, over the chosen problems."""
    right, error, tokens = (np.array(row[key])[slice(None) if chosen is None else chosen] for key in ("right", "error", "tokens"))
    return float(right.mean()), float(np.sqrt(np.mean(error**2))), float(tokens.mean())


def needed(rows: Mapping[int, Row], which: int, wanted: float, chosen: np.ndarray | None = None) -> float:
    """Tokens of an answer at which a quantity comes to what is wanted, between two numbers of draws.

    Those of the first where that is enough; infinite beyond the last.
    """
    points = [(math.log(each[2]), each[which]) for each in (told(row, chosen) for row in rows.values())]
    if (points[0][1] >= wanted) == (which == 0):
        return math.exp(points[0][0])
    for (x, y), (u, v) in pairwise(points):
        if min(y, v) <= wanted <= max(y, v):
            return math.exp(x + (u - x) * (wanted - y) / (v - y) if v != y else x)
    return math.inf


def needed_told(rows: Mapping[int, Row], which: int, wanted: float) -> str:
    """With a 95 % interval, by drawing the problems again."""
    problems = len(next(iter(rows.values()))["right"])
    rng = np.random.default_rng(0)
    again = [needed(rows, which, wanted, rng.choice(problems, problems)) for _ in range(500)]
    low, high = np.quantile(again, [0.025, 0.975], method="nearest")
    found = needed(rows, which, wanted)
    shown = [f"{each:,.0f}" if math.isfinite(each) else "beyond 32 draws" for each in (found, low, high)]
    return shown[0] if math.isinf(found) else f"{shown[0]} ({shown[1]} to {shown[2]})"


def pays(found: Mapping[str, Any], plain: float, tokens: float) -> str:
    """After how many answers the tokens saved are more than those that were spent on fitting."""
    paid = found["training"]["drawn"] + found["training"]["read"]
    if math.isinf(plain):
        return "at once, where plain draws do not get there" if math.isfinite(tokens) else ""
    return f"{paid / (plain - tokens):,.0f} answers" if tokens < plain else "never"


def section(found: Sequence[Mapping[str, Any]]) -> str:
    text = [
        "`reproduce/values.py`: tokens of one answer, those that are scored included, to a share of right answers of one half "
        f"under the weights, and to an error of log Ẑ of {WANTED} nats (root mean square over problems), between 1 and 32 draws; "
        f"both at 16 draws; and after how many answers to one half right the fitting has paid for itself. β = {BETA}; in "
        "brackets 95 % intervals over problems.",
    ]
    for each in found:
        paid = f"{each['training']['drawn'] / 1e6:.2f} million tokens drawn and {each['training']['read'] / 1e6:.2f} million read"
        text += [
            "",
            f"**{each['title'][0].upper()}{each['title'][1:]}** ({each['problems']} of them; {each['chance']:.1%} of plain "
            f"responses are right). Fitting took {paid}; the error of log V halfway is {each['log V']:.2f} nats.",
            "",
            "| method | tokens to one half right | tokens to the error | right at 16 | error at 16 | pays after |",
            "|---|---|---|---|---|---|",
        ]
        tables = {name: {int(n): row for n, row in rows.items()} for name, rows in each["rows"].items()}
        plain = needed(tables["plain draws"], 0, 0.5)
        for name, rows in tables.items():
            right, error, _ = told(rows[16])
            learned = name.startswith("twisted") or "value=" in name
            cells = [needed_told(rows, which, wanted) for which, wanted in ((0, 0.5), (1, WANTED))]
            cells += [f"{right:.0%}", f"{error:.2f}", pays(each, plain, needed(rows, 0, 0.5)) if learned else ""]
            text.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "values", help="where what is done is kept")
    args = parser.parse_args()
    found = []
    for name, made in {"chains": of_chains, "word problems": of_word_problems}.items():
        (args.folder / name).mkdir(parents=True, exist_ok=True)
        found.append(measure(made(args.folder / name), args.folder / name))
    RESULTS.write_text(json.dumps(found) + "\n")
    put_section(ROOT / "docs" / "train.md", "What values save", section(found))


if __name__ == "__main__":
    main()
