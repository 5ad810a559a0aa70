"""ETS by exptilt against ETS written straightforwardly on `transformers.generate`, as the papers' code does it.

    python bench/guidance.py                                                   # the bundled tiny model, its word problems
    python bench/guidance.py --model gguf:FILE --task gsm-symbolic --cap 256 --block 64 --plain-questions 3 --rounds 1
    python bench/guidance.py --model gguf:FILE --task gsm-symbolic --cap 256 --block 64 --shots 8 --plain-questions 1 --rounds 1
    python bench/guidance.py --parts                                           # where the factor comes from

Same model, M, K, block, cap and reward, one process, in turn for several rounds. The straightforward version is a model of
transformers as it loads: one question at a time, M candidate rows and then M·K rollout rows, each batch until its longest
row ends, everything prefilled anew at each call. exptilt has `--flight` questions in flight.

Printed and kept in bench/results: seconds per question and their ratio round by round; the *ceiling*, which is the seconds
that the drawn tokens would take at the engine's static-batch peak; the share of the time in steps that a static batch of
as many rows would have taken; and prefilled tokens over the fewest possible, each distinct beginning of a prompt once.
With --parts the ratio is measured again with one thing taken away at a time.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import exptilt as xt
from bench.against import timed
from bench.record import RESULTS, record
from exptilt.draft import Draft
from exptilt.evaluation.tasks import load_task
from exptilt.keys import Key

if TYPE_CHECKING:
    from exptilt.engines.language import LanguageEngine

REWARD, BETA = xt.rewards.Arithmetic(), 0.1
STATIC_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 192, 256)


@dataclass(frozen=True)
class Run:
    """One measurement of exptilt: seconds and tokens of all its questions together."""

    questions: int
    seconds: float
    generated: int
    prefilled: int
    fewest: int  # tokens that must be prefilled
    mean_rows: float
    static_seconds: float  # what its steps would have taken in static batches of as many rows
    ceiling_seconds: float  # what its tokens would have taken at the static peak
    correct: float


def plain_ets(model: Any, tokenizer: Any, question: str, options: argparse.Namespace) -> str:
    """One question: M rows, then M·K rows, no cache kept between calls."""
    text = tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    pad = tokenizer.pad_token_id

    def generate(rows: Any, tokens: int) -> Any:
        mask = (rows != pad).long()
        law = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        return model.generate(rows, attention_mask=mask, max_new_tokens=tokens, pad_token_id=pad, **law)

    def answers(rows: Any) -> list[str]:
        return tokenizer.batch_decode(rows[:, prompt.shape[1] :], skip_special_tokens=True)

    chain, generator = prompt, np.random.default_rng(0)
    for step in range(math.ceil(options.cap / options.block)):
        left = options.cap - step * options.block
        candidates = generate(chain.repeat(options.candidates, 1), min(options.block, left))
        rollouts = candidates.repeat_interleave(options.rollouts, 0)
        if left > options.block:
            rollouts = generate(rollouts, left - options.block)
        drafts = [Draft(question, text=text, finish="stop") for text in answers(rollouts)]
        energies = np.exp(np.array(REWARD(question, drafts)) / BETA).reshape(options.candidates, options.rollouts).mean(axis=1)
        pick = int(generator.choice(options.candidates, p=energies / energies.sum()))
        chain = candidates[pick : pick + 1]
        if tokenizer.eos_token_id in chain[0, prompt.shape[1] :]:
            break
    return answers(chain)[0]


@contextmanager
def watched(engine: LanguageEngine[Any]) -> Iterator[list[int]]:
    """The number of rows of each step taken meanwhile."""
    decoder, rows = engine.backend.decoder, []
    step = decoder.step

    def counting() -> Any:
        rows.append(len(decoder.rows))
        return step()

    decoder.step = counting
    try:
        yield rows
    finally:
        del decoder.step


def static_seconds(engine: LanguageEngine[Any], prompts: Sequence[str], options: argparse.Namespace) -> dict[int, float]:
    """Seconds of one step of a static batch, by rows: like those of ETS half-way, and none of them ends.

    The rows stand on the prompts in flight, each on one of M continuations of half the cap, as rollouts do.
    """
    from exptilt.engines.hf.prefixes import Prefixes
    from exptilt.engines.row import Context, Row

    weights, generator = engine.backend, np.random.default_rng(0)
    ends, weights.text.ends = weights.text.ends, frozenset()
    begun = generator.integers(0, weights.network.vocabulary, (options.candidates, options.cap // 2)).tolist()
    encoded = [engine.prompt_tokens(prompt) for prompt in prompts[: options.flight]]
    contexts = [Context(ids, (*ids, *some)) for some in begun for ids in encoded]
    steps, seconds = min(options.cap // 2, 24), {}
    try:
        for count in STATIC_ROWS:
            rows = [Row(contexts[i % len(contexts)], engine.sampling, Key(0, count, i), options.cap) for i in range(count)]
            weights.decoder.join(rows)
            times = [timed(weights.decoder.step) for _ in range(steps)]
            weights.decoder.leave(rows)
            seconds[count] = float(np.median(times[steps // 2 :]))
    finally:
        weights.text.ends = ends
        weights.network.prefixes = Prefixes(weights.network.prefixes.memory)  # what comes after must prefill for itself
    return seconds


def guided(engine: LanguageEngine[Any], task: Any, options: argparse.Namespace, static: dict[int, float], seed: int) -> Run:
    sampler = xt.ETS(options.candidates, options.rollouts, options.block, returns="chain")
    target = xt.Target(engine, REWARD, BETA)
    prompts = task.prompts
    with watched(engine) as rows:
        began = time.monotonic()
        results = list(xt.run(target, prompts, sampler, seed=seed, concurrency=options.flight))
        seconds = time.monotonic() - began
    answered = [result for result in results if isinstance(result, xt.Result)]
    if len(answered) < len(results):
        raise SystemExit(f"{len(results) - len(answered)} of {len(results)} questions have no answer: see {results}")
    usage = [result.usage.reference for result in answered]
    generated, prefilled = sum(work.generated for work in usage), sum(work.prompt for work in usage)
    encoded = [engine.prompt_tokens(prompt)[:-1] for prompt in prompts]
    per_row = np.interp(rows, list(static), list(static.values()))
    return Run(
        questions=len(prompts),
        seconds=seconds,
        generated=generated,
        prefilled=prefilled,
        fewest=len({ids[: n + 1] for ids in encoded for n in range(len(ids))}),
        mean_rows=float(np.mean(rows)),
        static_seconds=float(per_row.sum()),
        ceiling_seconds=generated * min(seconds / rows for rows, seconds in static.items()),
        correct=float(np.mean([task.correct(r.text, ref) for r, ref in zip(answered, task.references, strict=True)])),
    )


@contextmanager
def without(part: str) -> Iterator[None]:
    """Take one thing away from engines that are loaded meanwhile."""
    from exptilt.engines.hf import fast, network

    place, name, other = {
        "weights laid out for oneDNN": (fast, "pack", lambda model: None),
        "shared trunks in attention": (network, "_can_share", lambda model: False),
    }[part]
    kept = getattr(place, name)
    setattr(place, name, other)
    try:
        yield
    finally:
        setattr(place, name, kept)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    engine: Any = xt.load(options.model, max_tokens=options.cap)
    import torch  # after load, which asks OpenMP for short spinning while torch is not yet there
    import transformers

    torch.manual_seed(0)
    tokenizer = engine.backend.text.tokenizer
    plain = transformers.AutoModelForCausalLM.from_pretrained(_folder(options.model), dtype=torch.float32)
    rounds: list[dict[str, Any]] = []
    for number in range(options.rounds):
        task = questions(options, number)
        static = static_seconds(engine, task.prompts, options)
        run = guided(engine, task, options, static, number)
        asked = task.prompts[: options.plain_questions]
        plain_seconds = [timed(lambda question=question: plain_ets(plain, tokenizer, question, options)) for question in asked]
        rounds.append({"run": asdict(run), "static": static, "plain": plain_seconds})
        mine = run.seconds / run.questions
        theirs = f"generate {np.mean(plain_seconds):.3f}, ratio {np.mean(plain_seconds) / mine:.1f}; " if plain_seconds else ""
        print(
            f"exptilt {mine:.3f} s/question, {theirs}"
            f"ceiling {run.ceiling_seconds / run.seconds:.0%}, steps at the same rows {run.static_seconds / run.seconds:.0%}, "
            f"{run.mean_rows:.0f} rows on average, {run.generated / run.seconds:.0f} tokens/s, "
            f"prefill {run.prefilled / run.fewest:.3f} of the fewest, right {run.correct:.0%}",
            flush=True,
        )
    ours = [each["run"]["seconds"] / each["run"]["questions"] for each in rounds]
    ratios = [float(np.mean(each["plain"]) / mine) for each, mine in zip(rounds, ours, strict=True) if each["plain"]]
    if ratios:
        print(f"ratio: median {np.median(ratios):.1f}, from {min(ratios):.1f} to {max(ratios):.1f}", flush=True)
    found: dict[str, Any] = {"threads": torch.get_num_threads(), "ratios": ratios, "rounds": rounds}
    if options.parts:
        found["without"] = parts(options, ours)
    return found


def parts(options: argparse.Namespace, whole: Sequence[float]) -> dict[str, float]:
    """How many times as long a question takes with one thing taken away, and with no other question in flight."""
    slower: dict[str, float] = {}
    alone = argparse.Namespace(**{**vars(options), "flight": 1})
    cases: list[tuple[str, str | None, argparse.Namespace]] = [
        ("weights laid out for oneDNN", "weights laid out for oneDNN", options),
        ("shared trunks in attention", "shared trunks in attention", options),
        ("other questions in flight", None, alone),
    ]
    for label, part, how in cases:
        with without(part) if part is not None else _nothing():
            engine: Any = xt.load(f"hf:{_folder(options.model)}", max_tokens=options.cap)
        task = questions(options, 0)
        run = guided(engine, task, how, {1: 1.0}, 0)
        slower[label] = run.seconds / run.questions / whole[0]
        engine.backend.close()
        print(f"without {label}: {slower[label]:.2f} times as long", flush=True)
    return slower


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def questions(options: argparse.Namespace, seed: int) -> Any:
    """The task's questions, each after `--shots` solved ones, the same before all."""
    drawn = load_task(options.task, problems=options.questions + options.shots, seed=seed)
    shots = zip(drawn.prompts[options.questions :], drawn.references[options.questions :], strict=True)
    before = "".join(f"Question: {question}\nAnswer: {reference}\n\n" for question, reference in shots)
    asked = [f"{before}Question: {prompt}\nAnswer:" if before else prompt for prompt in drawn.prompts[: options.questions]]
    changed = {"prompts": tuple(asked), "references": drawn.references[: options.questions]}
    return type(drawn)(**{**{name: getattr(drawn, name) for name in drawn.__dataclass_fields__}, **changed})


def _folder(model: str) -> Path:
    """Where transformers reads this model from."""
    from exptilt.engines.hf.loading import converted

    kind, _, place = model.partition(":")
    if kind == "gguf":
        return converted(Path(place))
    return Path(place) if kind == "hf" else Path(xt.__file__).parent / "models" / model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--task", default="word-problems")
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument(
        "--plain-questions", type=int, help="of them, how many the straightforward version answers; all by default"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flight", type=int, default=8)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--rollouts", type=int, default=3)
    parser.add_argument("--block", type=int, default=16)
    parser.add_argument("--cap", type=int, default=64)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--label", default="guidance-tiny", help="name of the results file")
    options = parser.parse_args()
    if options.plain_questions is None:
        options.plain_questions = options.questions
    found = measure(options)
    settings = {**vars(options), "model": options.model.rsplit("/", 1)[-1]}
    record(RESULTS / f"{options.label}.json", {"settings": settings, **found})


if __name__ == "__main__":
    main()
