"""transformers' own continuous batching against exptilt's on the tiny model: `python bench/generate_batch.py [--rows 16]`.

Both draw one answer to each of the same word problems at temperature 1, all rows together. `generate_batch` pages its
key-values and attends by `paged|sdpa`; it is given the same weights in float32. Prints tokens per second of both.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import exptilt as xt
from exptilt.evaluation.tasks.word_problems import word_problems
from exptilt.keys import Key


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16)
    options = parser.parse_args()
    engine: Any = xt.load("tiny", max_tokens=64)
    import transformers  # after load, which asks OpenMP for short spinning while torch is not yet there

    questions = [problem.question for problem in word_problems("test", options.rows, seed=0)]
    starts = [engine.start(question) for question in questions]
    engine.extend(starts, [Key(1, i) for i in range(options.rows)])
    began = time.monotonic()
    drawn = sum(len(draft.tokens) for draft in engine.extend(starts, [Key(0, i) for i in range(options.rows)]))
    ours = drawn / (time.monotonic() - began)

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(Path(xt.__file__).parent / "models" / "tiny")
    config = transformers.GenerationConfig(
        max_new_tokens=64, do_sample=True, temperature=1.0, top_k=0, eos_token_id=3, pad_token_id=0
    )
    prompts = [list(engine.prompt_tokens(question)) for question in questions]
    began = time.monotonic()
    found = model.generate_batch(inputs=prompts, generation_config=config)
    theirs = sum(len(each.generated_tokens) for each in found.values()) / (time.monotonic() - began)
    print(f"{options.rows} rows: exptilt {ours:.0f} tokens/s, generate_batch {theirs:.0f}, ratio {ours / theirs:.1f}")


if __name__ == "__main__":
    main()
