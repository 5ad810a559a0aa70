"""`exptilt report` on the command line: references paired with prompts, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exptilt.cli import main
from tests.report.stores import PROMPTS, Page


def test_the_command_pairs_references_with_prompts(
    stores: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, plain, prompts = tmp_path / "pairs.jsonl", tmp_path / "plain.txt", tmp_path / "prompts.txt"
    pairs.write_text("".join(json.dumps({"prompt": prompt, "answer": number}) + "\n" for number, prompt in enumerate(PROMPTS)))
    plain.write_text("\n".join(map(str, range(len(PROMPTS)))))
    prompts.write_text("\n".join(PROMPTS))
    pages = []
    for given in (["--references", str(pairs)], ["--references", str(plain), "--prompts", str(prompts)]):
        out = tmp_path / "out" / "page.html"
        words = [str(stores[0]), "--out", str(out), "--answer", "number", "--title", "A <b>", "--parameters", "1e6", *given]
        assert main(["report", *words]) == 0
        assert capsys.readouterr().out == f"{out}\n"
        pages.append(out.read_text())
    assert pages[0] == pages[1]
    assert "<title>A &lt;b&gt;</title>" in pages[0]
    overview = Page(tmp_path / "out" / "page.html").data["overview"]
    assert overview["methods"][0]["flops"][0] > 0
    assert [prompt["reference"] for prompt in overview["prompts"]] == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["NOWHERE.jsonl"], "cannot be read"),
        (["PROMPTS"], "is not a results file"),
        (["STORE", "STORE"], "each once"),
        (["STORE", "--out", "STORE"], "one of the results files"),
        (["STORE", "--references", "OTHERS"], "belongs to a prompt"),
        (["STORE", "--references", "PROMPTS"], "give --prompts as well"),
        (["STORE", "--references", "OTHERS", "--prompts", "PROMPTS"], "1 references for the 6 prompts"),
        (["STORE", "--most-drafts", "-1"], "must be 0 or more"),
        (["STORE", "--parameters", "-1"], "--parameters: '-1' is not one to three numbers of parameters"),
        (["STORE", "--parameters", "1", "--parameters", "1"], "2 sets of parameters for 1 results files"),
        (["STORE", "--beta", "1"], "no option --beta"),
    ],
)
def test_refusals(given: list[str], said: str, stores: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts").write_text("\n".join(PROMPTS))
    (tmp_path / "others").write_text('{"prompt": "another", "reference": "1"}\n')
    places = {"STORE": str(stores[0]), "PROMPTS": str(tmp_path / "prompts"), "OTHERS": str(tmp_path / "others")}
    content = stores[0].read_bytes()
    assert main(["report", *(places.get(word, word) for word in given)]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert stores[0].read_bytes() == content
