"""Train the three tiny language models that ship with exptilt, from scratch, on generated word problems.

    python reproduce/train_tiny.py                      # all three, about forty minutes on one idle core
    python reproduce/train_tiny.py --model tiny-small   # one of them
    python reproduce/train_tiny.py --mdlm               # the masked-diffusion model, whose own parts are in tiny_masked.py
    python reproduce/train_tiny.py --evaluate           # measure the saved models again

Fresh problems are generated while training runs, so no problem is seen twice on purpose. The models
are meant to be fallible: sampled at temperature 1 they should solve about half of the test problems,
and many of their errors should be slips inside one equation, which the reward
`exptilt.rewards.arithmetic.Arithmetic` can see. Training stops while the models still improve, so the
number of steps sets how good they are: `--steps` makes them better or worse.

The learning curve goes to `reproduce/results/train_tiny.json` and `train_tiny.png`. One thread is the
default because its sums are always taken in the same order. Needs torch 2.9 or newer for its Muon optimizer.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import tiny_masked
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout without installing

from exptilt.evaluation.tasks.word_problems import GROUP_SIZE, GROUPS, LIMIT, STEPS, Problem, word_problems
from exptilt.rewards.arithmetic import Arithmetic

RESULTS = Path(__file__).resolve().parent / "results"
SPECIAL = ("<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")
PAD, USER, _, END = range(len(SPECIAL))  # the tokenizer trainer numbers special tokens first
# Operators with their spaces, the answer mark, single digits, words, and runs of anything else.
PIECES = r" [-+*/=] |#### |[0-9]| ?[A-Za-z]+|\n| +|[^A-Za-z0-9 \n]+"
VOCABULARY = 768
CONTEXT = 512
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + '<|end|>' }}"
    "{% else %}{{ '<|user|>' + message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CHUNK = 2048  # problems generated and sorted by length at a time
DRILL_SHARE = 0.35  # share of training rows that are bare equations, the cheapest way to practise arithmetic
DRILL_LINES = 8
QUESTION_WEIGHT = 0.1  # the loss weight of question tokens; answer tokens weigh 1
WARMUP = 0.02  # share of the run in which the learning rate rises
WEIGHT_DECAY = 0.05
DECAY_FROM = 0.6  # share of the run after which the learning rate falls linearly
EVALUATIONS = 12  # points on the learning curve, each with a saved checkpoint
CURVE_PROBLEMS = 200
TEST_PROBLEMS = 1000
VOTE_PROBLEMS, VOTE_DRAFTS = 100, 16


@dataclass(frozen=True)
class Recipe:
    """The shape of a model and how long it trains."""

    hidden: int
    layers: int
    heads: int
    inner: int
    rate: float
    steps: int
    batch: int


RECIPES = {
    "tiny": Recipe(hidden=192, layers=4, heads=6, inner=512, rate=2e-3, steps=850, batch=24),
    "tiny-small": Recipe(hidden=96, layers=4, heads=3, inner=216, rate=4e-3, steps=780, batch=24),
    "tiny-mdlm": Recipe(hidden=192, layers=4, heads=6, inner=512, rate=1.5e-3, steps=1700, batch=24),  # starts from tiny
}
MASKED = ("tiny-mdlm",)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on problem texts: common words and operators are one token, so is each digit."""
    core = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([split, level])  # pyright: ignore[reportAttributeAccessIssue]
    core.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    problems = word_problems("train", 20_000, seed=0)
    core.train_from_iterator([f"{problem.question}\n{problem.solution}" for problem in problems], trainer)
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


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Create the untrained model of a recipe."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=recipe.inner,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=USER,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, bos_token_id=USER, eos_token_id=END, pad_token_id=PAD
    )
    return model


def encode(problem: Problem, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[float]]:
    """Return the token ids of a whole exchange and their loss weights."""
    prompt = tokenizer.encode(f"<|user|>{problem.question}<|assistant|>")
    answer = tokenizer.encode(f"{problem.solution}<|end|>")
    return prompt + answer, [QUESTION_WEIGHT] * len(prompt) + [1.0] * len(answer)


