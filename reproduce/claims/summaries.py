"""Open question 2 of ETS: agreement where there is no answer to agree on, on one-sentence summaries of generated notes.

    python reproduce/claims/summaries.py MODEL.gguf ...   # runs what is not there yet; without models, reads what was run

A note tells of a meeting in nine sentences, four of which matter. The reward is the mean ROUGE-1 with eight pilot draws,
frozen; a second one takes 1 from that for a response that is longer than the prompt allows. The judge, which no method sees,
counts which of four facts the summary keeps; a number that the note does not have, or more than forty words, make it worthless.
β is that at which π is one nat from p by the draws, in the mean over notes. What chooses among plain draws has the tokens of
`ETS(8, 2)`, its pilot included.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from exptilt.core import Engine  # noqa: E402
from exptilt.evaluation.evaluate import all_results  # noqa: E402
from exptilt.populations.utilities import rouge1  # noqa: E402
from reproduce.claims.cells import Cell, Cells, interval, strength, sure  # noqa: E402
from reproduce.claims.finding import RESULTS, Finding, judged, keep  # noqa: E402
from reproduce.claims.signals import SoftAgreement  # noqa: E402
from reproduce.methods import told  # noqa: E402

CELLS, RUNS = Cells("summaries", RESULTS / "summaries"), ROOT / "runs" / "summaries"
NOTES, DRAWS, PILOT, NATS, SEED, WORDS = 48, 40, 8, 1.0, 83, 40
MODELS = ("Qwen2.5-Coder-0.5B-Instruct.Q4_K_M", "Qwen2.5-Coder-1.5B-Instruct.Q4_K_M")
ETS = xt.ETS(8, 2, 12, returns="chain", floor=1e-6)

# ------------------------------------------------------------------------------------------------------- the notes

_GROUPS = (
    "library committee",
    "rowing club",
    "school board",
    "allotment society",
    "village choir",
    "chess union",
    "parish council",
)
_NAMES = (
    "Price",
    "Okafor",
    "Lindqvist",
    "Moreau",
    "Tanaka",
    "Ferris",
    "Castillo",
    "Novak",
    "Hughes",
    "Adeyemi",
    "Brandt",
    "Rossi",
)
_FIRST = ("Ann", "Paul", "Ruth", "Amir", "Clara", "Jonas", "Mei", "Hugo", "Nadia", "Owen")
_TOWNS = ("Leeds", "Bergen", "Porto", "Ghent", "Cork", "Turin", "Lund", "Bath", "Graz", "Vigo")
_MONTHS = ("January", "March", "April", "June", "July", "October", "November")


@dataclass(frozen=True)
class Note:
    """What is summarised, and the four facts that matter: for each, words that all must be there."""

    text: str
    facts: tuple[tuple[str, ...], ...]

    @property
    def prompt(self) -> str:
        return f"Summarise this note in one sentence of at most {WORDS - 10} words, with all that matters.\n\n{self.text}"

    def marks(self, summary: str) -> tuple[float, float, float]:
        """The share of the facts that a summary keeps; 1 if it invents no number, else 0; 1 if it is not too long, else 0."""
        said = {re.sub(r"(?<=\d)(st|nd|rd|th)$|,", "", word.lower()) for word in re.findall(r"[\w,]*\w", summary)}
        invented = {each for each in said if each.isdigit()} - _numbers(self.text)
        kept = np.mean([all(word.lower() in said for word in fact) for fact in self.facts])
        return float(kept), float(not invented), float(not too_long(summary))


def _numbers(text: str) -> set[str]:
    return {each.replace(",", "") for each in re.findall(r"\d[\d,]*\d|\d", text)}


def note(number: int) -> Note:
    rng = random.Random(f"notes {SEED} {number}")
    group, town, month = rng.choice(_GROUPS), rng.choice(_TOWNS), rng.choice(_MONTHS)
    (one, two), first = rng.sample(_NAMES, 2), rng.sample(_FIRST, 2)
    old, day, met, members = rng.randrange(21, 90) * 100, rng.randrange(11, 29), rng.randrange(1, 10), rng.randrange(12, 40)
    new = old + rng.randrange(3, 19) * 100
    matters = [
        f"The {group} met in {town} on {met} {month}.",
        f"{first[0]} {one} was chosen as chair for {rng.randrange(2, 5)} years.",
        f"The yearly budget was raised from {old:,} to {new:,} euros.",
        f"They will meet again on {day} {month}.",
    ]
    more = [
        f"{members} members came, some of them late.",
        "It rained all evening, and the windows were left open.",
        f"{first[1]} {two} brought tea and a plum cake.",
        "A motion to paint the door green was talked about and dropped.",
        "The minutes of the last meeting were read out and found to be in order.",
    ]
    rng.shuffle(more)
    told = [matters[0], *rng.sample([*matters[1:], *more], 8)]
    return Note(" ".join(told), ((town,), (one,), (str(new),), (str(day), month)))


# ------------------------------------------------------------------------------------------------------------ runs


def drawn(engine: Engine, notes: dict[str, Note], name: str) -> Cell:
    """Plain draws of each note: their marks, tokens, what they share with the pilot; and whom MBR chooses of the first n."""
    outcomes = run(engine, notes, xt.rewards.Zero(), 1.0, xt.Independent(DRAWS, weights="draws"), f"{name}, draws")
    cell: Cell = {"marks": [], "tokens": [], "common": [], "all": []}
    for result in outcomes:
        texts = [draft.text for draft in result.population.drafts]
        both = rouge1.matrix(texts)
        cell["marks"].append([notes[str(result.prompt)].marks(text) for text in texts])
        cell["tokens"].append([draft.decided for draft in result.population.drafts])
        cell["common"].append(both[:, :PILOT].mean(1).tolist())
        cell["all"].append([both[:n, :n].mean(1).argmax().item() for n in range(1, DRAWS + 1)])
    return cell


@dataclass(frozen=True)
class Ruled:
    """Agreement, less 1 where a response is longer than was asked for; a ROUGE-1 is 1 at the most."""

    agreement: SoftAgreement
    fixed = True

    def needs(self) -> frozenset[str]:
        return self.agreement.needs()

    def bind(self, engine: Engine, prompt: Any, key: xt.Key) -> Any:
        common = self.agreement.bind(engine, prompt, key)

        def ruled(prompt: Any, drafts: Any) -> list[float]:
            return [value - too_long(draft.text) for value, draft in zip(common(prompt, drafts), drafts, strict=True)]

        return ruled


def too_long(text: str) -> bool:
    return len(text.split()) > WORDS


REWARDS = {"agreement": SoftAgreement(PILOT), "agreement and length": Ruled(SoftAgreement(PILOT))}


def guided(engine: Engine, notes: dict[str, Note], name: str, reward: str, beta: float) -> Cell:
    outcomes = run(engine, notes, REWARDS[reward], beta, ETS, f"{name}, ETS, {reward}")
    return {
        "marks": [notes[str(each.prompt)].marks(each.text) for each in outcomes],
        "tokens": [each.usage.tokens for each in outcomes],
    }


def run(engine: Engine, notes: dict[str, Note], reward: Any, beta: float, sampler: Any, name: str) -> list[xt.Result]:
    target = xt.Target(engine, reward, beta)
    outcomes = xt.run(
        target, [*notes], sampler, select=xt.draw, seed=SEED, store=RUNS / f"{name}.jsonl", concurrency=16, progress=told(name)
    )
    return all_results(outcomes)


def rewards_of(cell: Cell, reward: str) -> np.ndarray:
    """The rewards of plain draws, [notes, draws], the pilot's among them."""
    common = np.array(cell["common"])
    return common if reward == "agreement" else common - (1.0 - np.array(cell["marks"])[..., 2])


