"""A first answer without a reward: the vote, what it says of itself, and what it advises."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser

import numpy as np
import pytest

import exptilt as xt
from exptilt import names
from exptilt.cli import main
from exptilt.engines import TableEngine
from exptilt.errors import UsageError
from exptilt.keys import Key
from exptilt.populations.leading import leads
from exptilt.running.ask import advice

QUESTION = "How many?"


def table(shares: Mapping[str, float], cap: int = 2) -> TableEngine:
    """A model whose response is one of these words, with its probability; log-probabilities are known."""
    words = [*shares, ""]
    first, end = [*shares.values(), 0.0], [0.0] * len(shares) + [1.0]
    return TableEngine(lambda prefix: end if prefix else first, cap, len(shares), symbols=words)


def asked(shares: Mapping[str, float], n: int = 16, cap: int = 2, **more: object) -> xt.Asked:
    return xt.ask(table(shares, cap), QUESTION, n, **more)  # type: ignore[arg-type]


def test_the_answer_is_that_of_sample_with_a_vote() -> None:
    engine = table({"3": 0.5, "4": 0.3, "5": 0.2})
    found = xt.ask(engine, QUESTION, 24, seed=7)
    vote = xt.vote(xt.answers.number)
    whole = xt.sample(xt.Target(engine, xt.rewards.Zero(), 1.0), QUESTION, xt.Independent(24), select=vote, seed=7)
    assert (found.text, found.posterior, found.usage.tokens) == (whole.text, whole.posterior, whole.usage.tokens)
    assert (found.answer, found.share) == (xt.answers.number(whole.text), whole.posterior and max(whole.posterior.values()))


def test_different_responses_count_by_their_chance_to_be_found() -> None:
    """With log-probabilities a vote of few draws knows the shares of what it saw; without, it counts heads."""
    shares = {"3": 0.5, "4": 0.3, "5": 0.2}
    found = asked(shares, 40)
    assert found.posterior == pytest.approx(shares, abs=0.01)
    counted = np.array([draft.text for draft in found.result.population.drafts])
    assert np.mean(counted == "3") != pytest.approx(0.5, abs=0.01)


def test_what_is_proved_is_said() -> None:
    found = asked({"3": 0.9, "4": 0.1})
    assert found.result.proved == found.answer == "3"
    assert found.advice.startswith("Proved to be the model's most probable answer")
    assert "Whether it is right, only a check can tell" in found.advice


def no_logq(counts: Mapping[str, int], finish: str = "stop", n: int | None = None) -> xt.Result:
    """A result whose responses are these many of each text, from a model without log-probabilities."""
    texts = [text for text, count in counts.items() for _ in range(count)]
    drafts = [xt.Draft("x", (number,), None, text, finish) for number, text in enumerate(texts)]  # type: ignore[arg-type]
    population = xt.Population(drafts, np.full(len(drafts), -math.log(len(drafts))), np.zeros(len(drafts)), beta=1.0)
    vote = xt.vote(xt.answers.number)
    usage = xt.sample(xt.Target(table({"3": 1.0}), xt.rewards.Zero(), 1.0), "x", xt.Independent(1)).usage
    posterior = vote.posterior(population)
    return xt.Result("x", vote(population, Key(0)), population, usage, (), xt.Independent(len(drafts)), 0, posterior=posterior)


ADVICE: Sequence[tuple[Mapping[str, int], str, str]] = [
    ({"a": 9, "b": 7}, "stop", r"No answer: 'number' finds none in any of 16 responses\. Say what counts"),
    ({"a": 16}, "length", r"No answer: .* 16 of them were cut at 64 tokens: raise max_tokens\."),
    ({"3": 6, "b": 10}, "stop", r"10 of 16 responses have no answer that 'number' finds"),
    ({"3": 16}, "length", r"16 of 16 responses were cut at 64 tokens"),
    ({"3": 4, "4": 3, "5": 3, "6": 3, "7": 3}, "stop", r"does not agree with itself \(the first answer has 25%\)"),
    ({"3": 6, "4": 5, "5": 5}, "stop", r"The lead may be chance: .* of 61%\. More responses would tell: try n=512\."),
    ({"3": 8, "4": 8}, "stop", r"The lead may be chance: .* of 50%\. The first two answers are about as frequent"),
    ({"3": 3, "4": 1}, "stop", r"of 81%\. More responses would tell: try n=16\."),
    ({"3": 1}, "stop", r"of 75%\. More responses would tell: try n=8\."),
    ({"3": 22, "4": 10}, "stop", r"leads surely, and with 69% the model is not of one mind"),
    ({"3": 15, "4": 1}, "stop", r"The model agrees with itself \(94%\): more responses would hardly change the answer"),
]


@pytest.mark.parametrize(("counts", "finish", "wanted"), ADVICE)
def test_the_advice_fits_what_was_seen(counts: Mapping[str, int], finish: str, wanted: str) -> None:
    import re

    said = advice(no_logq(counts, finish), xt.answers.number, "number", 64)
    assert re.search(wanted, said), said
    assert said.endswith((".", ")", '"'))


@pytest.mark.parametrize(("counts", "share"), [({"3": 12, "4": 8}, 0.6), ({"3": 6, "4": 2}, 0.75)])
def test_as_many_responses_as_are_advised_settle_the_lead(counts: Mapping[str, int], share: float) -> None:
    """If the shares are what they seem: in most runs of so many responses the lead is sure, and in few of as many as before."""

    def sure(n: int) -> float:
        chances = [math.comb(n, first) * share**first * (1 - share) ** (n - first) for first in range(n + 1)]
        lead = [leads(max(first, n - first), min(first, n - first)) >= 0.95 for first in range(n + 1)]
        return sum(chance for chance, settled in zip(chances, lead, strict=True) if settled)

    said = advice(no_logq(counts), xt.answers.number, "number", 64)
    wanted = int(said.partition("try n=")[2].rstrip("."))
    assert sure(sum(counts.values())) < 0.5 < sure(wanted)


def test_names_engines_and_answers() -> None:
    def letter(text: str) -> str | None:
        return text[:1] or None

    assert xt.ask(table({"(A) yes": 0.8, "(B) no": 0.2}), QUESTION, 8, answer="choice").answer == "A"
    assert xt.ask(table({"yes": 0.8, "no": 0.2}), QUESTION, 8, answer=letter).answer == "y"
    cold = xt.ask(table({"3": 0.6, "4": 0.4}), QUESTION, 8, temperature=0.05)
    assert cold.share > 0.99
    with pytest.raises(UsageError, match=r"n=0 .* 1 or more"):
        xt.ask(table({"3": 1.0}), QUESTION, 0)
    with pytest.raises(UsageError, match="numbr"):
        xt.ask(table({"3": 1.0}), QUESTION, answer="numbr")


def test_it_is_shown_in_a_few_lines() -> None:
    found = asked({"3": 0.9, "4": 0.1})
    assert repr(found) == f"Asked('3', {found.share:.0%} of 16 responses, {found.usage.tokens} tokens)\n{found.advice}"
    texts: list[str] = []
    parser = HTMLParser()
    parser.handle_data = texts.append  # type: ignore[method-assign]
    parser.feed(found._repr_html_())
    assert {"3", found.advice} <= set(texts)


# ------------------------------------------------------------------------------------------------------ command line


@pytest.fixture(scope="module")
def model() -> str:
    pytest.importorskip("torch")
    return "tiny"


def test_on_the_command_line(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ask", model, "Tom has 3 apples and buys 2 more apples. How many apples has Tom?", "-n", "4", "--max-tokens", "24"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    python = xt.ask(model, words[2], 4, max_tokens=24)
    assert out.strip() == (python.answer or python.text)
    assert python.advice in " ".join(err.split())
    assert f"4 responses · {python.usage.tokens} tokens" in err
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["answer"], told["advice"], told["text"]) == (python.answer, python.advice, python.text)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["ask", "tiny"], "QUESTION"),
        (["ask", "tiny", "x", "-n", "0"], "at least 1"),
        (["ask", "tiny", "x", "--answer", "numbr"], "Did you mean number?"),
        (["ask", "tinny", "x"], "Did you mean tiny?"),
        (["ask", "tiny", "x", "--reward", "arithmetic"], "--reward"),
    ],
)
def test_wrong_words_are_refused(words: list[str], wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert wanted in " ".join(capsys.readouterr().err.split())


def test_methods_by_their_usual_names() -> None:
    """One table serves the command line, the server and lm-evaluation-harness."""
    assert {"plain", "bon", "majority", "qalign", "power"} == set(names.ALIASES)
    assert names.sampler("plain") == xt.Independent(1)
    assert names.sampler("bon", n=3) == xt.Independent(3)
    assert names.sampler("power", steps=5) == xt.SuffixMCMC(5, power=4.0)
    assert isinstance(names.sampler("qalign"), xt.SuffixMCMC)
    assert (names.ALIASES["bon"].select, names.ALIASES["majority"].select) == ("best", "majority")
