"""docs/serve.md is true: its Python runs against a server, its curl is answered, its configuration is read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import exptilt as xt
from exptilt import names
from exptilt.rewards import Arithmetic, Zero
from exptilt.serve.config import Config, Limits, read_config
from exptilt.serve.offers import catalogue as offered
from exptilt.serve.recipes import Catalogue, Recipe
from tests.serve.served import live

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serve.md").read_text()
URL = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_page_is_true(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The server is as the page starts it: with a lower cap of responses, a budget in a request was enough here and not there."""
    with xt.load("tiny") as engine:
        usual = Recipe(names.choose_sampler("ets"), {"candidates": 8, "block": 16}, reward="arithmetic", beta=0.2)
        made = Catalogue("tiny", engine, None, {"none": Zero(), "arithmetic": Arithmetic()}, usual)
        with live(made, Config(name="tiny", port=0, limits=Limits(grace=1.0))) as server:
            space: dict[str, object] = {}
            for block in blocks("python"):
                exec(compile(block.replace(URL, server.url), "serve.md", "exec"), space)
            assert len(capsys.readouterr().out.splitlines()) >= 3
            [curl] = [block for block in blocks("sh") if block.startswith("curl")]
            if shutil.which("curl") is not None:
                said = subprocess.run(curl.replace(URL, server.url), shell=True, capture_output=True, check=True).stdout
                assert json.loads(said)["choices"][0]["message"]["content"]
        [toml] = blocks("toml")
        (tmp_path / "key.txt").write_text("abc")
        (tmp_path / "server.toml").write_text(toml)
        config = read_config(tmp_path / "server.toml")
        assert config.api_key == "abc"
        small = offered(lambda: xt.Target(engine, Arithmetic(), 0.2), usual, config)
        assert "small@careful" in small.models


def test_the_limits_of_the_page_are_the_defaults() -> None:
    [toml] = blocks("toml")
    table = toml.split("[limits]")[1].split("[rewards]")[0]
    told = {line.split("=")[0].strip(): float(line.split("=")[1].split("#")[0]) for line in table.splitlines() if "=" in line}
    own = {name: value for name, value in vars(Limits()).items() if name in told and value is not None}
    assert own == {name: value for name, value in told.items() if name in own}
    assert {*told} - {*own} == {"tokens", "rows_together"}
