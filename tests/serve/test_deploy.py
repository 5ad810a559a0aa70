"""The files in deploy/ agree with the program: its flags, ports, health check, grace, key, and what they copy and mount.

No container is built here: that needs a daemon that tests do not have.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from exptilt import names
from exptilt.cli import parse
from exptilt.cli.serve import KEY
from exptilt.core import Target
from exptilt.serve.config import Limits, read_config
from exptilt.serve.guard import OPEN
from exptilt.serve.offers import catalogue
from exptilt.serve.recipes import Recipe
from tests.serve.served import TABLE, heads

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSES = ["compose.yaml", "compose.vllm.yaml"]


def instructions() -> list[tuple[str, str]]:
    """The lines of the Dockerfile, continued ones joined, as (instruction, rest)."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def rest_of(word: str) -> list[str]:
    return [rest for each, rest in instructions() if each == word]


def compose(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def filled(text: str) -> str:
    """A value with the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def served(arguments: list[str]) -> Any:
    return parse(["serve", *arguments])


def commands() -> list[Any]:
    found = [pytest.param(json.loads(rest_of("CMD")[0]), id="Dockerfile")]
    for name in COMPOSES:
        found.append(pytest.param([filled(part) for part in compose(name)["services"]["exptilt"]["command"]], id=name))
    return found


@pytest.mark.parametrize("command", commands())
def test_commands_are_those_of_the_program(command: list[str]) -> None:
    args = served(command)
    assert args.chosen.name == "ets"
    assert args.reward in names.REWARDS.names
    config = read_config(DEPLOY / args.config) if args.config else None
    assert (config.host if config else args.host) == "0.0.0.0", "nothing outside of the container could reach it"


def test_the_configuration_makes_models() -> None:
    config = read_config(DEPLOY / "server.toml")
    usual = Recipe(names.choose_sampler("ets"), reward="arithmetic", beta=0.2)
    assert "model@careful" in catalogue(lambda: Target(TABLE, heads, 0.2), usual, config).models


@pytest.mark.parametrize("name", COMPOSES)
def test_ports_mounts_key_and_grace_agree(name: str) -> None:
    config = read_config(DEPLOY / "server.toml")
    given = compose(name)
    service = given["services"]["exptilt"]
    [port] = service["ports"]
    host, _, inside = port.split(":")
    assert (host, int(inside)) == ("127.0.0.1", config.port)
    assert rest_of("EXPOSE") == [inside]
    assert service["environment"][KEY].startswith("${" + KEY + ":?"), "without a key everybody is served"
    [home] = rest_of("WORKDIR")[-1:]
    sources = dict(volume.split(":")[:2] for volume in service["volumes"])
    assert sources["./server.toml"] == f"{home}/server.toml"
    assert {source for source in sources if not source.startswith(".")} <= {*given["volumes"]}
    assert float(service["stop_grace_period"].removesuffix("s")) > config.limits.grace + 5  # errors are sent after it
    assert (DEPLOY / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]).is_file()


def test_the_image_copies_what_the_build_needs_and_has_extras_that_exist() -> None:
    copied = {source for rest in rest_of("COPY") for source in rest.split()[:-1]}
    assert copied == {"pyproject.toml", "hatch_build.py", "README.md", *PROJECT["license-files"], "exptilt"}
    assert all((ROOT / source).exists() for source in copied)
    kept = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == copied
    [extras] = [rest.partition("=")[2] for rest in rest_of("ARG")]
    other = compose("compose.vllm.yaml")["services"]["exptilt"]["build"]["args"]["EXTRAS"]
    for extra in (*extras.split(","), *other.split(",")):
        assert extra in PROJECT["optional-dependencies"]
    [version] = re.findall(r"python:([\d.]+)", rest_of("FROM")[0])
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    assert json.loads(rest_of("ENTRYPOINT")[0]) == ["exptilt", "serve"]
    assert instructions()[-1][0] == "CMD"
    assert rest_of("USER") == ["exptilt"]


def test_the_health_check_asks_what_needs_no_key() -> None:
    [check] = rest_of("HEALTHCHECK")
    assert any(f":{rest_of('EXPOSE')[0]}{path}'" in check for path in OPEN if path != "/")
    compile(json.loads(check.partition("CMD ")[2])[2], "the health check", "exec")


def test_the_server_in_front_finds_the_one_behind_it() -> None:
    services = compose("compose.vllm.yaml")["services"]
    args = served([filled(part) for part in services["exptilt"]["command"]])
    assert args.model == "openai:" + filled(services["vllm"]["command"][0])
    assert services["exptilt"]["environment"]["OPENAI_BASE_URL"] == "http://vllm:8000/v1"
    assert services["vllm"]["entrypoint"] == ["vllm", "serve"]
    assert services["exptilt"]["depends_on"] == {"vllm": {"condition": "service_healthy"}}
    assert services["vllm"]["healthcheck"]["test"][0] == "CMD"
    assert "ports" not in services["vllm"], "the model would be reached without a key"
    told = (ROOT / "docs" / "servers.md").read_text().replace(" processed_logprobs", "=processed_logprobs")
    [line] = re.findall(r"^vllm serve .*$", told, re.MULTILINE)
    assert {*services["vllm"]["command"][1:]} == {word for word in line.split() if word.startswith("--")}


def test_in_front_of_another_server_no_torch_is_needed() -> None:
    """The image beside vLLM has the extras openai and serve alone."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'tokenizers', 'safetensors', 'jinja2')))\n"
        "import exptilt.serve.server, exptilt.serve.offers, exptilt.engines.openai.server, exptilt.engines.openai.backend"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_nginx_neither_buffers_nor_gives_up_before_the_server() -> None:
    given = (DEPLOY / "nginx.conf").read_text()
    told = dict(re.findall(r"^ +(\w+) +([^;]+);", given, re.MULTILINE))
    assert (told["proxy_buffering"], told["proxy_http_version"]) == ("off", "1.1")
    assert float(told["proxy_read_timeout"].removesuffix("s")) > max(Limits().deadline, Limits().keep_alive)
    assert int(told["client_max_body_size"].removesuffix("m")) * 2**20 >= Limits().body
    assert given.count("{") == given.count("}")
    page = (ROOT / "docs" / "serve.md").read_text()
    [shown] = re.findall(r"^```nginx\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert all(line in given for line in shown.splitlines())
    assert f"server 127.0.0.1:{read_config(DEPLOY / 'server.toml').port};" in given
