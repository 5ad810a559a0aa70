"""Reward against divergence: where sampling at test time, alignment without RL, GRPO and DPO end up, on a tiny decoder.

    python reproduce/frontier.py      # about half an hour on one core; what is done is kept under runs/frontier

Every method wants a high reward at a small KL(·‖p), both means over the same held-out problems. No distribution is above the
curve of π ∝ p·exp(r/β) over β, so what counts is how far below it a method ends: its KL less that of π with the same reward.
π's curve comes from draws of p, weighted for each β; that of soft best-of-n from the same draws, by the chance that each is
chosen among n; for a trained model log π_θ - log p of its own draws is averaged. Problems are resampled for the intervals.

Training sees other problems. GRPO and DPO have the settings that aim at the same π: GRPO with `beta` = β, rewards not scaled and
the loss of "Dr. GRPO"; DPO at `beta` = 1 with pairs of p's draws of which one is preferred with probability σ((r₁ - r₂)/β).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from exptilt.answers import number  # noqa: E402
from exptilt.engines.files import shipped  # noqa: E402
from exptilt.evaluation.tasks.word_problems import word_problems  # noqa: E402
from exptilt.populations.diagnostics import log_shares  # noqa: E402
from exptilt.rewards import Arithmetic  # noqa: E402
from exptilt.train import Fit  # noqa: E402
from exptilt.train.align import align  # noqa: E402
from exptilt.train.rounds import align_in_rounds  # noqa: E402
from reproduce.frontier_page import figure, section  # noqa: E402
from reproduce.pages import put_section  # noqa: E402

RESULTS = ROOT / "reproduce" / "results" / "frontier.json"
MODEL, CAP, BETA, REWARD = "tiny-small", 96, 0.2, Arithmetic()
BETAS = np.geomspace(3.0, 0.06, 40)  # of the curve of π
TEST = word_problems("test", 100, seed=5)
TRAIN = [each.question for each in word_problems("train", 600, seed=6)]
PILOT, DRAWS, OWN = 256, 16, 64  # draws of a problem: of p for the curve, of p to learn from, of a trained model
FIT = Fit(epochs=2, batch=32, learning_rate=2e-4)
Row = dict[str, Any]
"""reward, right, kl: a mean of each problem; other keys are what it cost."""


# ------------------------------------------------------------------------------------------------ without training


def pilot(folder: Path) -> xt.Results:
    """Draws of p for the held-out problems."""
    with xt.load(MODEL, max_tokens=CAP) as engine:
        questions = [each.question for each in TEST]
        return xt.run(xt.Target(engine, REWARD, BETA), questions, xt.Independent(PILOT), store=folder / "pilot.jsonl")


def right(result: xt.Result, answer: str) -> np.ndarray:
    """Whether each draft has the right answer."""
    return np.array([number(draft.text) == answer for draft in result.population.drafts], float)


def weighted(found: xt.Results, shares: Callable[[np.ndarray], np.ndarray]) -> Row:
    """A distribution with known density ratios to p on the pilot's draws. shares: of each draw, by the rewards."""
    row: Row = {"reward": [], "right": [], "kl": []}
    for result, problem in zip(found.answered, TEST, strict=True):
        rewards = result.population.rewards
        w = shares(rewards)
        held = w > 0
        row["reward"].append(float(w @ rewards))
        row["right"].append(float(w @ right(result, problem.answer)))
        row["kl"].append(float(np.sum(w[held] * np.log(w[held] * len(w)))))
    return row


