"""Where the time of a decoding step goes, by transformers' modules and by the lean step: `python bench/step.py MODEL`.

    python bench/step.py                                              # tiny
    python bench/step.py gguf:SmolLM2-135M-Instruct.Q4_1.gguf --dtypes float32 bfloat16

Rows of one prompt draw a token each, after different tokens, so that none are merged. A step is timed whole, by transformers and
by the lean step in turn; then its parts alone, on states of the same shapes: all products, and attention over what the slots
hold. Medians over `--steps` steps, in milliseconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import exptilt as xt
from bench.against import WORDS
from bench.record import RESULTS, machine, record
from exptilt.engines.hf.fast.attention import attend_shared
from exptilt.engines.hf.fast.linear import round_up
from exptilt.engines.row import Context


def filled(network: Any, ids: tuple[int, ...], rows: int) -> Any:
    """Slots of rows on the trunk of a prompt, each with 16 columns of its own."""
    [known], _ = network.prefill([Context(ids, ids)])
    slots = network.slots(share=True)
    trunk = slots.trunks.add(ids[:-1], known)
    slots.reserve(rows, 1)
    for _ in range(rows):
        slots.join(known, len(ids) - 1, trunk=trunk)
    for _ in range(16):
        fed(network, slots, rows)
        slots.end += 1
    return slots


def fed(network: Any, slots: Any, rows: int) -> None:
    """A step whose column the next one takes again, so that all are alike."""
    slots.reserve(rows, 0)
    network.feed(slots, torch.arange(100, 100 + rows)[:, None], keep=1)
    slots.end -= 1


def milliseconds(work: Callable[[], None], steps: int) -> float:
    taken = []
    for _ in range(steps):
        began = time.perf_counter()
        work()
        taken.append(1e3 * (time.perf_counter() - began))
    return float(np.median(taken))


@torch.inference_mode()
def parts(network: Any, slots: Any, rows: int, steps: int) -> dict[str, float]:
    """Products and attention of a step, by themselves."""
    lean = network.lean
    states = torch.randn(round_up(rows), lean.embedding.shape[1], dtype=lean.embedding.dtype)
    attended = lean.heads * lean.size

    def products() -> None:
        for layer in lean.layers:
            layer.output(layer.read(states)[:, :attended].contiguous())
            gate, up = layer.gates(states).chunk(2, -1)
            layer.down(gate * up)
        lean.head(states)

    shared, hidden = slots.shared(), slots.inputs(1)["attention_mask"]
    places = slots.places(1)
    query = torch.randn(rows, lean.heads, lean.size, dtype=states.dtype)

    def attention() -> None:
        for number, place in enumerate(places):
            attend_shared(query, place.keys, place.values, hidden, shared, number)

    return {"products": milliseconds(products, steps), "attention": milliseconds(attention, steps)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 24, 64])
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--label", default="step-tiny", help="name of the results file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.model}, {options.threads} threads, {machine()}; milliseconds a step")
    print(
        f"{'dtype':10}{'rows':>5}{'modules':>9}{'lean':>8}{'ratio':>7}{'from':>7}{'to':>6}{'products':>10}{'attention':>11}{'rest':>7}"
    )
    table = []
    for dtype in options.dtypes:
        engine: Any = xt.load(options.model, dtype=dtype)
        network, lean = engine.backend.network, engine.backend.network.lean
        for rows in options.rows:
            slots = filled(network, engine.prompt_tokens(WORDS), rows)
            rounds = []
            for _ in range(options.rounds):
                for network.lean in (None, lean):
                    rounds.append(milliseconds(lambda: fed(network, slots, rows), options.steps))  # noqa: B023 - called at once
            modules, leans = rounds[::2], rounds[1::2]
            ratios = [one / other for one, other in zip(modules, leans, strict=True)]
            row = {"dtype": dtype, "rows": rows, "modules": float(np.median(modules)), "lean": float(np.median(leans))}
            row |= {"ratio": float(np.median(ratios)), "from": min(ratios), "to": max(ratios)}
            row |= parts(network, slots, rows, options.steps)
            row["rest"] = row["lean"] - row["products"] - row["attention"]
            table.append(row)
            told = "{dtype:10}{rows:5}{modules:9.2f}{lean:8.2f}{ratio:7.2f}{from:7.2f}{to:6.2f}"
            print((told + "{products:10.2f}{attention:11.2f}{rest:7.2f}").format(**row), flush=True)
        engine.backend.close()
    record(RESULTS / f"{options.label}.json", {**vars(options), "model": Path(options.model).name, "table": table})


if __name__ == "__main__":
    main()
