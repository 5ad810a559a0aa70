"""A sampler of somebody's own, in one file: it is on the command line without another edit, by its place or by an entry point."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from exptilt import names
from exptilt.describe import describe
from exptilt.errors import UsageError
from exptilt.samplers.command import field_helps
from exptilt.testing import check_sampler
from tests.cli.conftest import Program

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "new_sampler.py"
HEADS = ("--reward", "heads.py:heads", "--beta", "2")
BARE = '''
from __future__ import annotations
from dataclasses import dataclass
from typing import Literal
from exptilt.samplers import Independent

@dataclass(frozen=True)
class Plain:
    """Draws as often as it is told.

    reach: a field without default, and without a value to start with.
    seed: a field that is called as a flag of the command itself.
    """

    reach: float
    seed: int = 3
    mood: Literal["calm", "wild"] = "calm"
    scales: tuple[float, ...] | None = None
    said: str = "word"
    weighted = True

    def needs(self, target):
        return frozenset()

    def __call__(self, target, prompt, key):
        assert self.mood == "calm", (self.seed, self.scales, self.said)
        return Independent(self.seed)(target, prompt, key)
'''


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Installs a package that offers one object under an entry point, as pip would."""

    def install(group: str, point: str) -> None:
        folder = tmp_path / "site"
        about = folder / "plugged-1.0.dist-info"
        about.mkdir(parents=True)
        shutil.copy(EXAMPLE, folder / "plugged.py")
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[exptilt.{group}]\n{point}\n")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, "plugged", raising=False)

    return install


def everywhere(program: Program, name: str, label: str) -> None:
    """The sampler of this name in help, sample, run, eval and --inner, where it takes its flags."""
    code, out, _ = program("sample", "--sampler", name, "--help")
    shown = " ".join(out.split())
    assert code == 0
    assert f"* {name} independent draws until two of them reach a reward" in shown
    assert "--reach X a draw is a success where its reward is at least this (default 1.0)" in shown
    flags = ("--sampler", name, "--most", "3", *HEADS)
    assert json.loads(program("sample", "toy", "why?", *flags, "--json")[1])["sampler"] == f"{label} reach 1.0, most 3"
    Path("prompts.txt").write_text("one\ntwo\n")
    code, _, err = program("run", "toy", "prompts.txt", *flags, "--out", "a.jsonl")
    assert (code, "2 prompts answered" in err) == (0, True)
    assert "4 prompts" not in program("run", "toy", "prompts.txt", *flags, "--out", "a.jsonl")[2]
    code, out, _ = program("eval", "toy", "--task", "word-problems", "--problems", "2", *flags)
    assert (code, f"{label}, vote" in out) == (0, True)
    inside = ("--sampler", "metropolised", "--inner", name, "--reach", "2", "--most", "3", "--steps", "2", *HEADS, "--json")
    described = json.loads(program("sample", "toy", "why?", *inside)[1])["sampler"]
    assert described == f"Metropolised of ({label} reach 2.0, most 3), steps 2"


def test_a_sampler_in_one_file_is_on_the_command_line(program: Program) -> None:
    shutil.copy(EXAMPLE, "mine.py")
    everywhere(program, "mine.py:Inverse", "Inverse")
    code, _, err = program("report", "a.jsonl")
    assert (code, Path("a.html").is_file()) == (0, True), err


def test_a_sampler_of_an_installed_package_is_on_the_command_line(
    program: Program, installed: Callable[[str, str], None]
) -> None:
    installed("samplers", "inverse = plugged:Inverse")
    assert "inverse" in names.SAMPLERS.names
    everywhere(program, "inverse", "Inverse")
    assert "inverse       independent draws until two" in program("run", "--help")[1]  # in the list of another's help too
    code, _, err = program("sample", "toy", "why?", "--sampler", "ets", "--reach", "1", *HEADS)
    assert (code, "it belongs to --sampler inverse" in err) == (2, True)


def test_a_broken_package_is_named_and_leaves_the_others_alone(program: Program, installed: Callable[[str, str], None]) -> None:
    """One package that cannot be imported must not take `--help` and every other sampler with it."""
    installed("samplers", "broken = nowhere:Sampler")
    code, out, _ = program("sample", "--help")
    assert code == 0
    assert "broken        cannot be used: the sampler 'broken', which is nowhere:Sampler, cannot be imported" in out
    assert program("sample", "toy", "why?", "--sampler", "independent", *HEADS)[0] == 0
    code, _, err = program("sample", "toy", "why?", "--sampler", "broken", *HEADS)
    assert (code, "cannot be imported (ModuleNotFoundError" in err) == (2, True)


