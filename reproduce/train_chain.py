"""Train `tiny-chain`, the bundled model that works chains of 4 to 48 steps, from scratch, on generated chains.

    python reproduce/train_chain.py                 # about half an hour on one core
    python reproduce/train_chain.py --evaluate      # measure the saved model again: error a step at every length

The model is meant to slip in about one line of ten, at every length alike. That rate is taught, not left to chance: one result
in twelve of the training solutions is off by one or by ten, and the lines after it go on from the wrong total. A model that
has learned the rest then slips as often as its teacher, and a little more. More than half of the rows are short excerpts
whose numbering starts anywhere, so that every step number is practised at the price of a short row.

The learning curve and the measured rates go to `reproduce/results/train_chain.json`. Needs torch 2.9 or newer.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from train_tiny import (
    CHAT_TEMPLATE,
    CONTEXT,
    PAD,
    RESULTS,
    SPECIAL,
    Recipe,
    build_model,
    build_optimizers,
    interval,
    learning_rate,
    read_results,
    save,
    update,
    weighted_loss,
)
from transformers import PreTrainedTokenizerFast

import exptilt as xt
from exptilt.evaluation.tasks.chains import CHANGE, LONGEST, SHORTEST, chains, compose, count_lines
from exptilt.evaluation.tasks.word_problems import split_of
from exptilt.keys import Key

NAME = "tiny-chain"
RECIPE = Recipe(hidden=128, layers=3, heads=4, inner=344, rate=3e-3, steps=1400, batch=0)
COLUMNS = 3000  # tokens of a batch, padding included
POOL = 512  # rows that are drawn and sorted by length at a time
EXCERPTS = 0.7  # share of rows that are excerpts
EXCERPT = (2, 8)  # steps of one
SLIP = 0.08  # share of results that are wrong in training
SLIPS = (-10, -1, 1, 10)
LENGTHS = (4, 8, 12, 16, 24, 32, 48)
CURVE_CHAINS, TEST_CHAINS = 8, 150  # of each length
POINTS = 30  # on the learning curve, each with a saved checkpoint

Row = tuple[list[int], list[float]]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and as one token each: a step's number with dot and space, a change with its sign, the two words of a chain."""
    words = ["Start:Ġ", "####Ġ", *(f"{number}.Ġ" for number in range(1, LONGEST + 1))]
    words += [f"{change:+d}" for change in range(-CHANGE, CHANGE + 1) if change]
    vocabulary = {piece: i for i, piece in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *words])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    split = pre_tokenizers.Split(Regex(r"Start: |#### |[0-9]+\. |[-+][1-9](?![0-9])|[^A-Za-z]"), behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([split, level])  # pyright: ignore[reportAttributeAccessIssue]
    core.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|user|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        extra_special_tokens=["<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )


def draw_row(rng: random.Random, tokenizer: PreTrainedTokenizerFast) -> Row:
    """Token ids and loss weights of one exchange of the training split; only the solution is learned."""
    while True:
        steps, first = rng.randint(SHORTEST, LONGEST), 1
        if rng.random() < EXCERPTS:
            steps = rng.randint(*EXCERPT)
            first = rng.randint(1, LONGEST - steps + 1)
        chain = compose(rng, steps, first)
        if split_of(chain.question) == "train":
            break
    slips = [rng.choice(SLIPS) if rng.random() < SLIP else 0 for _ in range(steps)]
    prompt = tokenizer.encode(f"<|user|>{chain.question}<|assistant|>")
    solution = tokenizer.encode(f"{chain.worked(slips)}<|end|>")
    return prompt + solution, [0.0] * len(prompt) + [1.0] * len(solution)


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (ids, loss weights) [rows, columns] without end, padded, of about `COLUMNS` entries each."""
    rng = random.Random(seed)
    while True:
        rows = sorted((draw_row(rng, tokenizer) for _ in range(POOL)), key=lambda row: -len(row[0]))
        groups: list[list[Row]] = []
        while rows:
            size = max(1, COLUMNS // len(rows[0][0]))
            groups.append(rows[:size])
            del rows[:size]
        rng.shuffle(groups)
        yield from (padded(group) for group in groups)


def padded(rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows as two tensors; padding is not learned."""
    width = max(len(ids) for ids, _ in rows)
    ids, weights = torch.full((len(rows), width), PAD), torch.zeros(len(rows), width)
    for i, (row, weight) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        weights[i, : len(row)] = torch.tensor(weight)
    return ids, weights


def measure(folder: Path, count: int, seed: int) -> dict[str, dict]:
    """Errors a step at each length, by the lines up to the first wrong one, and solutions that end in the right answer."""
    engine = xt.load(f"hf:{folder}", max_tokens=LONGEST * 7)
    found = {}
    for steps in LENGTHS:
        problems = chains("test", count, seed, steps)
        keys = [Key(seed).child("measure", steps).child("chain", i) for i in range(count)]
        drafts = engine.extend([engine.start(problem.question) for problem in problems], keys)
        counts = [count_lines(problem, draft.text) for problem, draft in zip(problems, drafts, strict=True)]
        lines, errors = sum(each for each, _ in counts), sum(each for _, each in counts)
        right = sum(draft.text == problem.solution for problem, draft in zip(problems, drafts, strict=True))
        found[str(steps)] = {
            "lines": lines,
            "error": round(errors / lines, 4),
            "error_interval": interval(errors, lines),
            "first_line_error": counts.count((1, 1)) / count,
            "flawless": right / count,
            "tokens_a_step": round(sum(draft.decided for draft in drafts) / count / steps, 2),
        }
    return found


def train(tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> dict:
    """Train, saving a checkpoint and a point of the curve at regular intervals; return the record."""
    torch.manual_seed(args.seed)
    recipe = replace(RECIPE, steps=args.steps or RECIPE.steps)
    model = build_model(recipe, tokenizer)
    optimizers, stream = build_optimizers(model, recipe.rate), batches(tokenizer, args.seed)
    began, cpu, tokens, recent, curve = time.time(), time.process_time(), 0, [], []
    step, progress, next_mark = 0, 0.0, 1
    model.train()
    while progress < 1:
        ids, weights = next(stream)
        rate = recipe.rate * learning_rate(max(progress, 0.5 / recipe.steps))
        recent.append(update(model, optimizers, rate, *weighted_loss(model, ids, weights)))
        step, tokens = step + 1, tokens + int(ids.ne(PAD).sum())
        minutes = (time.time() - began) / 60
        progress = max(step / recipe.steps, minutes / args.minutes)
        if progress >= next_mark / POINTS:
            next_mark = int(progress * POINTS) + 1
            save(model, tokenizer, args.out / NAME)
            point = {"step": step, "tokens": tokens, "minutes": round(minutes, 2), "loss": round(sum(recent) / len(recent), 4)}
            recent = []
            curve.append(point)
            print(point, flush=True)
    return {
        "recipe": asdict(replace(recipe, steps=step)),
        "seed": args.seed,
        "tokens": tokens,
        "train_minutes": round((time.time() - began) / 60, 2),
        "train_cpu_minutes": round((time.process_time() - cpu) / 60, 2),
        "curve": curve,
    }


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the tiny model that works chains.")
    parser.add_argument("--out", type=Path, default=RESULTS.parents[1] / "exptilt/models", help="parent of the model's folder")
    parser.add_argument("--results", type=Path, default=RESULTS / "train_chain.json", help="where the record goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="optimizer steps instead of the recipe's")
    parser.add_argument("--minutes", type=float, default=40.0, help="time limit, decay included")
    parser.add_argument("--evaluate", action="store_true", help="only measure the saved model again")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Train the model and write what came out."""
    args = arguments()
    torch.set_num_threads(args.threads)
    record = read_results(args.results) if args.evaluate else train(build_tokenizer(), args)
    record["by_length"] = measure(args.out / NAME, TEST_CHAINS, args.seed + 200)
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["by_length"], indent=1))


if __name__ == "__main__":
    main()
