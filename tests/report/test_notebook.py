"""What notebooks show: results, populations and runs as HTML that no text can break out of, and that reads well in a browser."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import exptilt as xt
from exptilt.engines import MaskedTableEngine
from exptilt.markup import Html, element, joined
from exptilt.populations.growth import Columns, Walk, growth
from exptilt.samplers.trace import Step, Tree
from exptilt.testing.toys import autoregressive, random_fill
from tests.report.browser import CHROMIUM, Browser
from tests.report.stores import HOSTILE

TOY = autoregressive(5, cap=12)
SAMPLERS = {
    "ets": xt.ETS(8, 2, 2),
    "smc": xt.SMC(9, 2, 1),
    "chain": xt.SuffixMCMC(30),
    "chains": xt.SuffixMCMC(30, chains=3),
    "independent": xt.Independent(20),
    "gibbs": xt.ParticleGibbs(xt.SMC(3, 2, 1), steps=3),
    "beam": xt.Beam(3, 2, value=lambda prompt, drafts: [0.0 for _ in drafts]),
}
VOID = {"br", "img", "meta"}


class Reader(HTMLParser):
    """The elements and the texts of a piece of HTML; open elements must be closed in their order."""

    def __init__(self, source: str) -> None:
        HTMLParser.__init__(self)
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def first(text: str) -> str | None:
    return text[:1] or None


def shown(sampler: str, seed: int = 0) -> tuple[xt.Result, Reader]:
    result = xt.sample(TOY.target, "x", SAMPLERS[sampler], select=xt.vote(first), seed=seed)
    return result, Reader(result._repr_html_())


# ------------------------------------------------------------------------------------------------------------ markup


def test_texts_never_become_markup() -> None:
    made = element(
        "p", "<b>&", element("i", '"', title='"><script>'), None, ["'", Html("<br></br>")], class_="a", data_x=True, id=False
    )
    assert made.source == ('<p class="a" data-x>&lt;b&gt;&amp;<i title="&quot;&gt;&lt;script&gt;">&quot;</i>&#x27;<br></br></p>')
    assert joined("a\x00b\ud800c\x1b[2J").source == "a�b�c�[2J", "what is no character cannot be written into a notebook"


@pytest.mark.parametrize(
    "text", [*HOSTILE, "\ud800", "]]>", "</style><script>x()</script>", "data:image/png;base64,x' onerror='y"]
)
def test_hostile_texts_are_shown_as_texts(text: str) -> None:
    drafts = [xt.Draft(text, (0, number), (-0.1, -0.1), text * (1 + number), "stop") for number in range(3)]
    weighed = xt.Population(drafts, np.zeros(3), np.arange(3.0), beta=1.0)
    step = Step((text, text + text), (0.0, 1.0), 1, 0.0, (1, 2), 0)
    grown = xt.Population(drafts, np.zeros(3), np.arange(3.0), trace=Tree((step, step)))
    result = xt.Result(
        text, drafts[0], grown, xt.sample(TOY.target, "x", xt.Independent(1)).usage, (), xt.Independent(3), 0,
        limit=text, stopped="until", warnings=(text,), posterior={text: 0.5, None: 0.5}, proved=text,
    )  # fmt: skip
    runs = xt.Results(
        [result, xt.Failure(text, text, text)], {"made": {"date": text, "device": text, "versions": {"exptilt": text}}}
    )
    for each in (weighed, grown, result, runs):
        source = each._repr_html_()
        read = Reader(source)
        source.encode()
        assert not {"script", "img", "iframe", "a", "b onclick"} & set(read.tags)
        assert not [name for name in read.attributes if name.startswith("on") or name in ("src", "href")]
        assert read.tags.count("style") == 1


# ------------------------------------------------------------------------------------------------------------ drawing


def test_a_tree_shows_its_steps_and_its_path() -> None:
    result, read = shown("ets")
    grown = growth(result.population.trace, len(result.population), result.text)
    assert isinstance(grown, Columns)
    assert [sum(card.path for card in column.cards) for column in grown.columns] == [1] * len(grown.columns)
    assert "Tree" in read.texts
    assert "and 2 more" in read.texts, "six of eight candidates are shown"
    assert all(column.title in read.texts for column in grown.columns)
    assert read.tags.count("svg") == len(grown.columns) - 1


def test_particles_lead_to_the_chosen_draft() -> None:
    result, read = shown("smc")
    grown = growth(result.population.trace, len(result.population), result.text)
    assert isinstance(grown, Columns)
    path = [next(number for number, card in enumerate(column.cards) if card.path) for column in grown.columns]
    assert grown.columns[-1].cards[path[-1]].text == result.text
    for column, here, before in zip(grown.columns[1:], path[1:], path, strict=False):
        assert column.cards[here].parent == before
    assert "Generations" in read.texts


def test_a_chain_is_a_curve_of_its_states() -> None:
    result, _ = shown("chains")
    grown = growth(result.population.trace, len(result.population), result.text)
    assert isinstance(grown, Walk)
    assert (grown.chains, grown.steps * 3) == (3, len(result.population))
    source = result._repr_html_()
    assert source.count('class="xt-curve"') == 3
    values = [float(part.split(" ")[1].split("H")[0]) for part in source.split('d="M')[1].split('"')[0].split("L")]
    rewards = result.population.rewards[0::3]
    assert np.corrcoef(values, rewards)[0, 1] < -0.999, "up is more"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_is_shown(sampler: str) -> None:
    for seed in range(3):
        result, read = shown(sampler, seed)
        assert f"{result.usage.tokens:,}" in read.texts
        Reader(result.population._repr_html_())


def test_odd_populations_are_shown() -> None:
    """Excluded drafts, equal rewards, one draft, no text, infinite rewards, holes of masked models, pictures, other traces."""

    def strict(prompt: str, drafts: Sequence[xt.Draft]) -> list[float]:
        return [-math.inf if draft.tokens[0] == 0 else 1.0 for draft in drafts]

    masked = xt.Target(MaskedTableEngine(random_fill(3, 3), 4), strict, 1.0)
    for sampler in (xt.ETS(4, 2, 2), xt.Independent(30), xt.SMC(6, 2, 1)):
        Reader(xt.sample(masked, "x", sampler)._repr_html_())
    Reader(xt.sample(xt.Target(TOY.target.engine, strict, 1.0), "x", xt.SuffixMCMC(40), seed=1)._repr_html_())
    Reader(xt.sample(xt.Target(TOY.target.engine, xt.rewards.Zero(), 1.0), "x", xt.Independent(1))._repr_html_())

    @dataclass(frozen=True)
    class Mine:
        note: str = "<b>"

    Reader(xt.Population([xt.Draft("x", (0,))], np.zeros(1), np.zeros(1), trace=Mine())._repr_html_())
    picture = xt.Draft("x", (0,), None, "", "stop", output=np.zeros((4, 4)))
    source = xt.Population([picture], np.zeros(1), np.zeros(1))._repr_html_()
    assert Reader(source).tags.count("img") == 1
    address = source.split('src="')[1].split('"')[0]
    assert base64.b64decode(address.partition(",")[2])[:4] == b"\x89PNG"


def test_long_growths_and_runs_are_cut_in_the_middle() -> None:
    engine = xt.engines.TableEngine(lambda prefix: [0.5, 0.5, 0.0] if len(prefix) < 15 else [0.0, 0.0, 1.0], 16, 2)
    long = xt.sample(xt.Target(engine, xt.rewards.Zero(), 1.0), "x", xt.ETS(2, 1, 1))
    assert "… 7 more …" in Reader(long._repr_html_()).texts, "nine of sixteen steps are shown"
    many = xt.run(TOY.target, [f"prompt {number}" for number in range(40)], xt.Independent(2))
    read = Reader(many._repr_html_())
    assert "and 15 more: to_pandas() has all" in read.texts
    assert read.tags.count("tr") == 26
    assert len(many._repr_html_()) < 60_000
    assert Reader(xt.Results()._repr_html_()).tags.count("table") == 0


def test_an_answer_of_a_vote_stands_in_the_table() -> None:
    read = Reader(xt.run(TOY.target, ["x", ""], xt.Independent(9), select=xt.vote(first))._repr_html_())
    assert {"prompts", "failed"} <= {text.strip() for text in read.texts}
    assert any("PromptError" in text for text in read.texts)
    assert any(f"exptilt {xt.__version__}" in text for text in read.texts)


# ------------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium or google-chrome on PATH")
@pytest.mark.parametrize(("paper", "ink"), [("#ffffff", "#111111"), ("#111111", "#e3e3e3")])
def test_it_reads_well_on_light_and_on_dark(browser: Browser, tmp_path: Path, paper: str, ink: str) -> None:
    """A notebook has its own colours, whatever the system's are: texts must stand out from them, and nothing may overflow."""
    drawn = [xt.sample(TOY.target, "x", each, select=xt.vote(first))._repr_html_() for each in SAMPLERS.values()]
    drawn.append(xt.run(TOY.target, [f"prompt {text}" for text in ("a" * 300, "b", "")], xt.Independent(9))._repr_html_())
    page = tmp_path / "page.html"
    body = f"<body style='background:{paper};color:{ink};margin:8px'>{'<hr>'.join(drawn)}"
    page.write_text(f"<!doctype html><html data-ready='true'><meta charset=utf-8><title>x</title>{body}", encoding="utf-8")
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        for width in (1200, 390):
            browser.resize(width, 800)
            browser.open(page)
            assert browser.run("document.documentElement.scrollWidth") <= width
            assert browser.run(CONTRAST) > 4.5
            assert browser.run("document.querySelectorAll('.xt-path').length") > 0
    assert browser.requests[-1] == page.resolve().as_uri()
    assert not browser.errors


CONTRAST = """(() => {
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const page = getComputedStyle(document.body).backgroundColor;
  const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  const level = (...colours) => {
    probe.clearRect(0, 0, 1, 1);
    for (const colour of colours) {
      probe.fillStyle = colour;
      probe.fillRect(0, 0, 1, 1);
    }
    const [red, green, blue] = [...probe.getImageData(0, 0, 1, 1).data].map((part) => linear(part / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const says = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  const texts = [...document.querySelectorAll(".exptilt *")].filter((node) => says(node) && !node.closest("svg"));
  return Math.min(...texts.map((node) => {
    const [one, two] = [level(page, getComputedStyle(node).color), level(page)];
    return (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
  }));
})()"""
