"""ETS by exptilt against ETS written straightforwardly on `transformers.generate`, as the papers' code does it.

    python bench/ets_against_generate.py                                  # the bundled tiny model
    python bench/ets_against_generate.py --model hf:FOLDER-OR-ID --cap 256 --block 64 --candidates 8 --rollouts 3

Same model, same M, K, block and cap, same reward, one process, in turn for several rounds. The straightforward version
serves one question at a time, decodes M candidate rows and then M·K rollout rows, each batch until its longest row ends,
and prefills everything anew at each call. exptilt has `--flight` questions in flight. Prints seconds per question and their
ratio round by round, and the accuracy of both, which must agree within noise.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from typing import TYPE_CHECKING

import numpy as np

import exptilt as xt
from exptilt.core import Draft
from exptilt.evaluate import evaluate
from exptilt.word_problems import Problem, word_problems

if TYPE_CHECKING:
    import torch

    from exptilt.engines.hf import HFEngine


def plain_ets(engine: HFEngine, question: str, reward, options: argparse.Namespace, beta: float) -> str:
    """One question: M rows, then M·K rows, no cache kept between calls."""
    model, tokenizer = engine.weights.model, engine.weights.text.tokenizer
    text = tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    pad = tokenizer.pad_token_id

    def generate(rows: torch.Tensor, tokens: int) -> torch.Tensor:
        mask = (rows != pad).long()
        return model.generate(
            rows,
            attention_mask=mask,
            max_new_tokens=tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            pad_token_id=pad,
        )

    def answers(rows: torch.Tensor) -> list[str]:
        return tokenizer.batch_decode(rows[:, prompt.shape[1] :], skip_special_tokens=True)

    chain, generator = prompt, np.random.default_rng(0)
    for step in range(math.ceil(options.cap / options.block)):
        left = options.cap - step * options.block
        candidates = generate(chain.repeat(options.candidates, 1), min(options.block, left))
        rollouts = candidates.repeat_interleave(options.rollouts, 0)
        if left > options.block:
            rollouts = generate(rollouts, left - options.block)
        scores = np.array(reward(question, [Draft(question, text=text, finish="stop") for text in answers(rollouts)]))
        energies = np.exp(scores / beta).reshape(options.candidates, options.rollouts).mean(axis=1)
        pick = int(generator.choice(options.candidates, p=energies / energies.sum()))
        chain = candidates[pick : pick + 1]
        if tokenizer.eos_token_id in chain[0, prompt.shape[1] :]:
            break
    return answers(chain)[0]


def correct(text: str, reference: str) -> bool:
    return xt.answers.number(text) == reference


def round_of(
    engine: HFEngine, problems: list[Problem], options: argparse.Namespace, seed: int
) -> tuple[float, float, float, float]:
    """Seconds per question and accuracy: exptilt, then the straightforward version."""
    reward, beta = xt.rewards.Arithmetic(), 0.1
    sampler = xt.ETS(options.candidates, options.rollouts, options.block, returns="chain")
    questions, references = [problem.question for problem in problems], [problem.answer for problem in problems]
    target = xt.Target(engine, reward, beta)
    [score], _ = evaluate(
        target, questions, references, sampler, {"ETS": xt.draw}, correct, seed=seed, concurrency=options.flight
    )
    began = time.monotonic()
    right = [correct(plain_ets(engine, problem.question, reward, options, beta), problem.answer) for problem in problems]
    return score.seconds / len(problems), (time.monotonic() - began) / len(problems), score.accuracy, float(np.mean(right))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--problems", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flight", type=int, default=8)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--rollouts", type=int, default=3)
    parser.add_argument("--block", type=int, default=16)
    parser.add_argument("--cap", type=int, default=64)
    options = parser.parse_args()
    engine = xt.load(options.model, max_tokens=options.cap)
    import torch  # after load, which asks OpenMP for short spinning while torch is not yet there

    from exptilt.engines.hf import HFEngine

    assert isinstance(engine, HFEngine)
    torch.manual_seed(0)
    rows = []
    for number in range(options.rounds):
        rows.append(round_of(engine, word_problems("test", options.problems, seed=number), options, number))
        ours, theirs, right, other = rows[-1]
        print(
            f"exptilt {ours:.3f} s/question, generate {theirs:.3f}, ratio {theirs / ours:.1f}; right {right:.0%} and {other:.0%}"
        )
    ratios = [theirs / ours for ours, theirs, _, _ in rows]
    print(
        f"ratio: median {np.median(ratios):.1f}, from {min(ratios):.1f} to {max(ratios):.1f}; {platform.machine()}, "
        f"{torch.get_num_threads()} threads, M={options.candidates} K={options.rollouts} block={options.block} cap={options.cap}"
    )


if __name__ == "__main__":
    main()
