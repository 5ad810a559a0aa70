"""What is packed, and what messages say of installing: extras that exist, by a command that works where exptilt is."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

from exptilt.errors import install

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = {path: path.read_text() for path in (ROOT / "exptilt").rglob("*.py")}


def test_a_clone_is_installed_from_where_it_is() -> None:
    """Messages said `pip install 'exptilt[hf]'`, which finds nothing in a clone that was never released."""
    assert install("hf,gguf") == f"pip install -e '{ROOT}[hf,gguf]'"


def test_a_release_is_installed_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("exptilt.errors.__file__", str(tmp_path / "exptilt" / "errors.py"))
    assert install("cli") == "pip install 'exptilt[cli]'"


def test_messages_name_extras_that_there_are_and_no_command_by_hand() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    named = [
        extra for text in SOURCES.values() for each in re.findall(r"install\('([\w,]+)'\)", text) for extra in each.split(",")
    ]
    assert len(named) > 5
    assert {*named} <= {*extras}
    assert [path for path, text in SOURCES.items() if "pip install 'exptilt[" in text or "pip install exptilt" in text] == []


def test_versions_of_python_are_told_alike() -> None:
    told = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert told == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["project"]["requires-python"] == f">={told[0]}"


def test_the_packaged_readme_has_no_links_by_path() -> None:
    """An index shows it where there are no files beside it: its picture was broken, and all its links."""
    pytest.importorskip("hatchling", reason="hatchling builds the metadata: pip install hatchling")
    told = subprocess.run([sys.executable, "-m", "hatchling", "metadata"], cwd=ROOT, check=True, capture_output=True, text=True)
    text = json.loads(told.stdout)["readme"]["text"]
    assert "Draw from the policy" in text
    assert re.findall(r"\]\((?!https://)[^)]*\)", text) == []


def test_links_of_the_packaged_readme_lead_to_the_tag_of_the_release() -> None:
    pytest.importorskip("hatchling", reason="hatch_build.py is a plugin of it: pip install hatchling")
    names = runpy.run_path(str(ROOT / "hatch_build.py"))
    text = "# A\n\n![what](docs/a.png)\n\nSee [docs](docs/b.md#here), [site](https://s.org), [below](#more)."
    assert names["packaged"](text, None, "0.1.0") == "# A\n\nSee docs, [site](https://s.org), [below](#more)."
    at = "https://h.org/o/r"
    assert names["packaged"](text, at + "/", "0.1.0") == (
        f"# A\n\n![what]({at}/raw/v0.1.0/docs/a.png)\n\nSee [docs]({at}/blob/v0.1.0/docs/b.md#here), "
        "[site](https://s.org), [below](#more)."
    )


def test_the_source_archive_holds_what_tests_read(tmp_path: Path) -> None:
    """It lacked docs and reproduce, so its own tests failed. Some of them run where it is unpacked."""
    pytest.importorskip("hatchling", reason="hatchling builds the archive: pip install hatchling")
    built = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(built, cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
        packed.extractall(tmp_path, filter="data")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    assert {name for name in tracked if name} - names <= {".pre-commit-config.yaml"}
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    some = ["tests/test_structure.py", "tests/test_core.py", "tests/evaluation/test_chains.py"]
    ran = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", *some], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-2000:]
