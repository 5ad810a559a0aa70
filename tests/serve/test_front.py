"""The page at `/` in a real browser: asked by the keyboard, watched while it grows, cancelled, refused, locked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from exptilt.draft import Draft, Prompt
from exptilt.engines import TableEngine
from exptilt.serve.config import Config, Limits
from exptilt.testing.toys import random_table
from tests.report.browser import CHROMIUM, Browser
from tests.report.stores import HOSTILE
from tests.serve.served import Live, catalogue, heads, live, wait_for

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium or google-chrome on PATH")

LIMITS = Limits(grace=1.0)
SEED = "1"  # each step has drafts that the reward has not seen
TEXT = "document.querySelector('#chosen .passage').textContent"
COLUMNS = "document.querySelectorAll('.column').length"
WIDE = "node => node.getBoundingClientRect().right > innerWidth && !node.closest('.scroll, .visually-hidden')"
ENDED = "document.getElementById('cancel').hidden && document.querySelector('.state.done, .state.cancelled, .note.bad') !== null"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


class Gate:
    """A reward that rates as many calls as it is allowed, and then fails, where it is told to."""

    def __init__(self) -> None:
        self.allowed = threading.Semaphore(0)
        self.fails = False

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        assert self.allowed.acquire(timeout=60)
        if self.fails:
            raise ValueError("the reward is broken")
        return heads(prompt, drafts)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.allowed.release(10_000)


def put(browser: Browser, name: str, value: str) -> None:
    """Give a field a value, as a person would who picks or types it."""
    control = f"document.getElementById('ask').elements[{json.dumps(name)}]"
    browser.run(f"(control => {{ control.value = {json.dumps(value)}; control.dispatchEvent(new Event('change')); }})({control})")


def begin(browser: Browser, prompt: str = "hi", **fields: str) -> None:
    """Type a prompt and press Ctrl and Enter."""
    for name, value in fields.items():
        put(browser, name.replace("of_", "of-"), value)
    put(browser, "prompt", "")
    browser.run("document.getElementById('prompt').focus()")
    browser.call("Input.insertText", text=prompt)
    browser.press("Enter", control=True)


def begin_one_step(browser: Browser, server: Live, gate: Gate) -> None:
    """Ask, without a plain draw beside it, and wait until the first step is drawn."""
    browser.open(server.url)
    browser.run("document.getElementById('ask').elements.beside.click()")
    begin(browser, seed=SEED)
    gate.allowed.release()
    browser.wait(f"{COLUMNS} === 1")


def ask(browser: Browser, prompt: str = "hi", **fields: str) -> None:
    begin(browser, prompt, **fields)
    browser.wait("!document.getElementById('cancel').hidden || document.querySelector('.note.bad') !== null")
    browser.wait(ENDED)


def sent(browser: Browser) -> dict[str, Any]:
    return json.loads(browser.run("document.querySelector('#origin pre').textContent"))


def test_an_answer_is_that_of_the_same_request_without_the_page(browser: Browser, server: Live) -> None:
    browser.errors.clear()
    browser.requests.clear()
    browser.open(server.url)
    ask(browser, "hello", seed="3", of_candidates="3")
    asked = sent(browser)
    messages = [{"role": "user", "content": "hello"}]
    assert asked == {"model": "table", "messages": messages, "seed": 3, "exptilt": {"candidates": 3}}
    exptilt = asked.pop("exptilt")
    wanted = server.client().chat.completions.create(**asked, extra_body={"exptilt": exptilt})
    assert browser.run(TEXT) == wanted.choices[0].message.content
    plain = server.client().chat.completions.create(model="table@plain", messages=messages, seed=3)  # pyright: ignore
    shown = browser.run("document.querySelector('#plain .passage').textContent")
    assert shown == (plain.choices[0].message.content or "(empty)")
    assert {url.rpartition("/")[0] for url in browser.requests if url != "about:blank" and "data:" not in url} == {server.url}
    assert not browser.errors


@pytest.mark.parametrize(
    ("sampler", "shown"),
    [("smc", ".column"), ("qalign", ".curve"), ("metropolised", ".curve"), ("bon", ".drafts"), ("beam", ".column")],
)
def test_what_every_kind_of_sampler_does_is_drawn(browser: Browser, server: Live, sampler: str, shown: str) -> None:
    browser.open(server.url)
    ask(browser, sampler=sampler)
    assert browser.run(f"document.querySelectorAll('#origin {shown}').length") > 0
    assert sent(browser)["exptilt"]["sampler"] == sampler
    assert not browser.run("document.querySelector('#trouble').textContent")


def test_a_tree_is_watched_while_it_grows_and_stays_as_a_person_left_it(browser: Browser, gate: Gate) -> None:
    with live(catalogue(reward=gate), Config(name="table", port=0, limits=LIMITS)) as server:
        browser.open(server.url)
        browser.run("document.getElementById('ask').elements.beside.click()")
        begin(browser, seed=SEED)
        assert browser.run(COLUMNS) == 0
        gate.allowed.release()
        browser.wait(f"{COLUMNS} === 1")
        assert browser.run("document.querySelector('.state.running') !== null")
        assert browser.run("document.querySelector('#chosen h2').textContent") == "Chosen so far"
        browser.run("document.querySelector('.card').focus()")
        browser.press("Enter")
        gate.allowed.release()
        browser.wait(f"{COLUMNS} === 2")
        assert browser.run("document.querySelectorAll('.panel .rollouts li').length") > 0
        assert browser.run("document.activeElement.dataset.place") == "0-0"
        gate.allowed.release(100)
        browser.wait(ENDED)
        assert browser.run("document.querySelector('#chosen h2').textContent") == "Chosen"
        assert browser.run("document.querySelector('.card[aria-expanded=true]').dataset.place") == "0-0"


@pytest.mark.parametrize("fields", [{"sampler": "smc", "of_block": "1"}, {"of_returns": "chain"}], ids=["smc", "chain"])
def test_generations_are_watched_before_there_is_a_population(browser: Browser, gate: Gate, fields: dict[str, str]) -> None:
    """A particle filter and a chain yield one population, at their end: the page stayed empty until then."""
    with live(catalogue(reward=gate), Config(name="table", port=0, limits=LIMITS)) as server:
        browser.open(server.url)
        browser.run("document.getElementById('ask').elements.beside.click()")
        begin(browser, seed=SEED, **fields)
        gate.allowed.release()
        browser.wait(f"{COLUMNS} === 1")
        assert browser.run("document.querySelector('.state.running') !== null && document.querySelector('.drafts') === null")
        gate.allowed.release(100)
        browser.wait(ENDED)
        assert browser.run("document.querySelector('.drafts') !== null")


def test_escape_cancels_and_what_was_drawn_stays(browser: Browser, gate: Gate) -> None:
    with live(catalogue(reward=gate), Config(name="table", port=0, limits=LIMITS)) as server:
        begin_one_step(browser, server, gate)
        browser.press("Escape")
        browser.wait("document.querySelector('.state.cancelled') !== null")
        assert browser.run(f"[{COLUMNS}, document.getElementById('go').disabled]") == [1, False]
        gate.allowed.release()
        wait_for(lambda: server.desk.admission.running == 0)


def test_an_error_that_comes_late_is_told_beside_what_came_before(browser: Browser, gate: Gate) -> None:
    with live(catalogue(reward=gate), Config(name="table", port=0, limits=LIMITS)) as server:
        begin_one_step(browser, server, gate)
        gate.fails = True
        gate.allowed.release()
        browser.wait("document.querySelector('#trouble .bad') !== null")
        assert "reward" in browser.run("document.querySelector('#trouble').textContent")
        assert browser.run(COLUMNS) == 1
        assert browser.run("document.querySelector('.state.failed') !== null")


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"of_candidates": "5000"}, "of-candidates"),
        ({"until": "rewards"}, "until"),
        ({"max_tokens": "100000"}, "max_tokens"),
    ],
)
def test_a_refusal_names_the_field_at_fault(browser: Browser, server: Live, fields: dict[str, str], name: str) -> None:
    browser.open(server.url)
    begin(browser, **fields)
    browser.wait("document.querySelector('#trouble .bad') !== null")
    browser.wait("document.getElementById('cancel').hidden")
    assert browser.run("document.querySelector('[aria-invalid=true]').name") == name
    assert browser.run("document.activeElement.name") == name
    ask(browser, sampler="ets", of_candidates="2", until="", max_tokens="")
    assert browser.run("document.querySelector('[aria-invalid=true]')") is None
    assert browser.run("document.querySelector('#trouble').textContent") == ""


def test_a_locked_server_asks_for_its_key(browser: Browser) -> None:
    with live(config=Config(name="table", port=0, api_key="key-1", limits=LIMITS)) as server:
        browser.open(server.url)
        assert browser.run("[document.getElementById('door').open, document.getElementById('go').disabled]") == [True, True]
        browser.call("Input.insertText", text="key-2")
        browser.press("Enter")
        browser.wait("document.getElementById('door-words').textContent.includes('not the right one')")
        browser.run("document.getElementById('key').value = ''")
        browser.call("Input.insertText", text="key-1")
        browser.press("Enter")
        browser.wait("!document.getElementById('door').open")
        ask(browser)
        assert browser.run("document.querySelector('.state.done') !== null")
        browser.open(server.url)  # the tab keeps the key
        assert not browser.run("document.getElementById('door').open")


def test_hostile_texts_are_texts(browser: Browser) -> None:
    table = TableEngine(random_table(3, 4), 6, 3, symbols=HOSTILE)
    browser.errors.clear()
    with live(catalogue(table)) as server:
        for sampler in ("ets", "smc", "qalign"):
            browser.open(server.url)
            ask(browser, HOSTILE[0], sampler=sampler)
            browser.run("document.querySelectorAll('.card, summary').forEach(node => node.click())")
        assert browser.run("document.getElementById('origin').textContent.includes('onerror=')")
        assert browser.run("[window.hacked ?? null, document.querySelectorAll('img').length]") == [None, 0]
    assert not browser.errors


def test_a_phone_shows_it_all_without_scrolling_sideways(browser: Browser, server: Live, tmp_path: Path) -> None:
    try:
        browser.resize(390, 844)
        browser.open(server.url)
        for sampler in ("ets", "qalign", "metropolised"):
            ask(browser, "a prompt " * 30, sampler=sampler)
            browser.run("document.querySelectorAll('.card, summary').forEach(node => node.click())")
            assert browser.run("document.documentElement.scrollWidth <= innerWidth")
            assert browser.run(f"[...document.querySelectorAll('main *')].filter({WIDE}).length") == 0
    finally:
        browser.resize(1280, 860)


def test_colours_follow_the_system(browser: Browser, server: Live) -> None:
    browser.open(server.url)
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    seen = []
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        seen.append(browser.run(paper))
    assert seen[0] != seen[1]
    browser.run("document.getElementById('prompt').blur()")
    browser.press("t")
    assert browser.run(paper) == seen[0]
    browser.press("t")
    browser.press("t")
    assert browser.run(paper) == seen[1]
