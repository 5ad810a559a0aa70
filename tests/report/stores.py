"""What the tests of the report share: results files of every sampler on a table, and a page read without a browser."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import exptilt as xt
from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.engines import TableEngine
from exptilt.running.lines import decode
from exptilt.testing.toys import random_table

BETA = 0.5
PROMPTS = [f"prompt {number}" for number in range(6)]
HOSTILE = ("</script><img src=x onerror='window.hacked = 1'>", "<!--<script>", "&lt;b&gt;\u2028'\"`${window.hacked = 1}", "")
SAMPLERS = {
    "ets": xt.ETS(3, 2, 2),
    "chain": xt.ETS(3, 2, 2, returns="chain"),
    "smc": xt.SMC(4, 2),
    "qalign": xt.SuffixMCMC(12, chains=2, burn_in=2),
    "pimh": xt.Metropolised(xt.Independent(3), 4),
    "plain": xt.Independent(8),
}


def reward(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    return [sum(draft.tokens) / 4 for draft in drafts]


def target(symbols: tuple[str, ...] | None = None) -> Target:
    return Target(TableEngine(random_table(3, 4), 6, 3, symbols=symbols), reward, BETA)


def run_all(folder: Path, prompts: Sequence[str] = PROMPTS, symbols: tuple[str, ...] | None = None) -> list[Path]:
    """A results file of each sampler."""
    select = xt.vote(xt.answers.exact)
    for name, sampler in SAMPLERS.items():
        xt.run(target(symbols), prompts, sampler, select=select, store=folder / f"{name}.jsonl", concurrency=2)
    return [folder / f"{name}.jsonl" for name in SAMPLERS]


class Page(HTMLParser):
    """A page read by the standard library: its JSON, its scripts, and whether its tags are closed in their order."""

    _VOID = frozenset({"meta", "br", "img", "input", "link", "hr"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.data: dict[str, Any] = {}
        self.code: dict[str, str] = {}
        self._current: str | None = None
        self.feed(self.html)
        self.close()
        assert not self.open, f"tags were left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.attributes += attrs
        self.ids.update([str(given["id"])] if "id" in given else [])
        if tag not in self._VOID:
            self.open.append(tag)
        is_data = given.get("type") == "application/json"
        self._current = str(given["id"]) if is_data else tag if tag in ("script", "style") else None

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self._current = None

    def handle_data(self, data: str) -> None:
        if self._current in ("script", "style"):
            self.code[self._current] = self.code.get(self._current, "") + data
        elif self._current is not None:
            self.data[self._current] = json.loads(data)

    def detail(self, prompt: int, method: int) -> dict[str, Any]:
        return self.data[f"detail-{prompt}-{method}"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [decode(line) for line in path.read_text().splitlines()][1:]


def details(page: Page, name: str) -> Iterator[dict[str, Any]]:
    place = list(SAMPLERS).index(name)
    return (page.detail(prompt, place) for prompt in range(len(page.data["overview"]["prompts"])))
