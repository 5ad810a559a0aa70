"""What surrounds every request: the key, ids, the log, metrics, and what a configuration may say."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import httpx2
import openai
import pytest

from exptilt.core import Target
from exptilt.draft import Draft, Prompt
from exptilt.errors import UsageError
from exptilt.serve.config import Config, Limits, read_config
from exptilt.serve.logs import LOGGER, JsonLines
from exptilt.serve.offers import catalogue as offered
from tests.serve.served import TABLE, Live, catalogue, heads, live, recipe

SECRET = "the secret prompt"
ASKED = {"model": "table", "messages": [{"role": "user", "content": SECRET}]}


@pytest.fixture(scope="module")
def locked() -> Iterator[Live]:
    with live(config=Config(name="table", port=0, api_key="key-1", limits=Limits(grace=1.0))) as started:
        yield started


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/openapi.json", "/nothing", "/v1/chat/completions"])
@pytest.mark.parametrize("header", [None, "Bearer key-2", "Bearer", "key-1", "Basic key-1", "Bearer key-1x", "Bearer k\xe9y"])
def test_everything_but_health_needs_the_key(locked: Live, path: str, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    said = httpx2.request("POST" if "chat" in path else "GET", f"{locked.url}{path}", headers=headers)  # pyright: ignore
    assert (said.status_code, said.json()["error"]["code"]) == (401, "invalid_api_key")
    assert httpx2.get(f"{locked.url}/healthz").status_code == 200


def test_the_right_key_opens(locked: Live) -> None:
    client = openai.OpenAI(base_url=f"{locked.url}/v1", api_key="key-1", max_retries=0)
    assert client.models.list().data
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{locked.url}/v1", api_key="other", max_retries=0).models.list()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [JsonLines().format(record) for record in caplog.records if record.name == LOGGER.name]


@pytest.mark.parametrize("asked", [False, True])
def test_the_log_has_ids_and_no_prompts_unless_asked(caplog: pytest.LogCaptureFixture, asked: bool) -> None:
    """Errors of rewards quote drafts, so their words stay out as well; where they were raised does not."""

    def quotes(prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        raise ValueError(f"cannot rate {prompt}")

    caplog.set_level(logging.INFO, LOGGER.name)
    with live(catalogue(reward=quotes), Config(name="table", port=0, log_prompts=asked, limits=Limits(grace=1.0))) as server:
        url = f"{server.url}/v1/chat/completions"
        failed = httpx2.post(url, json=ASKED, headers={"x-request-id": "mine-1"})
        plain = httpx2.post(url, json={**ASKED, "model": "table@plain"}, headers={"x-request-id": "not an id"})
    assert failed.headers["x-request-id"] == "mine-1"
    assert plain.headers["x-request-id"].startswith("req_")
    said = lines(caplog)
    requests = [line for line in map(json.loads, said) if line["event"] == "request"]
    assert [(line["id"], line["status"]) for line in requests] == [
        ("mine-1", 500), (plain.headers["x-request-id"], 200)
    ]  # fmt: skip
    assert any("quotes" in line and "ValueError" in line for line in said)
    assert any(SECRET in line for line in said) is asked


def test_metrics_count_requests_tokens_and_failures(locked: Live) -> None:
    key = {"authorization": "Bearer key-1"}
    httpx2.post(f"{locked.url}/v1/chat/completions", json=ASKED, headers=key)
    httpx2.post(f"{locked.url}/v1/chat/completions", json={**ASKED, "n": 99}, headers=key)
    text = httpx2.get(f"{locked.url}/metrics", headers=key).text
    assert 'exptilt_requests_total{path="/v1/chat/completions",status="200"} 1.0' in text
    assert 'exptilt_failures_total{code="too_large"} 1.0' in text
    assert float(text.split("\nexptilt_tokens_generated_total ")[1].split()[0]) > 0
    assert "exptilt_answers_running 0.0" in text
    assert "/nothing" not in text  # a path of a client's own would be a series of its own


CONFIG = """
[server]
name = "small"
port = 9000
api_key_file = "key.txt"

[limits]
threads = 4
tokens = 500

[rewards]
heads = "mine.py:heads"

[models."small@careful"]
sampler = "ets"
candidates = 6
reward = "heads"
beta = 0.1
"""


def test_a_configuration_names_rewards_and_models(tmp_path: Path) -> None:
    (tmp_path / "key.txt").write_text("abc\n")
    (tmp_path / "mine.py").write_text("def heads(text):\n    return float(text.count('1'))\n")
    path = tmp_path / "server.toml"
    path.write_text(CONFIG.replace("mine.py", str(tmp_path / "mine.py")))
    config = read_config(path)
    assert (config.name, config.port, config.api_key, config.limits.threads) == ("small", 9000, "abc", 4)
    assert config.limits.budget is not None
    target, usual = Target(TABLE, heads, 0.5), recipe("independent", n=2)
    rewards = {"tests": config.rewards["heads"]}  # the other name is taken by the flags' reward
    table = {**config.models["small@careful"], "reward": "tests"}
    made = offered(lambda: target, usual, replace(config, rewards=rewards, models={"small@careful": table}))
    assert set(made.rewards) == {"none", "heads", "tests"}
    careful = made.recipe("small@careful")
    assert (careful.settings["candidates"], careful.reward, careful.beta) == (6, "tests", 0.1)
    with pytest.raises(UsageError, match="named twice"):
        offered(unreachable, usual, config)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server", "cannot be read .*: correct the line"),
        ("[servers]", "'servers'"),
        ("server = 1", r"write \[server\]"),
        ("[server]\nprot = 1", "Did you mean port"),
        ('[server]\nport = "80"', "port = '80'"),
        ("[server]\nport = 70000", "not a port"),
        ("[server]\nlog_prompts = 1", "true or false"),
        ('[server]\napi_key_file = "none.txt"', "API key cannot be read .* api_key_file"),
        ('[server]\napi_key_file = "empty.txt"', "the API key is empty"),
        ("[limits]\nthreads = 0", "threads = 0.* a whole number above 0, or leave it out, and it is 32"),
        ("[limits]\nthreads = 1.5", "threads = 1.5"),
        ("[limits]\nqueue = -1", "a whole number from 0 on"),
        ("[limits]\ntokens = 0", "it has no limit"),
        ("[limits]\ndeadline = -1", "deadline"),
        ("[limits]\nqueue = true", "queue"),
        ("[rewards]\nx = 1", 'reward x = 1 .* write .* x = "arithmetic"'),
    ],
)
def test_a_configuration_that_means_nothing_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "server.toml"
    path.write_text(text)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UsageError, match=said):
        read_config(path)


@pytest.mark.parametrize(
    "table",
    [1, {"sampler": "etz"}, {"sampler": 1}, {"candidates": 0}, {"reward": "other"}, {"beta": "x"}, {"beta": 0}, {"foo": 1}],
)
def test_a_model_that_means_nothing_is_refused_at_the_start(table: object) -> None:
    with pytest.raises(UsageError, match="the model mine"):
        offered(unreachable, recipe(), Config(name="table", models={"mine": table}))  # pyright: ignore


def unreachable() -> Target:
    raise AssertionError("the model was loaded before the configuration was checked")
