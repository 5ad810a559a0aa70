"""Engines of other people: by the place of their code, or by an entry point of an installed package; and options of all kinds."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import exptilt as xt
from exptilt.cli import main
from exptilt.core import Engine
from exptilt.draft import Draft
from exptilt.errors import ModelError, UsageError
from exptilt.keys import Key
from exptilt.testing import check_engine

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "bigram_engine.py"
TEXT = "the sea is wide\nthe old captain said so\nthe birds said nothing\nso the sea is old and the birds are wide\n"
MINE = """
import exptilt as xt
TABLE = xt.engines.TableEngine(lambda prefix: [0.5, 0.5], 3, 1, symbols="ab")
WORD = "not an engine"

def table(cap: int = 3, *, end: int = 1):
    return xt.engines.TableEngine(lambda prefix: [0.5, 0.5], cap, end)

def anything(**options):
    return xt.engines.TableEngine(lambda prefix: [0.5, 0.5], options.pop("max_tokens"), 1)

def from_source(source, *, cap=3):
    return xt.engines.TableEngine(lambda prefix: [0.5, 0.5], cap, 1, name=source)

def nothing():
    return 5
"""


@pytest.fixture(autouse=True)
def _modules_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)
    Path("mine.py").write_text(MINE)
    yield
    for name, module in [*sys.modules.items()]:
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Installs a package with the engines of MINE, as pip would, under these entry points."""

    def install(points: str) -> None:
        folder = tmp_path / "site"
        about = folder / "plugged-1.0.dist-info"
        about.mkdir(parents=True)
        (folder / "plugged.py").write_text(MINE)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[exptilt.engines]\n{points}\n")
        monkeypatch.syspath_prepend(folder)

    return install


def bigrams(**options: Any) -> Any:
    return xt.load(f"{EXAMPLE}:bigrams", file="text.txt", **options)


# -------------------------------------------------------------------------------------------------------- the example


def test_the_example_keeps_the_contract() -> None:
    prompts = ["the sea", "so the", "the birds", "the captain"]
    assert len(check_engine(bigrams(max_tokens=8, temperature=1.2), prompts, caches=False)) > 12


def test_the_example_draws_words_as_often_as_the_text_has_them() -> None:
    engine = bigrams(max_tokens=1)
    pairs = Counter(pair for line in TEXT.splitlines() for pair in pairwise(re.findall(r"\w+|\W", line)))
    after = {word: count for (first, word), count in pairs.items() if first == " "}
    drafts = engine.extend([engine.start("the ")] * 4000, [Key(0, i) for i in range(4000)])
    counts = Counter(draft.text for draft in drafts)
    for word, count in after.items():
        p = count / sum(after.values())
        assert abs(counts[word] / 4000 - p) < 5 * math.sqrt(p / 4000) + 0.01, word
    [start] = [engine.start("the ")]
    [rated] = engine.score([Draft(start.prompt, (engine.backend.text.tokenizer.ids["sea"],))])
    assert math.exp(rated[0]) == pytest.approx(after["sea"] / sum(after.values()), rel=0.05)


