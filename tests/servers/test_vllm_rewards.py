"""vLLM serving a reward model: its scores are those of transformers in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exptilt.errors import ModelError, PromptError
from exptilt.rewards import ClassifierReward, EndpointReward
from tests.rewards.reward_models import ANSWERS, QUESTION, drafts, save
from tests.servers.conftest import free_port, server

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("vllm")
    return save(tmp_path_factory.mktemp("reward"), labels=2, hidden_size=128, num_key_value_heads=4)


@pytest.fixture(scope="module")
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", "rm"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager", "--runner", "pooling"]
    with server([*command, "--max-num-seqs", "16", "--block-size", "32"], port, tmp_path_factory.mktemp("vllm") / "log"):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("protocol", ["classify", "pooling"])
def test_scores_are_those_of_transformers(folder: Path, url: str, protocol: str) -> None:
    for value in ("logit", "log-odds", "log-prob"):
        served = EndpointReward(url, "rm", protocol, label=1, value=value)  # pyright: ignore[reportArgumentType]
        expected = ClassifierReward(folder, label=1, value=value)(QUESTION, drafts(*ANSWERS))  # pyright: ignore
        assert served(QUESTION, drafts(*ANSWERS)) == pytest.approx(expected, abs=1e-3)
        served.close()


def test_what_the_server_refuses_is_said(url: str) -> None:
    with pytest.raises(ModelError, match="The model `other` does not exist"):
        EndpointReward(url, "other", "classify", label=1)
    served = EndpointReward(url, "rm", "classify", label=1)
    with pytest.raises(PromptError, match="does not fit"):
        served(QUESTION, drafts("again " * 900))
    cut = EndpointReward(url, "rm", "classify", label=1, max_length=400)
    assert cut(QUESTION, drafts("again " * 900))
    served.close()
    cut.close()
