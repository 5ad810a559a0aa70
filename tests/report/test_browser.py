"""The page in a real browser: nothing hostile runs, nothing is fetched, and keys, search, cards and colours work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import exptilt as xt
from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.engines import MaskedTableEngine
from exptilt.evaluation.cost import Parameters
from exptilt.report import write_report
from exptilt.rewards import Ink
from exptilt.testing.toys import random_fill
from tests.engines.image.toys import Formula, bent, engine_of
from tests.report.browser import CHROMIUM, Browser
from tests.report.stores import BETA, HOSTILE, PROMPTS, SAMPLERS, Page, run_all, target

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium or google-chrome on PATH")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@needs_chromium
def test_a_browser_shows_hostile_texts_as_texts(browser: Browser, tmp_path: Path) -> None:
    made = write_report(run_all(tmp_path, HOSTILE[:3], HOSTILE), tmp_path / "report.html", title=HOSTILE[0])
    browser.requests.clear()
    browser.open(made)
    browser.press("p")
    for _ in range(3):
        for _ in SAMPLERS:
            browser.run("document.querySelectorAll('.card, summary, #detail button.plain').forEach(node => node.click())")
            browser.press("]")
        browser.press("j")
    assert browser.run("document.getElementById('detail').textContent.includes('onerror=')")
    assert browser.run("[window.hacked, document.querySelectorAll('img').length, document.title]") == [None, 0, HOSTILE[0]]
    assert browser.requests == [made.resolve().as_uri()]
    assert not browser.errors


def strict(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    return [-math.inf if draft.tokens[0] == 0 else 1.0 for draft in drafts]


@needs_chromium
def test_odd_files_open(browser: Browser, tmp_path: Path) -> None:
    """Excluded drafts, holes, budgets that end, one draft, no prompt at all: on that page a key once failed."""
    masked = Target(MaskedTableEngine(random_fill(3, 3), 4), strict, BETA)
    xt.run(masked, PROMPTS, xt.ETS(4, 2, 2), store=tmp_path / "masked.jsonl")
    xt.run(target(), PROMPTS, xt.ETS(3, 1, 2), store=tmp_path / "stopped.jsonl", budget=xt.Budget(tokens=20))
    xt.run(target(), PROMPTS, xt.Independent(1), store=tmp_path / "one.jsonl")
    (tmp_path / "none.jsonl").write_text((tmp_path / "one.jsonl").read_text().splitlines()[0] + "\n")
    files = [tmp_path / f"{name}.jsonl" for name in ("none", "masked", "stopped", "one")]
    for chosen in (files[:1], files):
        browser.open(write_report(chosen, tmp_path / "report.html"))
        for key in ("p", *"]]]j" * len(PROMPTS)):
            browser.press(key)
            browser.run("document.querySelectorAll('.card, summary').forEach(node => node.click())")
        assert browser.run("document.getElementById('detail').textContent") != ""
    assert not browser.errors


SHOWN = "document.querySelector('.asked').textContent"
FOUND = "document.getElementById('found').textContent"


@needs_chromium
def test_keys_search_and_filters(browser: Browser, page: Page, stores: list[Path]) -> None:
    browser.open(stores[0].parent / "report.html")
    prompts = [prompt["prompt"] for prompt in page.data["overview"]["prompts"]]
    assert browser.run("document.getElementById('prompts-view').hidden")
    browser.press("p")
    assert browser.run(SHOWN) == prompts[0]
    for key, place in (("j", 1), ("ArrowDown", 2), ("k", 1), ("End", 5), ("j", 5), ("Home", 0)):
        browser.press(key)
        assert browser.run(SHOWN) == prompts[place]
    browser.press("]")
    assert browser.run("document.querySelector('[aria-pressed=true]').textContent").startswith("chain")
    browser.press("[")
    browser.press("Enter")
    assert browser.run("document.activeElement.id") == "detail"
    browser.press("/")
    for letter in "prompt 3":
        browser.press(letter)
    assert browser.run(FOUND) == "1 of 6 prompts"
    assert browser.run(SHOWN) == "prompt 3"
    browser.press("Escape")
    assert browser.run(FOUND) == "6 prompts"
    browser.press("Escape")
    assert browser.run("document.activeElement.id") == "list"
    browser.press("?")
    assert browser.run("document.getElementById('help').open")
    browser.press("o")  # an open dialogue keeps the keys to itself
    assert browser.run("document.getElementById('overview-view').hidden")
    assert not browser.errors


@needs_chromium
def test_flops_stand_in_the_table_of_costs(browser: Browser, page: Page, stores: list[Path], tmp_path: Path) -> None:
    heads = "[...document.querySelectorAll('.cost thead th')].map(node => node.textContent)"
    cells = "[...document.querySelector('.cost tbody tr').children].map(node => node.textContent)"
    browser.open(stores[0].parent / "report.html")
    plain = browser.run(heads)
    assert "GFLOPs" not in plain
    assert browser.run(cells)[plain.index("Prefilled")] == f"{page.data['overview']['methods'][0]['cost']['prompt']:.3g}"
    browser.open(write_report(stores, tmp_path / "report.html", parameters=[Parameters(1e9, 0, 1e6)]))
    made = Page(tmp_path / "report.html").data["overview"]["methods"][0]
    model, _, reward = (part / 1e9 for part in made["flops"])
    shown = dict(zip(browser.run(heads), browser.run(cells), strict=True))
    assert shown["GFLOPs"] == f"{model + reward:.3g}{model:.3g} + {reward:.3g}"
    assert shown["Rated"] == f"{made['cost']['rated']:.3g}"
    assert not browser.errors


@needs_chromium
def test_cards_open_their_rollouts(browser: Browser, page: Page, stores: list[Path]) -> None:
    name = page.data["overview"]["prompts"][2]["id"]
    browser.open(stores[0].parent / "report.html", f"#prompt={name}&method=0")
    shown = page.detail(2, 0)
    columns = shown["tree"]["columns"]
    assert browser.run("[...document.querySelectorAll('.column')].map(node => node.querySelectorAll('.card').length)") == [
        3
    ] * len(columns)
    browser.run("document.querySelector('.card').focus()")
    browser.press("ArrowDown")
    browser.press("Enter")
    count = columns[0]["cards"][1]["rollouts"][1]
    assert browser.run("document.querySelectorAll('.rollouts li').length") == count
    assert browser.run("document.querySelectorAll('.card[aria-expanded=true]').length") == 1
    browser.press("ArrowRight")
    assert browser.run("document.activeElement.dataset.place") == ("1-1" if len(columns) > 1 else "0-1")


@needs_chromium
def test_colours_follow_the_system_and_the_choice(browser: Browser, stores: list[Path]) -> None:
    browser.open(stores[0].parent / "report.html")
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    seen = {}
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        seen[scheme] = browser.run(paper)
    browser.press("t")
    assert browser.run(paper) == seen["light"] != seen["dark"]
    browser.press("t")
    browser.scheme("light")
    assert browser.run(paper) == seen["dark"]
    browser.press("t")
    assert browser.run(paper) == seen["light"]


@needs_chromium
def test_long_lists_draw_only_what_is_in_sight(browser: Browser, tmp_path: Path) -> None:
    prompts = [f"question {number}" for number in range(120)]
    xt.run(target(), prompts, xt.Independent(3), store=tmp_path / "a.jsonl")
    browser.open(write_report([tmp_path / "a.jsonl"], tmp_path / "report.html"))
    browser.press("p")
    assert 5 < browser.run("document.querySelectorAll('.row').length") < 60
    browser.press("End")
    assert browser.run(FOUND) == "120 prompts"
    assert browser.run("document.querySelector('.row[aria-selected=true]').getAttribute('aria-posinset')") == "120"
    browser.run("document.querySelector('select[name=sort]').value = 'reward'")
    browser.run("document.querySelector('input[name=falling]').click()")
    browser.run("document.getElementById('list').focus()")
    entries = [prompt["by"][0] for prompt in Page(tmp_path / "report.html").data["overview"]["prompts"]]
    for key, wanted in (("Home", max), ("End", min)):
        browser.press(key)
        shown = wanted(entry["reward"] for entry in entries)
        assert browser.run("document.querySelector('.answer-block .facts b').textContent") == f"{shown:.3g}".replace("-", "−")


@needs_chromium
def test_pictures_are_shown_as_pictures(browser: Browser, tmp_path: Path) -> None:
    """In the list, on the tabs, as the answer and on every card, each in its own proportions: cards once stretched them."""
    shown = Target(engine_of(Formula(bent, (0.2, 0.5, 0.9), shape=(4, 4))), Ink(), BETA)
    xt.run(shown, ["1", "2"], xt.ETS(3, 1, 1), select=xt.draw, store=tmp_path / "ets.jsonl")
    xt.run(shown, ["1", "2"], xt.SMC(2, 1), select=xt.draw, store=tmp_path / "smc.jsonl")
    browser.open(write_report([tmp_path / "ets.jsonl", tmp_path / "smc.jsonl"], tmp_path / "report.html"))
    browser.press("p")
    assert browser.run("document.querySelectorAll('.row img, .methods img, .answer-block img').length") == 2 + 2 + 1
    sizes = browser.run("[...document.querySelectorAll('.card img')].map((image) => [image.offsetWidth, image.offsetHeight])")
    assert len(sizes) == 6  # of the first step nothing can be seen yet: it is the noise that the picture begins with
    assert all(width == height > 20 for width, height in sizes)
    assert browser.run("[...document.images].every((image) => image.naturalWidth === 4)")
    assert not browser.errors
