"""Model rewards on the command line: KIND:NAME?OPTION=VALUE."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exptilt import answers
from exptilt.cli import main
from exptilt.engines import TableEngine
from exptilt.errors import UsageError
from exptilt.names import find_reward
from exptilt.rewards import FORMATS, ClassifierReward, Judge, PairwiseJudge, ProcessReward
from tests.rewards.reward_models import save


def reward(spec: str) -> Any:
    return find_reward(spec, answers.number)


def test_local_models_by_spec(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    found = reward(f"classifier:{save(tmp_path / 'a')}?max_length=64&dtype=bfloat16")
    assert isinstance(found, ClassifierReward)
    assert (found.max_length, found.dtype) == (64, "bfloat16")
    steps = reward(f"process:{save(tmp_path / 'b', 'token', labels=2)}?reduce=last&marker=;")
    assert isinstance(steps, ProcessReward)
    assert (steps.reduce, steps.format) == ("last", replace(FORMATS["trl"], marker=";"))
    shepherd = reward(f"process:{save(tmp_path / 'c', 'causal')}?format=math-shepherd&separator=;")
    assert shepherd.format == replace(FORMATS["math-shepherd"], separator=";")
    with pytest.raises(ValueError, match="format='best' is unknown"):
        reward(f"process:{tmp_path / 'b'}?format=best&marker=;")


def test_judges_by_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[str, dict[str, Any]]] = []

    def load(name: str, **law: Any) -> TableEngine:
        loaded.append((name, law))
        return TableEngine(lambda prefix: (0.5, 0.5), 3, 1, symbols=("Score: 7", ""))

    monkeypatch.setattr("exptilt.names.targets.load", load)
    found = reward("judge:hf:some/model?votes=3&temperature=0.5&max_tokens=64")
    assert isinstance(found, Judge)
    assert (found.votes, loaded) == (3, [("hf:some/model", {"temperature": 0.5, "max_tokens": 64})])
    pairs = reward("pairwise:tiny?rivals=2&tries=5")
    assert isinstance(pairs, PairwiseJudge)
    assert (pairs.rivals, pairs.tries) == (2, 5)


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="classifier:a has no option votes: it has batch_tokens, device,"):
        reward("classifier:a?votes=3")
    with pytest.raises(UsageError, match=r"there is no reward 'classifier': give arithmetic, .*classifier:NAME"):
        reward("classifier")
    with pytest.raises(UsageError, match=r"'max_length' in .* is not an option"):
        reward("classifier:a?max_length")


def test_the_command_draws_by_a_reward_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    spec = f"classifier:{save(tmp_path / 'a')}"
    said = ("sample", "tiny", "What is 3 + 4?", "--beta", "1", "--max-tokens", "12", "--sampler", "independent", "--n", "3")
    assert main([*said, "--reward", spec]) == 0
    assert "log Z" in capsys.readouterr().err
    assert main([*said, "--reward", f"classifier:{tmp_path / 'none'}"]) == 2
    assert "there is no folder" in " ".join(capsys.readouterr().err.split())
