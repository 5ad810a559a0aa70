"""`exptilt sample` and `run` with a model that draws pictures: files, sheets, JSON, and what is refused."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from exptilt.cli import main
from tests.engines.image.toys import Formula, bent, engine_of


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """The program with a toy that draws 4 by 4 pixels: exit status, output and error output."""
    monkeypatch.setattr("exptilt.names.targets.load", lambda name, **options: engine_of(Formula(bent, (0.2, 0.5, 0.9), (4, 4))))
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> tuple[int, str, str]:
        status = main(line.split())
        told = capsys.readouterr()
        return status, told.out, " ".join(told.err.split())

    return run


SAMPLE = "sample toy 3 --reward ink --beta 0.1"


def test_a_sample_is_written_as_files(draws: Any, tmp_path: Path) -> None:
    status, out, _ = draws(f"{SAMPLE} --sampler independent --n 5 --select best --out pictures")
    assert (status, out) == (0, "pictures/answer.png\n")
    assert Image.open(tmp_path / "pictures" / "answer.png").size == (128, 128)
    sheet = np.asarray(Image.open(tmp_path / "pictures" / "drafts.png"))
    assert sheet.shape == (128, 5 * 129 - 1)


def test_json_holds_the_picture(draws: Any) -> None:
    status, out, _ = draws(f"{SAMPLE} --sampler ets --candidates 2 --block 1 --select draw --json")
    assert status == 0
    assert json.loads(out)["picture"].startswith("data:image/png;base64,")


def test_a_run_and_its_report(draws: Any, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("1\n2\n")
    assert (
        draws("run toy p.txt --reward symmetry --beta 0.1 --sampler smc --particles 2 --block 1 --select draw --out a.jsonl")[0]
        == 0
    )
    assert draws("report a.jsonl --out page.html")[0] == 0
    assert "data:image/png" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("line", "message"),
    {
        SAMPLE: "toy draws pictures: say where they go with --out FOLDER, or --json.",
        f"{SAMPLE} --out full": "--out full is a file, and pictures go into a folder: give another name.",
        f"{SAMPLE} --select vote --out x": "vote reads text, and these drafts have none",
        f"{SAMPLE} --sampler ets --candidates 2 --block x --out y": "or blocks counted in tokens, such as block=32",
        "sample toy nothing --reward ink --beta 1 --out x": "the prompt 'nothing' is no class",
        "sample toy 3 --reward arithmetic --beta 1 --out x": "reads text, and these drafts have none",
    }.items(),
)
def test_what_makes_no_sense_for_pictures_is_refused(draws: Any, line: str, message: str) -> None:
    Path("full").write_text("a file")
    status, out, error = draws(line)
    assert status != 0
    assert out == ""
    assert message in error


def test_pictures_that_cannot_be_written_are_told(draws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or a folder of somebody else ended in a traceback, after everything was drawn. What can be seen before is."""
    (tmp_path / "file").write_text("")
    for folder, why in {
        "file": "is a file, and pictures go into a folder: give another name.",
        "file/in/it": "cannot be written to: Not a directory. Give a folder that can.",
    }.items():
        status, out, error = draws(f"{SAMPLE} --sampler independent --n 5 --out {folder}")
        assert (status, out) == (2, "")
        assert error == f"error --out {folder} {why}"

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    status, out, error = draws(f"{SAMPLE} --sampler independent --n 5 --out new --json")
    assert status == 1
    assert json.loads(out)["usage"], "what was drawn is not lost"
    assert error.endswith("error --out new cannot be written: No space left on device. Free space, or give another path.")


def test_out_is_for_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from exptilt.engines import TableEngine
    from exptilt.testing.toys import random_table

    monkeypatch.setattr("exptilt.names.targets.load", lambda name, **options: TableEngine(random_table(3, 4), 5, 3, name=name))
    assert main(["sample", "toy", "x", "--reward", "none", "--out", str(tmp_path / "y")]) == 2
    assert "is for pictures" in " ".join(capsys.readouterr().err.split())
