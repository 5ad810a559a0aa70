"""The structure that docs/architecture.md describes: no circles, imports that point down, every file in the tree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.structure import ROOT, circles, floor, floors, imports, log_index, modules, tree, upward

KNOWN = modules()
GRAPH = imports(KNOWN)


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circles(GRAPH) == []


def test_every_package_is_in_a_layer() -> None:
    assert [name for name in KNOWN if floor(name) == -1] == []


def test_imports_point_downwards() -> None:
    """So a library module never imports the command line, and the numpy core can be read without the rest."""
    assert upward(GRAPH) == []


def test_the_check_sees_a_circle_and_an_arrow_upwards() -> None:
    graph = GRAPH | {"exptilt.keys": {"exptilt.core"}}
    assert any("exptilt.keys" in group for group in circles(graph))
    assert upward(graph) == ["exptilt.keys -> exptilt.core"]


def test_the_annotated_tree_is_that_of_the_files() -> None:
    """It is copied from the modules' docstrings: run `python reproduce/structure.py --write` after a change."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert f"```text\n{tree()}\n```" in page
    assert floors() in page


def test_the_log_has_an_entry_for_each_of_its_dates() -> None:
    """`python reproduce/structure.py --write` writes them: nineteen were missing when they were written by hand."""
    assert (ROOT / "docs" / "log" / "README.md").read_text() == log_index()


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_links_of_the_docs_lead_somewhere(page: Path) -> None:
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []
