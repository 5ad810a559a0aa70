"""An imperfect reward model: what more tokens do to best-of-n, votes, minimum Bayes risk, QAlign and ETS.

    python reproduce/learned_reward.py     # half an hour on one core; what is done is kept under runs/learned_reward

QAlign's claim (Faria and Smith, 2504.03790, sections 1 and 5): as tokens grow, best-of-n over-optimises a learned reward and gets
worse, majority votes settle, and a chain on π at a fixed β does neither. The reward here is a Bradley-Terry model of few pairs of
`tiny-small`'s own responses (`exptilt train reward`), so it knows little; right answers are known. β is chosen from a pilot so
that a chain accepts half of its moves (`usual_beta`). TRL's DPO learns from the same pairs, and its draws vote. All of it is
done with three reward models of other pairs: what a chain gains depends on the model more than on the problems.

Best-of-n and votes are computed from a pool of draws of each problem: best-of-n exactly, by the chance that each draw is the best
of n, the others by 40 subsets. Two panels of the figure are the appendices' theory on the same pool: the mean reward of best-of-n
beside the limit by a fit of two Gaussians (A), and E_π[r] and KL(π‖p) predicted from a pilot of 64 beside the pool's (E).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from exptilt.answers import number  # noqa: E402
from exptilt.evaluation.tasks.word_problems import word_problems  # noqa: E402
from exptilt.populations.calibrate import dominant, tilt_kl, tilted  # noqa: E402
from exptilt.populations.diagnostics import log_shares  # noqa: E402
from exptilt.populations.utilities import rouge1  # noqa: E402
from exptilt.train import Fit  # noqa: E402
from exptilt.train.lessons import read_source  # noqa: E402
from exptilt.train.reward import fit_reward, make_pairs  # noqa: E402
from reproduce.frontier_trained import asked, preferring, said  # noqa: E402
from reproduce.methods import usual_beta  # noqa: E402
from reproduce.pages import put_section  # noqa: E402

RESULTS = ROOT / "reproduce" / "results" / "learned_reward.json"
MODEL, CAP = "tiny-small", 96
TEST = word_problems("test", 100, seed=15)
TRAIN = {each.question: each.answer for each in word_problems("train", 400, seed=16)}
POOL, NUMBERS, SUBSETS = 512, (1, 2, 4, 8, 16, 32, 64, 128, 256, 512), 40
FIT, SEEDS = Fit(epochs=2, batch=16, learning_rate=3e-4), (0, 1, 2)
Points = list[tuple[float, list[float]]]
"""Tokens of an answer, and of each problem the chance of the right one."""


def training_draws(folder: Path) -> Path:
    """Responses to the training problems, rated by whether they are right."""

    def right(prompt: Any, drafts: Sequence[xt.Draft]) -> list[float]:
        return [float(number(draft.text) == TRAIN[str(prompt)]) for draft in drafts]

    store = folder / "drawn.jsonl"
    with xt.load(MODEL, max_tokens=CAP) as engine:
        xt.run(xt.Target(engine, right, 1.0), [*TRAIN], xt.Independent(16), store=store)
    return store


def preferred(store: Path, folder: Path, fit: Fit) -> str:
    """The model that DPO makes of the reward model's own pairs, at the β that TRL takes by default."""
    pairs = [
        {"prompt": asked(str(pair.prompt)), "chosen": said(pair.better), "rejected": said(pair.worse)}
        for each in read_source([store]).drawn
        for pair in make_pairs(each, 1, None, fit.seed)
    ]
    place, _ = preferring(MODEL, pairs, folder / "DPO", beta=0.1, batch=fit.batch, epochs=fit.epochs)
    return f"hf:{place}"


def pool(folder: Path, reward: Any, name: str = "pool", model: Callable[[], str] = lambda: MODEL) -> dict[str, Any]:
    """Draws of every test problem: reward, answer and text of each, and the mean of their tokens."""
    kept = folder / f"{name}.json"
    if not kept.exists():
        with xt.load(model(), max_tokens=CAP) as engine:
            found = xt.run(xt.Target(engine, reward, 1.0), [each.question for each in TEST], xt.Independent(POOL))
        drafts = [result.population.drafts for result in found.answered]
        kept.write_text(json.dumps({
            "rewards": [result.population.rewards.tolist() for result in found.answered],
            "answers": [[number(draft.text) for draft in some] for some in drafts],
            "texts": [[draft.text for draft in some] for some in drafts],
            "tokens": float(np.mean([len(draft.tokens) for some in drafts for draft in some])),
        }))  # fmt: skip
    return json.loads(kept.read_text())


# ------------------------------------------------------------------------------------------------- from the pool


