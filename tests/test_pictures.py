"""Pictures as PNG files without any package, and where people see them: files, results files, reports, notebooks."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import exptilt as xt
from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.pictures import DATA, StoredPicture, enlarged, pixels, png, sheet, thumbnail
from exptilt.report import write_report
from exptilt.rewards import Ink
from exptilt.running.lines import decode
from tests.engines.image.toys import Formula, bent, engine_of
from tests.report.stores import Page

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (5, 7), (5, 7, 3)])
def test_other_programs_read_our_files(shape: tuple[int, ...]) -> None:
    image = RANDOM.integers(256, size=shape).astype(np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(image)))), image)


@pytest.mark.parametrize("shape", [(8, 8), (64, 64, 3), (65, 130), (512, 512, 3), (300, 7)])
def test_thumbnails_are_small_and_look_alike(shape: tuple[int, ...]) -> None:
    image = np.linspace(0, 255, int(np.prod(shape))).reshape(shape).astype(np.uint8)
    small = np.asarray(Image.open(io.BytesIO(base64.b64decode(thumbnail(image).removeprefix(DATA)))))
    assert max(small.shape[:2]) <= 64
    assert small.mean() == pytest.approx(image.mean(), abs=4)


def test_what_is_no_picture_has_no_pixels() -> None:
    for output in (None, "text", np.zeros(3), np.zeros((2, 2, 4)), np.zeros((0, 2)), np.zeros((2, 2), dtype=int)):
        assert pixels(output) is None
    found = pixels(np.array([[np.nan, 2.0, -1.0, 0.5]]))
    assert found is not None
    assert found.tolist() == [[0, 255, 0, 128]]


def test_sheets_hold_all_pictures() -> None:
    images = [np.full((2, 3), 10 * number, np.uint8) for number in range(1, 11)]
    found = sheet(images, across=4)
    assert found.shape == (3 * 3 - 1, 4 * 4 - 1)
    assert sorted({*found.ravel().tolist()}) == [*range(10, 101, 10), 255]
    assert enlarged(images[0]).shape == (128, 192)


def target() -> Target:
    return Target(engine_of(Formula(bent, (0.2, 0.5, 0.9), shape=(4, 4))), Ink(), 0.1)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    for name, sampler in {"ets": xt.ETS(3, block=1), "smc": xt.SMC(3, block=1), "mcmc": xt.SuffixMCMC(4)}.items():
        xt.run(target(), ["a", "b"], sampler, select=xt.draw, store=tmp_path / f"{name}.jsonl", concurrency=1)
    return tmp_path


def test_results_files_keep_thumbnails_and_resume(stored: Path) -> None:
    lines = [decode(line) for line in (stored / "ets.jsonl").read_text().splitlines()]
    assert all(text.startswith(DATA) for step in lines[1]["how"]["steps"][1:] for text in step["candidates"])
    before = (stored / "ets.jsonl").read_text()
    results: Any = xt.run(target(), ["a", "b"], xt.ETS(3, block=1), select=xt.draw, store=stored / "ets.jsonl", concurrency=1)
    assert (stored / "ets.jsonl").read_text() == before
    assert isinstance(results[0].draft.output, StoredPicture)
    [again] = target().engine.drawn_again([results[0].draft])  # pyright: ignore[reportAttributeAccessIssue]
    assert again.glimpse == results[0].draft.glimpse


def test_reports_show_pictures_where_texts_would_stand(stored: Path) -> None:
    page = Page(write_report([stored / f"{name}.jsonl" for name in ("ets", "smc", "mcmc")], stored / "report.html"))
    assert "img-src data:" in page.html
    details = [page.data[name] for name in page.data if name.startswith("detail")]
    assert len(details) == 6
    for each in details:
        assert each["texts"][each["chosen"]].startswith(DATA)


def test_notebooks_show_the_chosen_picture(stored: Path) -> None:
    result = xt.sample(target(), "a", xt.Independent(2), select=xt.best)
    data = result._repr_png_()
    assert data is not None
    assert Image.open(io.BytesIO(data)).size == (128, 128)
    assert Draft("x", text="a text")._repr_png_() is None
    assert Draft("x", text="a text").glimpse == "a text"
