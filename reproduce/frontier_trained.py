"""The trainings of `reproduce/frontier.py`: our weighted maximum likelihood, and TRL's GRPO and DPO, on the same problems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import exptilt as xt
from exptilt.engines.files import shipped
from exptilt.train.align import align
from exptilt.train.lessons import Tilt
from exptilt.train.rounds import align_in_rounds
from reproduce.frontier_study import BETA, CAP, TRAIN, Row, Study, tokens_of


def aligned(study: Study, beta: float) -> Row:
    store = study.drawn()
    made = align(study.model, [store], study.folder / f"align-{beta:g}", form=Tilt(beta), fit=study.fit)
    return study.own_draws(made.model) | {"drawn": tokens_of(store), "read": made.tokens}


def in_rounds(study: Study, rounds: int) -> Row:
    read, place = 0, study.folder / "rounds"

    def hear(number: int, one: Any) -> None:
        nonlocal read
        read += one.tokens

    with xt.load(study.model, max_tokens=CAP) as engine:
        target = study.target(engine)
        made = align_in_rounds(target, TRAIN, place, rounds=rounds, draws=study.draws, fit=study.fit, hear=hear)
    stores = [place / f"round-{n + 1}" / "drawn.jsonl" for n in range(rounds)]
    return study.own_draws(made.model) | {"drawn": sum(map(tokens_of, stores)), "read": read}


def grpo(study: Study, name: str, beta: float) -> Row:
    """In as many steps as give it the draws of the others."""
    import datasets
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    counts = {"drawn": 0, "read": 0}

    def score(prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Sequence[Any], **_: Any) -> list[float | None]:
        counts["drawn"] += sum(map(len, completion_ids))
        counts["read"] += sum(map(len, completion_ids)) + sum(length(prompt) for prompt in prompts)
        return [*study.reward("", [xt.Draft("", text=each[0]["content"], finish="stop") for each in completions])]

    def length(turns: Any) -> int:
        return len(tokenizer.apply_chat_template(turns)["input_ids"])

    model, tokenizer = student(study.model)
    config = GRPOConfig(
        **common(study.folder / name), beta=beta, loss_type="dr_grpo", scale_rewards="none", num_generations=8, temperature=1.0,
        per_device_train_batch_size=64, max_completion_length=CAP, max_steps=len(TRAIN) * study.draws // 64, learning_rate=1e-4,
    )  # fmt: skip
    rows = datasets.Dataset.from_list([{"prompt": asked(question)} for question in TRAIN])
    trainer = GRPOTrainer(model, score, config, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    return study.own_draws(f"hf:{saved(trainer, tokenizer, study.folder / name)}") | counts


def dpo(study: Study, name: str) -> Row:
    store = study.drawn()
    pairs = preferences(store)
    model, tokenizer = preferring(study.model, pairs, study.folder / name, beta=1.0, batch=32, epochs=study.fit.epochs)
    texts = [[*pair["prompt"], *pair[key]] for pair in pairs for key in ("chosen", "rejected")]
    read = study.fit.epochs * sum(len(tokenizer.apply_chat_template(turns)["input_ids"]) for turns in texts)
    return study.own_draws(f"hf:{model}") | {"drawn": tokens_of(store), "read": read}


def preferring(name: str, pairs: list[dict[str, Any]], folder: Path, *, beta: float, batch: int, epochs: int) -> tuple[Path, Any]:
    """The folder of a model that TRL's DPO has trained on pairs of messages, and its tokenizer."""
    import datasets
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    model, tokenizer = student(name)
    config = DPOConfig(
        **common(folder),
        beta=beta,
        per_device_train_batch_size=batch,
        num_train_epochs=epochs,
        learning_rate=1e-4,
        max_length=None,
    )
    trainer = DPOTrainer(model, args=config, train_dataset=datasets.Dataset.from_list(pairs), processing_class=tokenizer)
    trainer.train()
    return saved(trainer, tokenizer, folder), tokenizer


def preferences(store: Path) -> list[dict[str, Any]]:
    """Each problem's draws in pairs, of which one is preferred with probability σ((r₁ - r₂)/β)."""
    rng, pairs = np.random.default_rng(0), []
    for result in xt.read_results(store).answered:
        drafts, rewards = result.population.drafts, result.population.rewards
        for one, two in rng.permutation(len(drafts)).reshape(-1, 2):
            if drafts[one].text == drafts[two].text:
                continue
            first = rng.random() < 1 / (1 + math.exp(-(rewards[one] - rewards[two]) / BETA))
            better, worse = (one, two) if first else (two, one)
            pairs.append(
                {"prompt": asked(str(result.prompt)), "chosen": said(drafts[better].text), "rejected": said(drafts[worse].text)}
            )
    return pairs


def student(name: str) -> tuple[Any, Any]:
    import transformers

    place = shipped(name)
    model = transformers.AutoModelForCausalLM.from_pretrained(place, dtype="float32")
    return model, transformers.AutoTokenizer.from_pretrained(place)


def asked(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def common(folder: Path) -> dict[str, Any]:
    """What TRL's trainers share: no bfloat16 on a processor, no reports, no checkpoints."""
    return {
        "output_dir": str(folder), "report_to": "none", "save_strategy": "no", "bf16": False, "use_cpu": True, "seed": 0,
        "gradient_checkpointing": False, "logging_steps": 25, "lr_scheduler_type": "linear", "warmup_steps": 5,
        "weight_decay": 0.0, "disable_tqdm": True,
    }  # fmt: skip


def saved(trainer: Any, tokenizer: Any, folder: Path) -> Path:
    place = folder / "model"
    trainer.model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place