def test_the_example_is_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--reward", "none", "--beta", "1", "--sampler", "independent", "--n", "3", "--max-tokens", "5", "--json"]
    assert main(["sample", f"{EXAMPLE}:bigrams?file=text.txt", "the sea", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["drafts"] == 3


# --------------------------------------------------------------------------------------------------------- your own


def test_an_engine_or_a_function_that_makes_one_by_its_place() -> None:
    assert isinstance(xt.load("mine.py:TABLE"), Engine)
    assert xt.load("mine.py:table").max_tokens == 3
    assert xt.load("mine.py:table", cap=5).max_tokens == 5
    assert xt.load("mine.py:anything", max_tokens=7).max_tokens == 7
    shutil.move("mine.py", "package.py")
    Path("rooms").mkdir()
    shutil.move("package.py", "rooms/mine.py")
    Path("rooms/__init__.py").write_text("")
    assert xt.load("rooms.mine:table", cap=4).max_tokens == 4


def test_sampling_parameters_of_an_engine_that_there_is_already() -> None:
    hot = xt.load("mine.py:TABLE", temperature=2.0, max_tokens=2)
    assert (hot.settings["temperature"], hot.max_tokens) == (2.0, 2)
    with pytest.raises(ValueError, match=r"TABLE' has no option cap: it has .*max_tokens, .*stop, .*temperature, top_k, top_p"):
        xt.load("mine.py:TABLE", cap=3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mine.py", {}, "Which object of it\\? Write mine.py:NAME"),
        ("mine.py:tabel", {}, "mine.py has no 'tabel': .*Did you mean table"),
        ("nowhere.py:x", {}, "there is no file nowhere.py"),
        ("rooms.other:x", {}, "rooms.other cannot be imported"),
        ("mine.py:WORD", {}, "is 'not an engine', which is neither an engine nor a function that makes one"),
        ("mine.py:nothing", {}, "returned 5, which is not an engine: give it what `exptilt.core.Engine` lists"),
        ("mine.py:table", {"caps": 5}, "has no option caps: it has cap, end. Did you mean cap"),
        ("mine.py:nothing", {"cap": 5}, "has no option cap: it has none"),
        ("mine.py:from_source", {}, "cannot be made: missing a required argument: 'source'"),
        ("mine.py:table", {"system": "Be brief."}, "has no option system"),
        ("tinny", {}, "'tinny' is not the name of a model: .* or your own as FILE.py:NAME .*Did you mean tiny"),
        ("tiny:small", {}, "'tiny:small' is not the name of a model"),
    ],
)
def test_what_is_no_engine_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ModelError, UsageError, ValueError), match=message):
        xt.load(name, **options)


def test_engines_of_installed_packages(installed: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    """One package that cannot be imported must not take the others with it, and none takes the place of exptilt's own."""
    installed(
        "coins = plugged:table\nnamed = plugged:from_source\nfixed = plugged:TABLE\n"
        "broken = nosuchpackage:x\nopenai = plugged:nothing"
    )
    assert xt.load("coins", cap=6).max_tokens == 6
    assert xt.load("fixed", max_tokens=2).max_tokens == 2
    assert xt.load("named:what follows: all of it", cap=2).name == "what follows: all of it"
    with pytest.raises(ModelError, match=r"'broken', which is nosuchpackage:x, cannot be imported \(ModuleNotFoundError"):
        xt.load("broken")
    with pytest.raises(ModelError, match=r'knows "hf:HUB-ID-OR-FOLDER", .*"coins", .*Did you mean coins'):
        xt.load("coin")
    with pytest.raises(ModelError, match="'openai' is not the name of a model"):
        xt.load("openai")
    pytest.importorskip("httpx2")
    with pytest.raises(ModelError, match="names no server"):
        xt.load("openai:model", base_url="")
    with pytest.raises(SystemExit):
        main(["sample", "--help"])
    assert '"coins"' in " ".join(capsys.readouterr().out.split())


# ------------------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("name", "packages", "wrong", "message"),
    [
        (
            "tiny",
            "transformers",
            "max_row",
            "has no option max_row: it has .*device, .*dtype, .*max_rows.*Did you mean max_rows?",
        ),
        ("tiny", "transformers", "block", "has no option block: it has .*memory"),
        ("tiny-mdlm", "transformers", "treshold", "it has .*block, cache, .*threshold.*Did you mean threshold?"),
        ("openai:any", "httpx2", "baseurl", "it has attempts, backoff, base_url, .*seeds.*Did you mean base_url?"),
        ("openai:any", "httpx2", "device", "has no option device"),
        ("llamacpp:text.txt", "llama_cpp", "thread", "it has device, dtype, ends, .*Did you mean threads?"),
    ],
)
def test_an_option_that_a_kind_does_not_have_is_refused_with_those_that_it_has(
    name: str, packages: str, wrong: str, message: str
) -> None:
    """It was a TypeError of some function inside, after the model had been read."""
    pytest.importorskip(packages)
    options: dict[str, Any] = {wrong: 1}
    with pytest.raises(ValueError, match=message):
        xt.load(name, **options)


def test_options_that_are_none_count_as_not_given() -> None:
    pytest.importorskip("transformers")
    nothing = dict.fromkeys(("temperature", "top_p", "max_tokens", "stop", "system", "dtype", "device", "max_rows"))
    assert xt.load("tiny", **nothing).settings == xt.load("tiny").settings
    assert xt.load("tiny-mdlm", block=4, **nothing).settings["block"] == 4