@pytest.mark.parametrize("group", ["rewards", "selects", "answers", "utilities"])
def test_other_parts_of_installed_packages_have_names(group: str, installed: Callable[[str, str], None]) -> None:
    installed(group, "mine = math:sqrt")
    registry = {"rewards": names.REWARDS, "selects": names.SELECTS, "answers": names.ANSWERS, "utilities": names.UTILITIES}
    assert registry[group].find("mine") is math.sqrt


def test_a_required_setting_without_a_start_is_asked_for(program: Program) -> None:
    """A sampler with a required field that no table listed made `exptilt sample --help` die of a KeyError."""
    Path("bare.py").write_text(BARE)
    code, out, _ = program("sample", "--sampler", "bare.py:Plain", "--help")
    shown = " ".join(out.split())
    assert code == 0
    assert "* bare.py:Plain Draws as often as it is told" in shown
    assert "--reach X a field without default, and without a value to start with (required)" in shown
    code, _, err = program("sample", "toy", "why?", "--sampler", "bare.py:Plain", *HEADS)
    assert (code, err) == (2, "error  the following arguments are required: --reach; see exptilt sample --help.\n")
    with pytest.raises(UsageError, match=r"the sampler bare\.py:Plain needs reach: it has no value to start with"):
        names.sampler("bare.py:Plain")


def test_every_type_of_field_is_a_flag_and_undescribed_ones_say_so(program: Program) -> None:
    Path("bare.py").write_text(BARE)
    shown = " ".join(program("sample", "--sampler", "bare.py:Plain", "--help")[1].split())
    assert '--mood {calm,wild} not described: Plain\'s docstring has no line "mood: ..." (default calm)' in shown
    assert "--sampler-seed N a field that is called as a flag of the command itself (default 3)" in shown
    given = ("--reach", "1", "--sampler-seed", "4", "--scales", "1,2.5", "--said", "none", "--json")
    row = json.loads(program("sample", "toy", "why?", "--sampler", "bare.py:Plain", "--seed", "9", *given, *HEADS)[1])
    assert row["sampler"] == "Plain reach 1.0, seed 4, scales (1.0, 2.5), said none"
    assert (row["seed"], row["drafts"]) == (9, 4)
    code, _, err = program("sample", "toy", "why?", "--sampler", "bare.py:Plain", "--reach", "1", "--mood", "cold", *HEADS)
    assert (code, "--mood: 'cold' is not one of calm, wild; see" in err) == (2, True)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("Sampler = 3", "is 3 and not the class of a sampler"),
        ("class Sampler: ...", "and not the class of a sampler"),
        (BARE.replace("@dataclass(frozen=True)", "").replace("Plain", "Sampler"), "Sampler is not a dataclass"),
        (BARE.replace("reach: float", "reach: Unknown").replace("Plain", "Sampler"), "name 'Unknown' is not defined"),
    ],
)
def test_what_is_no_sampler_is_refused(source: str, words: str, program: Program) -> None:
    Path("odd.py").write_text(source)
    code, out, err = program("sample", "toy", "why?", "--sampler", "odd.py:Sampler", *HEADS)
    assert (code, out) == (2, "")
    assert words in err


def test_a_file_called_as_a_module_is_itself(program: Program) -> None:
    """A file random.py of one's own was taken for the module of the library when its types were looked up."""
    Path("random.py").write_text(BARE)
    assert program("sample", "toy", "why?", "--sampler", "random.py:Plain", "--reach", "1", *HEADS)[0] == 0


def test_the_example_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 100
    for reach in (0.5, -0.2):
        sampler = names.sampler(f"{EXAMPLE}:Inverse", reach=reach, successes=2, most=3)
        assert check_sampler(sampler) >= 5
    with pytest.raises(ValueError, match="give 2 or more"):
        names.sampler(f"{EXAMPLE}:Inverse", successes=1)


# ----------------------------------------------------------------------------------------------------- exptilt's own


@pytest.mark.parametrize("name", names.SAMPLERS.names)
def test_our_samplers_describe_every_field(name: str) -> None:
    """Help was once cut out of sentences by a pattern, and a docstring of another form would have emptied it."""
    chosen = names.choose_sampler(name)
    assert chosen.kind.command.name == name
    assert set(field_helps(chosen.kind)) == {item.name for item in fields(chosen.kind) if item.init}
    assert all(len(setting.help) > 10 and "not described" not in setting.help for setting in chosen.settings.values())
    assert names.sampler(name)  # every required field has a value to start with


def test_names_and_helps_are_no_settings_of_results_files() -> None:
    described = json.dumps(describe(names.sampler("metropolised")))
    assert "command" not in described
    assert json.loads(described) == {
        "type": "Metropolised",
        "sampler": describe(names.sampler("ets")),
        "steps": 32,
    }