def beta_of(cell: Cell, reward: str) -> float:
    """β at which π is NATS from p, by the draws that are not the pilot."""
    return strength([*rewards_of(cell, reward)[:, PILOT:]], NATS)


def measure(file: str) -> None:
    name, notes = Path(file).stem, {each.prompt: each for each in map(note, range(NOTES))}
    with xt.load(f"gguf:{file}", dtype="bfloat16", max_tokens=96, stop=["\n"]) as engine:
        plain = CELLS(f"{name}, draws", partial(drawn, engine, notes, name))
        for reward in REWARDS:
            CELLS(f"{name}, ETS, {reward}", partial(guided, engine, notes, name, reward, beta_of(plain, reward)))


# --------------------------------------------------------------------------------------------------------- finding


def shown(name: str, scores: np.ndarray, tokens: float) -> str:
    mean, half = interval(scores)
    return f"{name} {mean:.2f} ± {half:.2f} ({tokens:,.0f} tokens)"


def chosen(plain: Cell, ets: Cell, reward: str) -> dict[str, tuple[np.ndarray, float]]:
    """By method, the worth of each note's summary and the mean tokens that it took: what chooses among draws has those of ETS."""
    score, tokens = np.array(plain["marks"]).prod(2), np.array(plain["tokens"])
    each, spent, notes = float(tokens.mean()), float(np.mean(ets["tokens"])), np.arange(len(score))
    n = min(DRAWS, round(spent / each))
    best = PILOT + rewards_of(plain, reward)[:, PILOT:n].argmax(1)
    return {
        "one draw": (score.mean(1), each),
        f"MBR of {n}": (score[notes, [row[n - 1] for row in plain["all"]]], n * each),
        f"best of {n - PILOT} by the reward": (score[notes, best], n * each),
        "ETS": (np.array(ets["marks"]).prod(1), spent),
    }