def best_of(found: Mapping[str, Any], n: int) -> list[float]:
    """The chance that best-of-n is right, of each problem."""
    right = []
    for rewards, answers, problem in zip(found["rewards"], found["answers"], TEST, strict=True):
        order = np.argsort(-np.array(rewards), kind="stable")
        right.append(float(chances(n) @ (np.array(answers)[order] == problem.answer)))
    return right


def chances(n: int) -> np.ndarray:
    """How likely the i-th best draw of the pool is the best of n: the others are then among those after it."""
    return np.exp([log_choose(POOL - 1 - i, n - 1) - log_choose(POOL, n) for i in range(POOL)])


def log_choose(n: int, k: int) -> float:
    return -math.inf if k > n else math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def voted(found: Mapping[str, Any], n: int, beta: float) -> list[float]:
    """A vote of n draws, each by exp(r/β); of equal answers one at random. β = inf is the majority."""
    rng, right = np.random.default_rng(n), []
    for rewards, answers, problem in zip(found["rewards"], found["answers"], TEST, strict=True):
        names, codes = np.unique([str(answer) for answer in answers], return_inverse=True)
        w = np.exp((np.array(rewards) - max(rewards)) / beta)
        mine = []
        for _ in range(SUBSETS if n < POOL else 1):
            rows = rng.permutation(POOL)[:n]
            shares = np.bincount(codes[rows], w[rows], minlength=len(names))
            shares[names == "None"] = -1.0
            top = shares == shares.max()
            mine.append(float(np.mean(names[top] == problem.answer)))
        right.append(float(np.mean(mine)))
    return right


def least_risk(found: Mapping[str, Any], n: int) -> list[float]:
    """Minimum Bayes risk by ROUGE-1 among n draws, without the reward."""
    rng, right = np.random.default_rng(n), []
    for texts, answers, problem in zip(found["texts"], found["answers"], TEST, strict=True):
        mine = []
        for _ in range(4):
            rows = rng.permutation(POOL)[:n]
            score = rouge1.matrix([texts[row] for row in rows]).sum(1)
            mine.append(float(answers[rows[int(score.argmax())]] == problem.answer))
        right.append(float(np.mean(mine)))
    return right


# --------------------------------------------------------------------------------------------------- by samplers


def of_chain(reward: Any, beta: float, steps: int) -> Points:
    """QAlign: a vote over the states of a chain, after 2, 4, 8, … of its steps."""
    with xt.load(MODEL, max_tokens=CAP) as engine:
        target, prompts = xt.Target(engine, reward, beta), [each.question for each in TEST]
        results = [xt.run(target, prompts, xt.SuffixMCMC(steps), seed=seed).answered for seed in range(3)]
    points: Points = []
    for count in (2**power for power in range(1, int(math.log2(steps)) + 1)):
        right = [
            float(np.mean([_majority(run[place], count) == problem.answer for run in results]))
            for place, problem in enumerate(TEST)
        ]
        spent = [_tokens(result, count + 1) for run in results for result in run]
        points.append((float(np.mean(spent)), right))
    return points


def _majority(result: xt.Result, count: int) -> str | None:
    answers = [number(draft.text) for draft in result.population.drafts[: count + 1]]
    names = [answer for answer in answers if answer is not None]
    return max(sorted(set(names)), key=names.count) if names else None


def _tokens(result: xt.Result, states: int) -> float:
    """What a chain had spent when it had so many states."""
    return float(next(entry["tokens"] for entry in result.trace if entry["n"] >= states))


def guided(reward: Any, beta: float) -> Points:
    """ETS of 2 to 16 candidates with 3 rollouts each, and a weighted vote."""
    points: Points = []
    with xt.load(MODEL, max_tokens=CAP) as engine:
        target, prompts = xt.Target(engine, reward, beta), [each.question for each in TEST]
        for candidates in (2, 4, 8, 16):
            sampler = xt.ETS(candidates, 3, 16)
            results = xt.run(target, prompts, sampler, select=xt.vote(number, distinct=False)).answered
            right = [float(number(result.text) == problem.answer) for result, problem in zip(results, TEST, strict=True)]
            points.append((float(np.mean([result.usage.tokens for result in results])), right))
    return points


# -------------------------------------------------------------------------------------------------------- results


