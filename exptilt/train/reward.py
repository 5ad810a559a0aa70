"""`fit_reward`: a Bradley-Terry reward model from pairs of a model's own drafts, with TRL's RewardTrainer underneath.

For each prompt one pair is made of its drafts: one with the highest reward, preferred to one with a lower reward, both at
random among those. That is QAlign's recipe (2504.03790, appendix H: 64 responses a prompt, one pair, one epoch, 5 % held out,
linear decay with a warm-up of 3 %, no weight decay). With `noise` a pair is any two different drafts, and the first is preferred
with probability σ((r_1 - r_2)/noise), the model's own assumption: then the fitted reward is r/noise, up to a constant of each
prompt.

A pair is given to the model as `exptilt.rewards.ClassifierReward` will give it a response, so the result is a reward at once:
"classifier:FOLDER". Pairs that are too long for the model are refused; the RewardTrainer by itself drops what is longer than
1024 tokens without a word, and computes in bfloat16 unless told otherwise, on processors without it as well.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from exptilt.draft import Prompt, question
from exptilt.engines.checkpoints import device_or_default, quiet
from exptilt.errors import TrainError
from exptilt.keys import digest as digest_text
from exptilt.rewards.model.loading import Tokenizer
from exptilt.train.fitting import Progress, Watcher, arguments, check_finite, last_whole, writing
from exptilt.train.lessons import Drawn, read_source
from exptilt.train.models import drop_nothing, source_of
from exptilt.train.settings import Fit, Folder, fit_settings

STANDARD = Fit(epochs=1, batch=128, learning_rate=1e-5)
HELD_OUT = 0.05


@dataclass(frozen=True)
class Pair:
    """Two responses to a prompt, the first of them preferred."""

    prompt: Prompt
    better: str
    worse: str


@dataclass(frozen=True)
class Rewarded:
    """A reward model that was fitted. Its name as a reward is `spec`.

    pairs, held_out: it learned from, and was tried on. flat: prompts without two drafts of different rewards.
    accuracy: the share of the held-out pairs that it orders as they are; None where none was held out.
    steps, tokens: of training. loss: the mean over the last steps.
    """

    folder: Path
    pairs: int
    held_out: int
    flat: int
    accuracy: float | None
    steps: int
    tokens: int
    loss: float

    @property
    def spec(self) -> str:
        return f"classifier:{self.folder}"


def fit_reward(
    model: str,
    stores: Sequence[str | Path],
    out: str | Path,
    *,
    pairs: int = 1,
    noise: float | None = None,
    held_out: float = HELD_OUT,
    fit: Fit | None = None,
    progress: Progress | None = None,
) -> Rewarded:
    """Fit a reward model to the drafts and rewards in results files.

    model: a causal language model to begin with, which need not be the one that drew them; it needs a chat template.
    pairs: of each prompt. noise: None for pairs in the order of their rewards; else in units of the reward, see the overview.
    held_out: the share of the pairs that are kept for a test. fit: LoRA is not offered here.
    Raises StoreError or TrainError.
    """
    fit = fit or STANDARD
    if pairs < 1 or not 0 <= held_out < 1 or (noise is not None and not noise > 0) or fit.rank is not None:
        raise ValueError(
            f"pairs={pairs} must be 1 or more, held_out={held_out} from 0 to below 1, noise={noise} positive, no LoRA"
        )
    source = read_source(stores)
    made = [make_pairs(drawn, pairs, noise, fit.seed) for drawn in source.drawn]
    flat, every = sum(not found for found in made), [pair for found in made for pair in found]
    if not every:
        raise TrainError(
            f"none of the {len(made)} prompts has two drafts of different rewards, so nothing is preferred to anything: draw "
            "more for each prompt, or take prompts that are neither always nor never solved"
        )
    settings = {"trained": "reward", "model": model, "pairs": [len(every), pairs], "noise": noise, "held_out": held_out}
    content = digest_text("\0".join(f"{pair.prompt}\0{pair.better}\0{pair.worse}" for pair in every))
    folder = Folder(out, {**settings, "content": content, "fit": fit_settings(fit)})
    if folder.summary is None:
        folder.finish({**_fitted(model, every, held_out, fit, folder, progress), "flat": flat})
    assert folder.summary is not None
    return Rewarded(folder.path, **folder.summary)


def make_pairs(drawn: Drawn, count: int, noise: float | None, seed: int) -> list[Pair]:
    """The pairs of a prompt; none where no two of its drafts have different texts and rewards."""
    population, prompt = drawn.population, drawn.prompt
    worth = dict(zip((draft.text for draft in population.drafts), population.rewards.tolist(), strict=True))
    rng = random.Random(f"{seed} {prompt}")
    texts = sorted(worth)
    top = max(worth.values())
    better, worse = [text for text in texts if worth[text] == top], [text for text in texts if worth[text] < top]
    if not worse:
        return []
    if noise is None:
        return [Pair(prompt, rng.choice(better), rng.choice(worse)) for _ in range(count)]
    found = []
    for _ in range(count):
        first, second = rng.sample(texts, 2)
        gap = 0.0 if worth[first] == worth[second] else np.clip((worth[first] - worth[second]) / noise, -700.0, 700.0)
        found.append(Pair(prompt, first, second) if rng.random() < 1 / (1 + np.exp(-gap)) else Pair(prompt, second, first))
    return found


def _fitted(
    model: str, pairs: list[Pair], held_out: float, fit: Fit, folder: Folder, progress: Progress | None
) -> dict[str, Any]:
    from datasets import Dataset
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    network, tokenizer = _begun(model, fit)
    rows = _tokenized(pairs, Tokenizer(tokenizer, model), network.config.get_text_config(), model)
    random.Random(fit.seed).shuffle(rows)
    kept = int(len(rows) * held_out)
    steps = fit.epochs * -(-(len(rows) - kept) // fit.batch)
    watch = Watcher(progress, steps, fit, folder)
    half = torch.cuda.is_available() and device_or_default(fit.device) != "cpu" and torch.cuda.is_bf16_supported()
    trainer = RewardTrainer(
        model=network,
        args=arguments(fit, folder, steps, RewardConfig, max_length=None, bf16=half, gradient_checkpointing=False),
        train_dataset=Dataset.from_list(rows[kept:]),
        eval_dataset=Dataset.from_list(rows[:kept]) if kept else None,
        processing_class=tokenizer,
        callbacks=[watch],
    )
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    resume = last_whole(folder.checkpoints)
    with writing(folder), quiet():
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    check_finite(network, f"after {steps} steps", fit, folder)
    accuracy = trainer.evaluate()["eval_accuracy"] if kept else None
    with writing(folder), quiet():
        network.save_pretrained(folder.path)
        tokenizer.save_pretrained(folder.path)
    tokens = fit.epochs * sum(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows[kept:])
    told = {"pairs": len(rows) - kept, "held_out": kept, "accuracy": accuracy}
    return {**told, "steps": steps, "tokens": tokens, "loss": watch.loss}


def _begun(model: str, fit: Fit) -> tuple[Any, Any]:
    """The model with a head of one output, whose weights are drawn from the seed."""
    source = source_of(model)
    torch.manual_seed(fit.seed)
    with quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        network = transformers.AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=1, dtype=torch.float32, trust_remote_code=False
        )
    if not tokenizer.chat_template:
        raise TrainError(f"{model} has no chat template, which tells its reward model where a response begins: give one that has")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    network.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    drop_nothing(network)
    return network.to(device_or_default(fit.device)), tokenizer


def _tokenized(pairs: list[Pair], tokenizer: Tokenizer, config: Any, model: str) -> list[dict[str, list[int]]]:
    """Each pair as token ids, by the chat template, as `ClassifierReward` writes a response."""

    def ids(prompt: Prompt, text: str) -> list[int]:
        turns = [{"role": "user", "content": question(prompt)}, {"role": "assistant", "content": text}]
        return tokenizer.encode(tokenizer.chat(turns), special=False)

    rows = [{"chosen_ids": ids(pair.prompt, pair.better), "rejected_ids": ids(pair.prompt, pair.worse)} for pair in pairs]
    most, room = max(max(map(len, row.values())) for row in rows), getattr(config, "max_position_embeddings", None)
    if room is not None and most > room:
        raise TrainError(
            f"a prompt with its response has {most} tokens, and {model} reads {room}: draw with a lower --max-tokens"
        )
    return rows
