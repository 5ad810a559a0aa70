"""What notebooks show of all results of a run: a table with one row for each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exptilt.draft import prompt_text, shortened
from exptilt.markup import Child, element, joined
from exptilt.populations.notebook import bar, facts, framed, number, passage, table
from exptilt.running.made import made_words
from exptilt.running.result import Failure, Outcome

_MOST_ROWS = 25


def results_html(outcomes: Sequence[Outcome], header: Mapping[str, Any]) -> str:
    """The outcomes of a run in a table, one row for each prompt, with what they cost and where they were made."""
    failed = sum(isinstance(outcome, Failure) for outcome in outcomes)
    tokens = sum(outcome.usage.tokens for outcome in outcomes if outcome.usage is not None)
    told = [("prompts", str(len(outcomes))), ("failed", str(failed)), ("tokens", f"{tokens:,}")]
    names = [("", "xt-n"), ("prompt", "xt-words"), ("answer", "xt-words"), ("share", "xt-n"), ("reward", "xt-n"), ("ESS", "xt-n")]
    rows = [_row(place, outcome) for place, outcome in enumerate(outcomes[:_MOST_ROWS])]
    left = len(outcomes) - len(rows)
    made = made_words(header.get("made", {}))
    return framed(
        facts(*(pair for pair in told if pair != ("failed", "0"))),
        table([*names, ("tokens", "xt-n")], rows) if rows else None,
        element("div", f"and {left} more: to_pandas() has all", class_="xt-soft") if left else None,
        element("div", made, class_="xt-soft") if made else None,
    )


def _row(place: int, outcome: Outcome) -> list[Child]:
    prompt = element("span", shortened(prompt_text(outcome.prompt), 90), dir_="auto")
    tokens = "" if outcome.usage is None else f"{outcome.usage.tokens:,}"
    if isinstance(outcome, Failure):
        said = element("div", f"{outcome.error}: {shortened(outcome.message, 200)}", class_="xt-note")
        return [str(place), prompt, said, "", "", "", tokens]
    answer, share = next(iter((outcome.posterior or {}).items()), (None, None))
    shown = passage(outcome.draft.glimpse) if answer is None else element("b", shortened(str(answer), 90), dir_="auto")
    reward = "" if outcome.reward is None else number(outcome.reward)
    held = "" if share is None else joined(bar(share), f"{share:.0%}")
    return [str(place), prompt, shown, held, reward, f"{outcome.population.ess:.1f}", tokens]