def measure(store: Path, folder: Path, fit: Fit) -> dict[str, Any]:
    """What becomes of all methods with one reward model, of one pair of each training problem with the right answer preferred."""
    made_of = fit_reward(MODEL, [store], folder / "model", pairs=1, fit=fit, held_out=0.0)
    reward = xt.rewards.ClassifierReward(made_of.folder)
    found = pool(folder, reward)
    beta, tokens = usual_beta(found["rewards"], 0.5), found["tokens"]

    def of_trained() -> Points:
        theirs = pool(folder, xt.rewards.Zero(), "DPO", lambda: preferred(store, folder, fit))
        return [(n * theirs["tokens"], voted(theirs, n, math.inf)) for n in NUMBERS]

    made: dict[str, Callable[[], Points]] = {
        "best-of-n": lambda: [(n * tokens, best_of(found, n)) for n in NUMBERS],
        "majority": lambda: [(n * tokens, voted(found, n, math.inf)) for n in NUMBERS],
        "DPO, majority": of_trained,
        "weighted vote": lambda: [(n * tokens, voted(found, n, beta)) for n in NUMBERS],
        "MBR (ROUGE-1)": lambda: [(n * tokens, least_risk(found, n)) for n in NUMBERS[:7]],
        "QAlign, vote": lambda: of_chain(reward, beta, 256),
        "ETS, weighted vote": lambda: guided(reward, beta),
    }
    rows = {}
    for name, points in made.items():
        kept = folder / f"{name}.json"
        if not kept.exists():
            kept.write_text(json.dumps(points()))
            print(name, [(round(x), round(float(np.mean(y)), 3)) for x, y in json.loads(kept.read_text())], flush=True)
        rows[name] = json.loads(kept.read_text())
    varied = [rewards for rewards in found["rewards"] if len(set(rewards[:64])) >= 5]  # a Gaussian describes no others
    about = {"pairs": made_of.pairs, "beta": beta, "varied": len(varied), "spread": float(np.mean([*map(np.std, varied)]))}
    return {**about, "rows": rows, "limit": limit(varied), "tilt": tilt(varied)}


def together(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several reward models as one: means over them of tokens and of each problem's chances; the theory of the first."""
    rows = {}
    for name in found[0]["rows"]:
        points = zip(*(each["rows"][name] for each in found), strict=True)
        rows[name] = [
            (float(np.mean([tokens for tokens, _ in same])), np.mean([r for _, r in same], 0).tolist()) for same in points
        ]
    last = {name: [float(np.mean(each["rows"][name][-1][1])) for each in found] for name in rows}
    told = {key: [each[key] for each in found] for key in ("pairs", "beta")}
    return told | {"rows": rows, "last": last} | {key: found[0][key] for key in ("varied", "spread", "limit", "tilt")}


def limit(some: Sequence[list[float]]) -> dict[str, list[float]]:
    """Appendix A: the mean reward of best-of-n, and its expectation by the limit of Gumbel, both means over problems."""
    measured, predicted = [], []
    parts = [dominant(rewards) for rewards in some]
    for n in NUMBERS[3:-1]:
        measured.append(float(np.mean([chances(n) @ -np.sort(-np.array(rewards)) for rewards in some])))
        predicted.append(float(np.mean([of_gumbel(part.mean, part.sd, n * part.share) for part in parts])))
    return {"n": [*NUMBERS[3:-1]], "measured": measured, "predicted": predicted}


def of_gumbel(mean: float, sd: float, n: float) -> float:
    """The mean of the largest of n Gaussian values, by its limit."""
    if n <= 1.5:
        return mean
    root = math.sqrt(2 * math.log(n))
    place = root - (math.log(math.log(n)) + math.log(4 * math.pi)) / (2 * root)
    return mean + sd * (place + np.euler_gamma / root)


def tilt(pools: Sequence[list[float]]) -> dict[str, list[float]]:
    """Appendix E: E_π[r] and KL(π‖p) by the fit to 64 draws, by these draws weighted, and by the whole pool weighted."""
    spread = float(np.mean([np.std(rewards) for rewards in pools]))
    rows: dict[str, list[float]] = {name: [] for name in ("beta", "fit", "fit kl", "pilot", "pilot kl", "pool", "pool kl")}
    for beta in np.geomspace(0.5 * spread, 4 * spread, 7):
        rows["beta"].append(float(beta))
        fits = [tilted(rewards[:64], beta) for rewards in pools]
        rows["fit"].append(float(np.mean([fit.mean for fit in fits])))
        rows["fit kl"].append(float(np.mean([fit.kl for fit in fits])))
        for name, count in (("pilot", 64), ("pool", POOL)):
            some = [np.array(rewards[:count]) for rewards in pools]
            weights = [np.exp(log_shares(r / beta)) for r in some]
            rows[name].append(float(np.mean([w @ r for w, r in zip(weights, some, strict=True)])))
            rows[f"{name} kl"].append(float(np.mean([tilt_kl(r, beta) for r in some])))
    return rows


def main() -> None:
    from reproduce.learned_reward_page import figure, section

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "learned_reward", help="where what is done is kept")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    store = training_draws(args.folder)
    found = together([measure(store, args.folder / str(seed), replace(FIT, seed=seed)) for seed in SEEDS])
    RESULTS.write_text(json.dumps(found) + "\n")
    figure(found, ROOT / "docs" / "learned_reward.png")
    put_section(ROOT / "docs" / "train.md", "An imperfect reward", section(found, len(TEST)))


if __name__ == "__main__":
    main()
