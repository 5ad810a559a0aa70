"""A first answer without a reward: the model's own vote over several responses, how sure it is, and what would help.

    answer = xt.ask("tiny", "Tom has 3 apples and buys 2 more. How many has he?")
    answer.answer, answer.posterior, answer.advice

n independent responses are drawn from the model and vote (self-consistency). Different responses count once where the model's
log-probabilities tell how likely they were to be found (docs/fewer_tokens.md). The vote says what the model believes, and not
whether it is right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exptilt.core import Engine, Target
from exptilt.draft import Prompt, shortened
from exptilt.errors import UsageError
from exptilt.markup import element
from exptilt.names import engine as named_engine
from exptilt.names.answers import find_answer
from exptilt.populations.leading import leading, leads
from exptilt.populations.notebook import framed
from exptilt.populations.select import vote
from exptilt.rewards.rules import Zero
from exptilt.running.notebook import result_html
from exptilt.running.result import Result
from exptilt.running.run import sample
from exptilt.samplers import Independent
from exptilt.usage import Usage

_SURE = 0.95  # the probability at which a lead is no chance
_LOW = 0.35  # a leading share below this says that the model does not know
_HIGH = 0.8  # and one above that it is of one mind
_MOST = 512  # draws that are still worth advising


@dataclass(frozen=True)
class Asked:
    """The answer to a question.

    result: the whole result, as `sample` returns it.
    answer: the answer that won the vote, in canonical form; None where no response has one.
    advice: one or two sentences on how sure that is, and what would help.
    """

    result: Result
    answer: str | None
    advice: str

    @property
    def text(self) -> str:
        """The most probable response that gives the answer."""
        return self.result.text

    @property
    def posterior(self) -> Mapping[str | None, float]:
        """The probability of each answer under the model, as far as these responses tell; None for responses without one."""
        return self.result.posterior or {}

    @property
    def share(self) -> float:
        """The probability of the answer."""
        return self.posterior.get(self.answer, 0.0)

    @property
    def usage(self) -> Usage:
        """What it cost."""
        return self.result.usage

    def __repr__(self) -> str:
        told = "no answer" if self.answer is None else f"{shortened(self.answer, 60)!r}, {self.share:.0%}"
        count = len(self.result.population)
        return f"Asked({told} of {count} responses, {self.usage.tokens:,} tokens)\n{self.advice}"

    def _repr_html_(self) -> str:
        """The answer in a notebook: what was found, the advice, and the responses behind it."""
        found = "No answer" if self.answer is None else shortened(self.answer, 200)
        title = element("div", found, class_="xt-answer", dir_="auto")
        return framed(title, element("div", self.advice, class_="xt-advice"), result_html(self.result, rated=False))


def ask(
    model: str | Engine,
    question: Prompt | Sequence[Mapping[str, Any]],
    n: int = 16,
    *,
    answer: str | Any = "number",
    seed: int = 0,
    **sampling: Any,
) -> Asked:
    """Ask a model the same question n times, and let the responses vote.

    model: a name as `exptilt.load` takes it, or a loaded engine.
    question: a string, a `Chat`, or a list of messages.
    answer: what counts as an answer: "number", "quantity", "latex", "choice", "code" or "exact", or a function of a text.
    sampling: options of `exptilt.load` for a name, such as max_tokens=512; sampling parameters for an engine.

    Raises what `load` and `sample` raise; UsageError for an answer of an unknown name.
    """
    if isinstance(n, bool) or not (isinstance(n, int) and n >= 1):
        raise UsageError(f"n={n!r} is the number of responses: give a whole number of 1 or more")
    read = find_answer(answer)
    engine = named_engine(model, **sampling) if isinstance(model, str) else _sampled(model, sampling)
    target = Target(engine, Zero(), beta=1.0)
    result = sample(target, question, Independent(n), select=vote(read), seed=seed)
    name = answer if isinstance(answer, str) else getattr(answer, "__name__", "the function")
    return Asked(result, read(result.text), advice(result, read, name, engine.max_tokens))


def _sampled(engine: Engine, sampling: Mapping[str, Any]) -> Engine:
    return engine.with_sampling(**sampling) if sampling else engine


def advice(result: Result, read: Any, name: str, cap: int) -> str:
    """How sure a vote is, and what would help: the first of these that holds.

    No response has an answer; half of them have none; half of them were cut; the answer is proved; the model does not know;
    the lead may be chance; the model is of two minds; it is of one mind.

    read, name: what reads answers, and what it is called.
    cap: tokens of a response.
    """
    drafts, posterior = result.population.drafts, result.posterior or {}
    count = len(drafts)
    cut = sum(draft.finish == "length" for draft in drafts)
    if all(found is None for found in posterior):
        more = f" {cut} of them were cut at {cap} tokens: raise max_tokens." if 2 * cut >= count else ""
        return (
            f"No answer: {name!r} finds none in any of {_responses(count)}.{more} Say what counts as an answer "
            "(answer='choice', 'latex', 'exact' or a function), or ask for a form, such as \"End with a number.\""
        )
    unread = sum(read(draft.text) is None for draft in drafts)
    if 2 * unread >= count:
        return (
            f"{unread} of {_responses(count)} have no answer that {name!r} finds, so the others decide alone. Say what counts "
            "as an answer (answer='choice', 'latex', 'exact' or a function), or ask for a form, such as \"End with a number.\""
        )
    if 2 * cut >= count:
        return f"{cut} of {_responses(count)} were cut at {cap} tokens, so their answers may be missing: raise max_tokens."
    _, first, second = leading(result.population, read, np.ones(count))
    share = posterior.get(read(result.text), 0.0)
    if result.proved is not None:
        return f"Proved to be the model's most probable answer: more responses cannot change it. {_VERIFIER}"
    if share < _LOW:
        return (
            f"The model does not agree with itself (the first answer has {share:.0%}), so more responses would only show that "
            "more exactly. A reward that checks answers, a larger model, or a question that asks for steps would help."
        )
    if (sure := leads(first, second)) < _SURE:
        return _more(count, first / count, second / count, sure)
    if share < _HIGH:
        return f"The first answer leads surely, and with {share:.0%} the model is not of one mind. {_VERIFIER}"
    return f"The model agrees with itself ({share:.0%}): more responses would hardly change the answer. {_VERIFIER}"


_VERIFIER = "Whether it is right, only a check can tell: give a reward (xt.sample, exptilt sample --reward)."


def _more(count: int, first: float, second: float, sure: float) -> str:
    """That the lead may be chance, and how many responses would settle it where that is within reach."""
    gap = first - second
    even = 32 if count < 16 else math.inf  # of few responses a tie says nothing
    needed = even if gap <= 0 else 2.71 * (first + second - gap**2) / gap**2  # where the lead is 1.645 standard errors
    wanted = max(8, 2 * count, needed)
    said = f"The lead may be chance: it is the model's most probable answer with a probability of {sure:.0%}."
    if wanted > _MOST:
        return f"{said} The first two answers are about as frequent: a reward that checks answers helps more than further draws."
    return f"{said} More responses would tell: try n={2 ** math.ceil(math.log2(wanted))}."


def _responses(count: int) -> str:
    return f"{count} response{'s' * (count != 1)}"
