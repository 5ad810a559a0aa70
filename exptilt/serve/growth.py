"""`/events`: how an answer comes about, as events for a page that draws it: partial results in the form of the report.

    event: begin    {"id", "model", "sampler", "select", "reward", "beta", "seed", "prompt_tokens"}
    event: text     {"index", "text"}: more of the answer that is final whatever follows
    event: growth   {"index", "tree", "texts"}: the tree or the generations so far, where there is no population yet
    event: partial  {"index", "detail", "glance"}: after each population, what the report shows of a prompt: texts, drafts with
                    weights and rewards, tree or chain, the answer that would be chosen now, the cost so far
                    (`exptilt.report.prompt.detail`), and the numbers of its lists (`exptilt.report.prompt.glance`)
    : {...}         a comment twice a second: tokens drawn, populations so far
    event: result   {"index", "detail", "glance", "text", "finish", "exptilt"}: the same of the whole run, with what an answer
                    carries
    event: error    an error in OpenAI's form

Populations that come faster than they are sent are skipped, so that the latest is always shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exptilt import names
from exptilt.describe import describe
from exptilt.populations.growth import Columns, growth
from exptilt.report.growth import Texts, columns_json
from exptilt.report.methods import Method
from exptilt.report.prompt import detail, glance, kind_of, plain
from exptilt.running.lines import decode, encode, to_line
from exptilt.running.result import Partial, Result
from exptilt.serve.answers import Answer, Event, Head, data
from exptilt.serve.refusals import Refusal

DRAFTS = 200  # drafts whose texts are sent, those of the most weight


class GrowthProtocol:
    """Answers as they grow."""

    prefix = "events"
    grows = True

    def answer(self, head: Head, answers: Sequence[Answer]) -> dict[str, Any]:
        raise AssertionError("events are always streamed")

    def begin(self, head: Head, index: int) -> list[Event]:
        recipe = head.recipe
        told = {
            "id": head.id,
            "index": index,
            "model": head.asked.model,
            "sampler": describe(recipe.sampler),
            "select": recipe.select,
            "reward": recipe.reward,
            "beta": recipe.beta,
            "seed": head.seed,
            "prompt_tokens": head.prompt_tokens,
        }
        return [data(told, "begin")]

    def delta(self, head: Head, index: int, text: str) -> list[Event]:
        return [data({"index": index, "text": text}, "text")]

    def partial(self, head: Head, index: int, partial: Partial) -> list[Event]:
        """A population that came. Raises SelectError where no answer can be picked from it."""
        so_far = Result(
            prompt=partial.prompt,
            draft=partial.draft,
            population=partial.population,
            usage=partial.usage,
            trace=partial.trace,
            sampler=head.recipe.sampler,
            seed=head.seed,
            posterior=partial.posterior,
        )
        return [data({"index": index, **drawn(head, so_far)}, "partial")]

    def growth(self, head: Head, index: int, trace: object) -> list[Event]:
        """A tree or generations that grew."""
        texts, grown = Texts(), growth(trace, 0, None)
        if not isinstance(grown, Columns):
            return []
        shown = columns_json(grown, texts)
        return [data(plain({"index": index, "tree": shown, "texts": texts.all}), "growth")]

    def finish(self, head: Head, answer: Answer, rest: str) -> list[Event]:
        """The end of one answer. rest: what was not sent yet of its text."""
        whole = {"index": answer.index, **drawn(head, answer.result), "text": answer.text, "finish": answer.finish}
        return [*(self.delta(head, answer.index, rest) if rest else ()), data({**whole, "exptilt": answer.found}, "result")]

    def end(self, head: Head, answers: Sequence[Answer]) -> list[Event]:
        return []

    def error(self, head: Head, refusal: Refusal) -> list[Event]:
        return [data(refusal.body, "error")]


def drawn(head: Head, result: Result) -> dict[str, Any]:
    """What the report shows of a result, in full and at a glance."""
    line = decode(encode(to_line("live", result)))
    method = Method("live", Path(), {"sampler": describe(result.sampler), "beta": head.recipe.beta}, {})
    read = names.ANSWERS.find(head.recipe.answer)
    kinds = {kind_of(warning): number for number, warning in enumerate(line["warnings"])}
    return plain({"detail": detail(line, method, read, DRAFTS), "glance": glance(line, method, None, read, kinds)})
