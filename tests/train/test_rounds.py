"""Rounds of drawing and fitting, and the command: the same target at every round, resumed where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.cli import main
from exptilt.running.lines import stored_population
from exptilt.running.store import read_store
from exptilt.train import Fit
from tests.train.toys import drawn, ones, table

pytest.importorskip("trl")

from exptilt.train.rounds import align_in_rounds

PROMPTS = ["Tom has 3 apples and buys 4 more. How many has he?", "Ann has 9 pens and loses 2. How many are left?"]
REWARD = """
def odd(prompt, drafts):
    return [float(sum(token % 2 for token in draft.tokens)) / 2 for draft in drafts]
"""


def odd(prompt: Any, drafts: Any) -> list[float]:
    return [float(sum(token % 2 for token in draft.tokens)) / 2 for draft in drafts]


def effective(store: Path) -> float:
    """The mean effective sample size of the populations in a results file, as a share of their draws."""
    populations = [stored_population(line) for line in read_store(store)[1].values()]
    return float(np.mean([population.ess / len(population) for population in populations if population is not None]))


def test_each_round_draws_from_the_model_of_the_last_for_the_same_target(tmp_path: Path) -> None:
    """Its weights carry p/q, so log Ẑ stays that of p; they grow even as the model comes near π. With exp(r/β) alone they would
    be as uneven as before, and every round would tilt what is tilted already."""
    with xt.load("tiny", max_tokens=3, top_k=3, temperature=1.3) as engine:
        target = xt.Target(engine, odd, 0.3)
        fit = Fit(epochs=40, batch=64, learning_rate=5e-4)
        last = align_in_rounds(target, PROMPTS, tmp_path / "out", rounds=2, draws=200, fit=fit)
    first, second = (tmp_path / "out" / f"round-{number}" / "drawn.jsonl" for number in (1, 2))
    assert effective(second) > effective(first) + 0.1
    log_z = [{name: line["log_z"] for name, line in read_store(store)[1].items()} for store in (first, second)]
    assert log_z[0] == pytest.approx(log_z[1], abs=0.25)
    assert last.model == f"hf:{tmp_path / 'out' / 'round-2' / 'model'}"
    assert read_store(second)[0]["proposal"]["model"].endswith("round-1/model")


def test_the_command_aligns_and_reads_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "odd.py").write_text(REWARD)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    reward = f"{tmp_path / 'odd.py'}:odd"
    words = ["train", "align", "tiny", str(tmp_path / "prompts.jsonl"), "--reward", reward, "--beta", "0.4", "--max-tokens", "3"]
    words += ["--draws", "8", "--out", str(tmp_path / "out"), "--epochs", "1"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.out == f"hf:{tmp_path / 'out' / 'round-1' / 'model'}\n"
    assert "median effective sample size" in said.err
    assert main(words) == 0
    assert capsys.readouterr().out == said.out
    assert main([*words[:-1], "2"]) == 2
    assert "other settings (there → here): fit.epochs: 1 → 2" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--form", "rlif"], "--form rlif needs --length and --beta"),
        (["--form", "rlif", "--length", "4", "--beta", "0.25"], "length·beta = 4·0.25 = 1 must be above 1"),
        (["--length", "4"], "--length belongs to --form rlif"),
        (["--batch", "8", "--rows", "3"], "rows=3 must divide batch=8"),
        (["--epochs", "0"], "epochs=0 must be a whole number of 1 or more"),
        (["--rank", "4"], "there is no option --rank"),
    ],
)
def test_flags_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: Any, said: str) -> None:
    store = drawn(tmp_path, table(), ones, 0.8, 20)
    assert main(["train", "align", "tiny", str(store), "--out", str(tmp_path / "out"), *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_help_is_that_of_the_kind(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, flag in {"align": "--form", "value": "--width", "reward": "--noise"}.items():
        with pytest.raises(SystemExit):
            main(["train", kind, "--help"])
        assert flag in capsys.readouterr().out