def correlations(plain: Cell, reward: str) -> str:
    """The correlations of a reward with the judge and with its parts over draws of a note, where both differ, as words."""
    marks, values = np.array(plain["marks"])[:, PILOT:], rewards_of(plain, reward)[:, PILOT:]
    names = ("the facts kept", "no number invented", "not too long")
    parts = {"the judge": marks.prod(2)} | dict(zip(names, np.moveaxis(marks, 2, 0), strict=True))
    found = []
    for name, worth in parts.items():
        pairs = [pair for pair in zip(values, worth, strict=True) if min(np.ptp(each) for each in pair) > 0]
        r, half = interval(np.array([np.corrcoef(*pair)[0, 1] for pair in pairs]))
        found.append(f"{name} {r:+.2f} ± {half:.2f} ({worth.mean():.0%})")
    return ", ".join(found)


def of_model(name: str, reward: str) -> Finding:
    plain, ets = CELLS.known(f"{name}, draws"), CELLS.known(f"{name}, ETS, {reward}")
    if plain is None or ets is None:
        raise SystemExit(f"{name} was not run: python reproduce/claims/summaries.py {name}.gguf")
    methods = chosen(plain, ets, reward)
    gaps = {other: interval(methods["ETS"][0] - scores) for other, (scores, _) in methods.items() if other != "ETS"}
    model = name.removesuffix("-Instruct.Q4_K_M")
    return Finding(
        f"Open question 2 on summaries, by {reward}: {model}", "ETS, open question 2",
        f"{model}, {len(ets['tokens'])} generated notes, T = 1, β = {beta_of(plain, reward):.2g}, ROUGE-1 with {PILOT} pilot "
        f"draws; judge: the share of four facts that is kept, 0 for an invented number and beyond {WORDS} words",
        "ETS is above one draw",
        "; ".join(shown(other, *values) for other, values in methods.items())
        + "".join(f"; over {other} {gap:+.2f} ± {width:.2f}" for other, (gap, width) in gaps.items())
        + f"; within notes the reward correlates with {correlations(plain, reward)}",
        **judged(sure(gaps["one draw"]) > 0, "agreement sees the facts kept, not length nor invented numbers", part=False),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="instruction-tuned models as GGUF files")
    for file in parser.parse_args().models:
        measure(file)
    keep("summaries", [of_model(name, reward) for name in MODELS for reward in REWARDS])


if __name__ == "__main__":
    main()