def drill(rng: random.Random, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[float]]:
    """Return the ids of random true equations after an empty question; only the results are learned."""
    ids = tokenizer.encode("<|user|><|assistant|>")
    weights = [0.0] * len(ids)
    for _ in range(DRILL_LINES):
        left, right = rng.randint(2, LIMIT - 10), rng.randint(2, 150)
        kind = rng.choice("++--***/")
        if kind == "+":
            right = rng.randint(2, LIMIT - left)
        elif kind == "-":
            left, right = max(left, right) + 1, min(left, right)
        elif kind == "*":
            left, right = rng.choice(
                [(rng.randint(*GROUPS), rng.randint(*GROUP_SIZE)), (rng.randint(4, LIMIT // 5), rng.randint(2, 5))]
            )
        else:
            right = rng.randint(2, 5)
            left = right * rng.randint(2, LIMIT // right)
        result = {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[kind]
        shown, learned = tokenizer.encode(f"{left} {kind} {right} = "), tokenizer.encode(f"{result}\n")
        ids += shown + learned
        weights += [0.0] * len(shown) + [1.0] * len(learned)
    return ids, weights


def row_groups(tokenizer: PreTrainedTokenizerFast, size: int, seed: int) -> Iterator[list[tuple[list[int], list[float]]]]:
    """Yield `size` rows of token ids and loss weights without end; rows of similar length come together."""
    order = random.Random(seed)
    chunk = 0
    while True:
        drills = int(CHUNK * DRILL_SHARE)
        problems = word_problems("train", CHUNK - drills, seed=1_000_003 * (seed + 1) + chunk)
        rows = [encode(problem, tokenizer) for problem in problems]
        rows += [drill(order, tokenizer) for _ in range(drills)]
        order.shuffle(rows)
        rows.sort(key=lambda row: len(row[0]))
        starts = list(range(0, CHUNK - size + 1, size))
        order.shuffle(starts)
        yield from (rows[start : start + size] for start in starts)
        chunk += 1


def batches(tokenizer: PreTrainedTokenizerFast, size: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (ids, loss weights) [size, columns] without end, padded."""
    for group in row_groups(tokenizer, size, seed):
        width = max(len(ids) for ids, _ in group)
        ids = torch.full((size, width), PAD)
        weights = torch.zeros(size, width)
        for i, (row, weight) in enumerate(group):
            ids[i, : len(row)] = torch.tensor(row)
            weights[i, : len(row)] = torch.tensor(weight)
        yield ids, weights


def learning_rate(progress: float) -> float:
    """Warm up, stay flat, then fall linearly to zero; a factor in [0, 1] of the recipe's rate."""
    return min(1.0, progress / WARMUP, max(0.0, (1 - progress) / (1 - DECAY_FROM)))


def weighted_loss(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the weighted next-token loss and, for the curve, the plain loss on answer tokens."""
    logits = model(input_ids=ids[:, :-1]).logits
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    weights = weights[:, 1:]
    answer = (weights == 1).float()
    return (losses * weights).sum() / weights.sum(), float((losses.detach() * answer).sum() / answer.sum())


@torch.inference_mode()
def sample(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: list[str], seed: int) -> list[str]:
    """Draw one solution for each question at temperature 1 from the full softmax."""
    torch.manual_seed(seed)
    model.eval()
    texts = [""] * len(questions)
    prompts = [tokenizer.encode(f"<|user|>{question}<|assistant|>") for question in questions]
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(by_length), 100):
        rows = by_length[start : start + 100]
        width = max(len(prompts[i]) for i in rows)
        ids = torch.tensor([[PAD] * (width - len(prompts[i])) + prompts[i] for i in rows])
        mask = ids.ne(PAD).long()
        out = model.generate(  # pyright: ignore[reportAttributeAccessIssue]
            input_ids=ids, attention_mask=mask, max_new_tokens=96
        )
        for i, row in zip(rows, out[:, width:].tolist(), strict=True):
            if END in row:
                texts[i] = str(tokenizer.decode(row[: row.index(END)]))
    model.train()
    return texts


@dataclass(frozen=True)
class Finished:
    """A text as the finished draft that a reward reads."""

    text: str
    finish: Literal["stop", "length"] = "stop"


def final_answer(text: str) -> str:
    """Return what follows the last `####`, or nothing."""
    return text.rpartition("####")[2].strip() if "####" in text else ""


def interval(right: int, total: int) -> list[float]:
    """95 % Wilson interval of a share."""
    z, share = 1.96, right / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return [round(middle - half, 4), round(middle + half, 4)]


def report(folder: Path, seed: int) -> dict:
    """Measure a saved model: accuracy, what the checker sees, and majority and best of several drafts."""
    problems = word_problems("test", TEST_PROBLEMS, seed=seed)
    texts = solve(folder, [problem.question for problem in problems], seed=seed + 1)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    pairs = list(zip(problems, texts, strict=True))
    is_right = [final_answer(text) == problem.answer for problem, text in pairs]
    is_marked = [score < 1 for score in Arithmetic()("", [Finished(text) for text in texts])]
    right = sum(is_right)
    return {
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "test_problems": len(pairs),
        "accuracy": right / len(pairs),
        "accuracy_interval": interval(right, len(pairs)),
        "accuracy_by_steps": {n: round(share_right([pair for pair in pairs if pair[0].steps == n]), 4) for n in STEPS},
        "wrong": len(pairs) - right,
        "wrong_caught_by_checker": sum(marked and not good for marked, good in zip(is_marked, is_right, strict=True)),
        "right_but_marked_down": sum(marked and good for marked, good in zip(is_marked, is_right, strict=True)),
        "mean_answer_tokens": round(sum(len(tokenizer.encode(text)) + 1 for text in texts) / len(texts), 2),
        **votes(folder, problems[:VOTE_PROBLEMS], seed + 2),
        "examples": [{**asdict(problem), "sampled": text} for problem, text in pairs[:5]],
    }


def share_right(pairs: list[tuple[Problem, str]]) -> float:
    """Share of sampled texts whose final answer is exact."""
    return sum(final_answer(text) == problem.answer for problem, text in pairs) / max(1, len(pairs))


def votes(folder: Path, problems: list[Problem], seed: int) -> dict:
    """Accuracy of one draft, of the majority answer and of the checker's favourite among several drafts."""
    questions = [problem.question for problem in problems for _ in range(VOTE_DRAFTS)]
    texts = solve(folder, questions, seed)
    checker = Arithmetic()
    plain, majority, best, any_right = 0, 0, 0, 0
    for i, problem in enumerate(problems):
        drafts = [Finished(text) for text in texts[i * VOTE_DRAFTS : (i + 1) * VOTE_DRAFTS]]
        answers = [final_answer(draft.text) for draft in drafts]
        scores = checker(problem.question, drafts)
        plain += answers.count(problem.answer)
        any_right += problem.answer in answers
        majority += Counter(answers).most_common(1)[0][0] == problem.answer
        best += answers[scores.index(max(scores))] == problem.answer
    count = len(problems)
    return {
        "vote_problems": count,
        "vote_drafts": VOTE_DRAFTS,
        "plain": plain / (count * VOTE_DRAFTS),
        "majority": majority / count,
        "majority_interval": interval(majority, count),
        "best_by_checker": best / count,
        "best_by_checker_interval": interval(best, count),
        "any_right": any_right / count,
    }


def build_optimizers(model: torch.nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the weight matrices, which here needs about half the tokens of AdamW, and AdamW for the rest."""
    matrices = [value for key, value in model.named_parameters() if value.ndim == 2 and "embed" not in key]
    others = [value for key, value in model.named_parameters() if value.ndim != 2 or "embed" in key]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY),
    ]


def parts(
    name: str, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, seed: int, models: Path, resume: bool
) -> tuple[Any, Iterator[tuple[torch.Tensor, torch.Tensor]], Callable[..., tuple[torch.Tensor, float]]]:
    """The model of a recipe as training finds it, its batches without end, and its loss."""
    if name not in MASKED:
        return build_model(recipe, tokenizer), batches(tokenizer, recipe.batch, seed), weighted_loss
    model = tiny_masked.read(models / name) if resume else tiny_masked.build_model(models / "tiny", tokenizer)
    rows = row_groups(tokenizer, recipe.batch, seed)
    return model, tiny_masked.masked_batches(rows, tokenizer, QUESTION_WEIGHT, seed), tiny_masked.masked_loss


def solve(folder: Path, questions: list[str], seed: int) -> list[str]:
    """Draw one solution for each question from a saved model, at temperature 1."""
    if not questions:
        return []
    if folder.name in MASKED:
        return tiny_masked.sample(folder, questions, seed)
    return sample(LlamaForCausalLM.from_pretrained(folder), PreTrainedTokenizerFast.from_pretrained(folder), questions, seed)


def train(name: str, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> dict:
    """Train one model, saving a checkpoint and a point of the curve at regular intervals; return its record."""
    torch.manual_seed(args.seed)
    model, stream, loss_of = parts(name, recipe, tokenizer, args.seed, args.out, args.resume)
    optimizers = build_optimizers(model, recipe.rate)
    held_out = word_problems("test", args.curve_problems, seed=args.seed + 100)
    began, cpu, step, tokens, progress, next_mark = time.time(), time.process_time(), 0, 0, 0.0, 1
    recent: list[float] = []
    curve: list[dict] = []
    model.train()
    while progress < 1:
        ids, weights = next(stream)
        rate = recipe.rate * learning_rate(max(progress, 0.5 / recipe.steps))
        recent.append(update(model, optimizers, rate, *loss_of(model, ids, weights)))
        step, tokens = step + 1, tokens + int(ids.reshape(len(ids), -1, ids.shape[-1])[:, 0].ne(PAD).sum())
        minutes = (time.time() - began) / 60
        progress = max(step / recipe.steps, minutes / args.minutes)
        if progress >= next_mark / EVALUATIONS:
            next_mark = int(progress * EVALUATIONS) + 1
            point = {"step": step, "tokens": tokens, "minutes": round(minutes, 2)}
            point["answer_loss"] = round(sum(recent) / len(recent), 4)
            recent = []
            save(model, tokenizer, args.out / name)
            if held_out:
                texts = solve(args.out / name, [problem.question for problem in held_out], seed=0)
                point["accuracy"] = share_right(list(zip(held_out, texts, strict=True)))
            curve.append(point)
            print(name, point, flush=True)
    return {
        "recipe": asdict(replace(recipe, steps=step)),
        "seed": args.seed,
        "tokens": tokens,
        "train_minutes": round((time.time() - began) / 60, 2),
        "train_cpu_minutes": round((time.process_time() - cpu) / 60, 2),
        "curve": curve,
    }


def update(
    model: torch.nn.Module, optimizers: list[torch.optim.Optimizer], rate: float, loss: torch.Tensor, answer_loss: float
) -> float:
    """Take one training step down `loss`; return the loss on answer tokens before it."""
    for group in [group for optimizer in optimizers for group in optimizer.param_groups]:
        group["lr"] = rate
    model.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return answer_loss


def save(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write an ordinary checkpoint folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def read_results(path: Path) -> dict:
    """Load the records of earlier runs, if there are any."""
    return json.loads(path.read_text()) if path.exists() else {}


def write_results(name: str, record: dict, path: Path) -> None:
    """Store a model's record next to those of the others and redraw the plot."""
    records = read_results(path) | {name: record}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, indent=1) + "\n")
    import matplotlib  # only the plot needs it

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5))
    for label, entry in records.items():
        millions = [point["tokens"] / 1e6 for point in entry.get("curve", [])]
        for axis, key in zip(axes, ("answer_loss", "accuracy"), strict=True):
            axis.plot(millions, [point.get(key, math.nan) for point in entry.get("curve", [])], marker=".", label=label)
    for axis, title in zip(axes, ("loss per answer token", "accuracy at temperature 1"), strict=True):
        axis.set(xlabel="million tokens seen", title=title)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path.with_suffix(".png"), dpi=120)
    pyplot.close(figure)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the tiny models that ship with exptilt.")
    parser.add_argument("--out", type=Path, default=RESULTS.parents[1] / "exptilt/models", help="parent of the model folders")
    parser.add_argument("--results", type=Path, default=RESULTS / "train_tiny.json", help="where the record goes")
    parser.add_argument("--model", choices=[*RECIPES, "all"], default="all")
    parser.add_argument("--mdlm", dest="model", action="store_const", const="tiny-mdlm", help="short for --model tiny-mdlm")
    parser.add_argument("--resume", action="store_true", help="go on from the saved tiny-mdlm; give another --seed")
    parser.add_argument("--curve-problems", type=int, default=CURVE_PROBLEMS, help="problems per point of the curve")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="optimizer steps instead of the recipe's")
    parser.add_argument("--minutes", type=float, default=90.0, help="time limit of each model, decay included")
    parser.add_argument("--evaluate", action="store_true", help="only measure the saved models again")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Train the chosen models and print what came out."""
    args = arguments()
    torch.set_num_threads(args.threads)
    for name in RECIPES if args.model == "all" else [args.model]:
        tokenizer = build_tokenizer()
        if name in MASKED:
            tokenizer = tiny_masked.add_mask(tokenizer)
        recipe = replace(RECIPES[name], steps=args.steps or RECIPES[name].steps)
        record = read_results(args.results).get(name, {}) if args.evaluate else train(name, recipe, tokenizer, args)
        record |= report(args.out / name, args.seed + 200)
        write_results(name, record, args.results)
        print(json.dumps({key: value for key, value in record.items() if key != "curve"}, indent=1), flush=True)


if __name__ == "__main__":
    main()
