"""exptilt as a model of lm-evaluation-harness, on local task files: its own command and `exptilt eval` must agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from exptilt.cli import main
from exptilt.errors import ExptiltError
from tests.evaluation.harness_files import write_task

pytest.importorskip("lm_eval")
pytest.importorskip("transformers")

LAW = {"candidates": "2", "block": "24", "reward": "arithmetic", "beta": "0.1", "select": "draw", "seed": "0"}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))


def harness(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "exptilt.evaluation.lm_eval_model", *words], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_harness_and_exptilt_eval_give_the_same_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same ten problems in GSM8K's format, the same sampler and seed, through the two commands: one accuracy.

    The slowest test here: the harness's own command reads thousands of task files, 7 seconds of CPU.
    """
    problems = write_task(tmp_path, 10, asked="{{question}}")
    arguments = ",".join(["model=tiny", "sampler=ETS", *(f"{name}={value}" for name, value in LAW.items())])
    out, task = tmp_path / "out", ("--include_path", str(tmp_path), "--tasks", "local_gsm")
    harness("run", "--model", "exptilt", "--model_args", arguments, *task, "--output_path", str(out), "--log_samples")
    (file,) = out.rglob("results_*.json")
    theirs = json.loads(file.read_text())["results"]["local_gsm"]["exact_match,strict-match"]
    flags = [word for name, value in LAW.items() if name not in ("seed", "select") for word in (f"--{name}", value)]
    assert main(["eval", "tiny", "--task", "lm-eval:local_gsm", "--include", str(tmp_path), *flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    ours = next(score for score in found["scores"] if score["name"] == "ETS, draw")
    assert ours["accuracy"] == theirs
    (samples,) = out.rglob("samples_*.jsonl")
    assert len(samples.read_text().splitlines()) == 2 * len(problems)  # one line for each of the two filters
    assert 0 < theirs < 1  # a test that could tell nothing apart if all were right or none


class Request:
    """What the harness sends."""

    def __init__(self, prompt: str, **law: Any) -> None:
        self.args = (prompt, law)


def model(**more: Any) -> Any:
    from exptilt.evaluation.lm_eval_model import ExptiltLM

    return ExptiltLM(
        model="tiny", sampler="independent", n=2, reward="arithmetic", beta=0.5, batch_size=1, device="cuda:0", **more
    )


def test_requests_are_answered_in_their_order_by_their_own_law() -> None:
    """Requests of two laws at once, one of them repeated: each law holds for its own, and repetitions differ."""
    question = "Mia has 20 marbles. She picks up 11 more. How many marbles does Mia have now?"
    requests = [Request(question, until=["####"], max_gen_toks=40), Request(question, until=[], max_gen_toks=5)]
    requests += [Request(question, until=["####"], max_gen_toks=40) for _ in range(7)]
    lm = model()
    texts = lm.generate_until(requests)
    assert len(texts) == 9
    assert not any("####" in text for text in (texts[0], *texts[2:]))
    assert len(texts[1]) < min(len(text) for text in (texts[0], *texts[2:]))
    assert lm.generate_until(requests) == texts
    assert lm.generate_until(requests[:1]) == texts[:1]
    assert len({texts[0], *texts[2:]}) > 1


def test_a_cap_of_ones_own_goes_before_the_tasks() -> None:
    question = Request("Mia has 20 marbles. She picks up 11 more. How many marbles does Mia have now?", max_gen_toks=40)
    assert len(model(max_tokens=3).generate_until([question])[0]) < len(model().generate_until([question])[0])


def test_results_are_kept_in_a_folder(tmp_path: Path) -> None:
    request: Any = Request("Mia has 20 marbles. She picks up 11 more. How many marbles does Mia have now?", max_gen_toks=8)
    first = model(store=str(tmp_path)).generate_until([request])
    (file,) = tmp_path.glob("*.jsonl")
    before = file.read_bytes()
    assert model(store=str(tmp_path)).generate_until([request]) == first
    assert file.read_bytes() == before


def test_a_stop_rule_is_a_model_argument(tmp_path: Path) -> None:
    """It was taken for a setting of the sampler, which has none of that name."""
    request: Any = Request("Mia has 20 marbles. She picks up 11 more. How many marbles does Mia have now?", max_gen_toks=8)
    model(until="reward:0", batch=1, store=str(tmp_path)).generate_until([request])
    (file,) = tmp_path.glob("*.jsonl")
    line = json.loads(file.read_text().splitlines()[-1])
    assert (line["stopped"], len(line["population"]["rows"])) == ("until", 1)


def test_methods_by_their_usual_names_need_no_more_than_they_take() -> None:
    """A majority needs no reward and no β; what is missing elsewhere is said in the words of model arguments."""
    from exptilt.evaluation.lm_eval_model import ExptiltLM

    request: Any = Request("Mia has 20 marbles. She picks up 11 more. How many marbles does Mia have now?", max_gen_toks=8)
    (text,) = ExptiltLM(model="tiny", sampler="majority", n=3).generate_until([request])
    inside = ExptiltLM(model="tiny", sampler="metropolised", inner="independent", n=2, steps=1, reward="arithmetic", beta=1)
    assert len(inside.generate_until([request])) == len([text]) == 1
    lacking: list[dict[str, Any]] = [{}, {"reward": "arithmetic"}, {"beta": 1.0}]
    for more in lacking:
        with pytest.raises(ExptiltError, match="lack reward or beta: give them, such as reward=agreement"):
            ExptiltLM(model="tiny", **more)


def test_what_the_model_cannot_do_is_refused() -> None:
    with pytest.raises(ExptiltError, match="generating variant"):
        model().loglikelihood([Request("a")])
    with pytest.raises(ExptiltError, match="the sampler independent has no setting fuel: it has n, batch"):
        model(fuel="coal")