def tilted(beta: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda rewards: np.exp(log_shares(rewards / beta))


def soft_best_of(n: int, beta: float) -> Callable[[np.ndarray], np.ndarray]:
    """The chance that each draw is chosen among itself and n - 1 others of the pilot, the mean over 400 sets of others."""

    def shares(rewards: np.ndarray) -> np.ndarray:
        w = np.exp((rewards - rewards.max()) / beta)
        others = np.random.default_rng(n).choice(w, (400, n - 1)).sum(1)
        chance = (w[:, None] / (w[:, None] + others)).mean(1)
        return chance / chance.sum()

    return shares


def chain(beta: float, steps: int) -> Row:
    """The last states of eight chains; their density is not known, so neither is their divergence."""
    row: Row = {"reward": [], "right": [], "kl": None}
    with xt.load(MODEL, max_tokens=CAP) as engine:
        target = xt.Target(engine, REWARD, beta)
        results = xt.run(target, [each.question for each in TEST], xt.SuffixMCMC(steps=steps, chains=8, burn_in=steps))
    for result, problem in zip(results.answered, TEST, strict=True):
        row["reward"].append(result.population.mean_reward)
        row["right"].append(float(result.population.weights @ right(result, problem.answer)))
    return row | {"answer tokens": results.usage.tokens / (8 * len(TEST))}


# --------------------------------------------------------------------------------------------------- with training


def own_draws(model: str) -> Row:
    """A trained model by draws of its own, whose log-probabilities are compared with p's."""
    row: Row = {"reward": [], "right": [], "kl": []}
    with xt.load(MODEL, max_tokens=CAP) as p, xt.load(model, max_tokens=CAP) as engine:
        results = xt.run(xt.Target(engine, REWARD, BETA), [each.question for each in TEST], xt.Independent(OWN))
        for result, problem in zip(results.answered, TEST, strict=True):
            drafts = list(result.population.drafts)
            ours = np.array([sum(draft.logq or ()) for draft in drafts])
            theirs = np.array([float(np.sum(score)) for score in p.score(drafts)])
            row["reward"].append(float(result.population.rewards.mean()))
            row["right"].append(float(right(result, problem.answer).mean()))
            row["kl"].append(float(np.mean(ours - theirs)))
    return row


def drawn(folder: Path) -> Path:
    """Draws of p for the training problems; what every method but GRPO learns from."""
    with xt.load(MODEL, max_tokens=CAP) as engine:
        xt.run(xt.Target(engine, REWARD, BETA), TRAIN, xt.Independent(DRAWS), store=folder / "drawn.jsonl")
    return folder / "drawn.jsonl"


def tokens_of(store: Path) -> int:
    return xt.read_results(store).usage.tokens


def aligned(folder: Path, beta: float) -> Row:
    from exptilt.train.lessons import Tilt

    store = drawn(folder)
    made = align(MODEL, [store], folder / f"align-{beta:g}", form=Tilt(beta), fit=FIT)
    return own_draws(made.model) | {"drawn": tokens_of(store), "read": made.tokens}


def in_rounds(folder: Path, rounds: int) -> Row:
    read = 0

    def hear(number: int, one: Any) -> None:
        nonlocal read
        read += one.tokens

    with xt.load(MODEL, max_tokens=CAP) as engine:
        target = xt.Target(engine, REWARD, BETA)
        made = align_in_rounds(target, TRAIN, folder / "rounds", rounds=rounds, draws=DRAWS, fit=FIT, hear=hear)
    stores = [folder / "rounds" / f"round-{n + 1}" / "drawn.jsonl" for n in range(rounds)]
    return own_draws(made.model) | {"drawn": sum(map(tokens_of, stores)), "read": read}


def student() -> tuple[Any, Any]:
    import transformers

    place = shipped(MODEL)
    model = transformers.AutoModelForCausalLM.from_pretrained(place, dtype="float32")
    return model, transformers.AutoTokenizer.from_pretrained(place)


def asked(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def said(draft: xt.Draft) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": draft.text}]


def common(folder: Path) -> dict[str, Any]:
    """What TRL's trainers share: no bfloat16 on a processor, no reports, no checkpoints."""
    return {
        "output_dir": str(folder), "report_to": "none", "save_strategy": "no", "bf16": False, "use_cpu": True, "seed": 0,
        "gradient_checkpointing": False, "logging_steps": 25, "lr_scheduler_type": "linear", "warmup_steps": 5,
        "weight_decay": 0.0, "disable_tqdm": True,
    }  # fmt: skip


def grpo(folder: Path, name: str, beta: float, steps: int) -> Row:
    import datasets
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    counts = {"drawn": 0, "read": 0}

    def score(prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Sequence[Any], **_: Any) -> list[float | None]:
        counts["drawn"] += sum(map(len, completion_ids))
        counts["read"] += sum(map(len, completion_ids)) + sum(length(prompt) for prompt in prompts)
        return [*REWARD("", [xt.Draft("", text=each[0]["content"], finish="stop") for each in completions])]

    def length(turns: Any) -> int:
        return len(tokenizer.apply_chat_template(turns)["input_ids"])

    model, tokenizer = student()
    config = GRPOConfig(
        **common(folder / name), beta=beta, loss_type="dr_grpo", scale_rewards="none", num_generations=8, temperature=1.0,
        per_device_train_batch_size=64, max_completion_length=CAP, max_steps=steps, learning_rate=1e-4,
    )  # fmt: skip
    rows = datasets.Dataset.from_list([{"prompt": asked(question)} for question in TRAIN])
    trainer = GRPOTrainer(model, score, config, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    return saved(trainer, tokenizer, folder / name) | counts


def dpo(folder: Path, name: str, epochs: int) -> Row:
    import datasets
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    store, rng = drawn(folder), np.random.default_rng(0)
    pairs = []
    for result in xt.read_results(store).answered:
        drafts, rewards = result.population.drafts, result.population.rewards
        for one, two in rng.permutation(len(drafts)).reshape(-1, 2):
            if drafts[one].text == drafts[two].text:
                continue
            first = rng.random() < 1 / (1 + math.exp(-(rewards[one] - rewards[two]) / BETA))
            better, worse = (one, two) if first else (two, one)
            pairs.append({"prompt": asked(str(result.prompt)), "chosen": said(drafts[better]), "rejected": said(drafts[worse])})
    model, tokenizer = student()
    config = DPOConfig(
        **common(folder / name),
        beta=1.0,
        per_device_train_batch_size=32,
        num_train_epochs=epochs,
        learning_rate=1e-4,
        max_length=None,
    )
    trainer = DPOTrainer(model, args=config, train_dataset=datasets.Dataset.from_list(pairs), processing_class=tokenizer)
    trainer.train()
    texts = [[*pair["prompt"], *pair[key]] for pair in pairs for key in ("chosen", "rejected")]
    read = epochs * sum(len(tokenizer.apply_chat_template(turns)["input_ids"]) for turns in texts)
    return saved(trainer, tokenizer, folder / name) | {"drawn": tokens_of(store), "read": read}


def saved(trainer: Any, tokenizer: Any, folder: Path) -> Row:
    place = folder / "model"
    trainer.model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return own_draws(f"hf:{place}")


# ------------------------------------------------------------------------------------------------------- the table


def methods(folder: Path, found: xt.Results) -> dict[str, Callable[[], Row]]:
    rows: dict[str, Callable[[], Row]] = {f"π, β = {beta:.3g}": lambda beta=beta: weighted(found, tilted(beta)) for beta in BETAS}
    rows |= {f"soft best-of-{n}": lambda n=n: weighted(found, soft_best_of(n, 0.05)) for n in (2, 4, 8, 16, 32)}
    rows |= {f"QAlign, {steps} steps": lambda steps=steps: chain(BETA, steps) for steps in (8, 64)}
    rows |= {f"align, β = {beta:g}": lambda beta=beta: aligned(folder, beta) for beta in (0.5, BETA, 0.1)}
    return rows | {
        "align, three rounds": lambda: in_rounds(folder, 3),
        "GRPO": lambda: grpo(folder, "grpo", BETA, 150),
        "GRPO without KL": lambda: grpo(folder, "grpo-free", 0.0, 150),
        "DPO": lambda: dpo(folder, "dpo", 2),
    }


def measure(folder: Path) -> dict[str, Row]:
    """All rows; those that are in the folder already are read."""
    folder.mkdir(parents=True, exist_ok=True)
    found, rows = pilot(folder), {}
    for name, made in methods(folder, found).items():
        kept, begun = folder / f"{name}.json", time.process_time()
        if not kept.exists():
            row = made() | {"processor seconds": time.process_time() - begun}
            kept.write_text(json.dumps(row))
            if not name.startswith("π"):
                print(name, {key: np.mean(row[key]).round(4) for key in ("reward", "right", "kl") if row[key]}, flush=True)
        rows[name] = json.loads(kept.read_text())
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "frontier", help="where rows and models are kept")
    args = parser.parse_args()
    rows = measure(args.folder)
    RESULTS.write_text(json.dumps(rows) + "\n")
    figure(rows, ROOT / "docs" / "frontier.png")
    about = (
        f"`reproduce/frontier.py` on `{MODEL}`, {len(TEST)} held-out problems; the reward is the checked arithmetic. No "
        "distribution has a higher mean reward than π at the same mean KL from p, so the excess over π's curve is wasted. "
        f"Trained models saw {len(TRAIN)} other problems, with {DRAWS} draws each."
    )
    put_section(ROOT / "docs" / "train.md", "Reward against divergence", section(rows, about))


if __name__ == "__main__":
    main()
