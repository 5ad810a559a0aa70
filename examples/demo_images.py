"""One page of pictures: the bundled model of handwritten digits, guided by rewards over its denoising steps.

    python examples/demo_images.py           # `make demo-images`: about a minute on 2 cores

Plain samples, best-of-8 and two guided samplers draw every digit under a reward for symmetry. The results go into one HTML page
with the tree of every guided picture, and the answers into one sheet, a row for each method.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import exptilt as xt
from exptilt.pictures import pixels, png, sheet
from exptilt.report import write_report
from exptilt.rewards import Symmetry

METHODS = {
    "plain": (xt.Independent(1), xt.draw),
    "best-of-8": (xt.Independent(8), xt.best),
    "ets": (xt.ETS(candidates=4, block=5), xt.draw),
    "smc": (xt.SMC(particles=4, block=5), xt.draw),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/images"), help="the folder of the page, new or of an earlier run")
    out = parser.parse_args().out
    digits = [str(digit) for digit in range(10)]
    images = []
    with xt.load("digits") as engine:
        target = xt.Target(engine, Symmetry(), beta=0.02)
        for name, (sampler, select) in METHODS.items():
            results = xt.run(target, digits, sampler, select=select, store=out / f"{name}.jsonl", concurrency=10)
            answers = [result for result in results if isinstance(result, xt.Result)]
            forwards = sum(result.usage.reference.forwards for result in answers)
            reward = sum(result.reward or 0.0 for result in answers) / len(answers)
            print(f"{name:10} symmetry {reward:.3f}, {forwards:,} evaluations of the network")
            drafts = engine.drawn_again([result.draft for result in answers])  # pyright: ignore[reportAttributeAccessIssue]
            images += [image.repeat(8, 0).repeat(8, 1) for draft in drafts if (image := pixels(draft.output)) is not None]
    (out / "answers.png").write_bytes(png(sheet(images, across=10)))
    page = write_report(
        [out / f"{name}.jsonl" for name in METHODS], out / "report.html", title="Digits, the more symmetric the better"
    )
    print(f"{page} shows how each picture came about, {out / 'answers.png'} the answers, a row for each method")


if __name__ == "__main__":
    main()
