"""Tasks of lm-evaluation-harness: its prompts and few-shot examples, its stop strings, its scoring.

The harness loads the data, from the hub or from the local files that a task's YAML names, writes the prompts, and scores a
response: a *filter* takes the answer out of it, a *metric* compares it. Here one filter and one metric of a task decide
what is right; the reference of a problem is its document as JSON, which is all that scoring needs.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from exptilt.answers import Answer, exact
from exptilt.answers.references import reference
from exptilt.errors import ExptiltError, install
from exptilt.evaluation.tasks.papers import HarnessTask
from exptilt.evaluation.tasks.task import Task

_CAP = 256  # tokens of a response where the task says nothing, as the harness has it
_SEED = 1234  # of the choice of few-shot examples, as in the harness
_SHARES = ("exact_match", "acc", "prompt_level_strict_acc", "bleu_acc", "math_verify", "mc2")
_OWN = Path(__file__).parent / "sets"


def harness_task(name: str, asked: HarnessTask, problems: int | None, include: str | None) -> Task:
    """A task or group of the harness as a `Task`; the parts of a group take turns. See `exptilt.evaluation.tasks.load_task`."""
    with _same_order():
        loaded = _load(asked.harness, include)
        parts = [[(part, instance) for instance in _instances(part, problems, asked)] for part in loaded.values()]
    instances = [pair for turn in zip_longest(*parts) for pair in turn if pair is not None][:problems]
    judges = {part.config.task: _judge(part, asked) for part in loaded.values()}
    ends = {response_ends(instance.args[1]) for _, instance in instances}
    if len(ends) != 1:
        raise ExptiltError(
            f"the parts of lm-eval:{asked.harness} end their responses in different ways ({ends}): evaluate each alone"
        )
    ((cap, stop),) = ends
    for part, instance in instances:
        judges[part.config.task].check(instance.doc)
    return Task(
        name=name,
        prompts=tuple(instance.args[0] for _, instance in instances),
        references=tuple(json.dumps([part.config.task, instance.doc], default=str) for part, instance in instances),
        answer=asked.answer
        or _filtered(f"{asked.harness} {asked.scoring}", [judge for judge in judges.values() if isinstance(judge, _Metric)]),
        correct=_Correct(judges),
        max_tokens=asked.max_tokens or cap,
        stop=stop,
        seeds=asked.seeds,
    )


def _load(task: str, include: str | None) -> dict[str, Any]:
    """The harness's own task objects by their names."""
    try:
        from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        raise ExptiltError(f"lm-eval:{task} needs {error.name}: {install('eval')}") from None
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    try:
        for folder in filter(None, (include, str(_OWN))):  # reading the thousands of files of the harness takes seconds
            own = TaskManager(include_path=folder, include_defaults=False)
            if task in own.all_tasks:
                return own.load([task])["tasks"]
        return TaskManager(include_path=include).load([task])["tasks"]
    except KeyError:
        raise ExptiltError(
            f"lm-evaluation-harness has no task {task!r}: lm-eval ls tasks lists them; for your own give the folder (include)"
        ) from None
    except (AssertionError, ImportError) as error:  # what a task's own functions need, of some version
        raise ExptiltError(f"lm-eval:{task} lacks a package, install it ({type(error).__name__}: {str(error)[:300]})") from error
    except (OSError, ValueError, RuntimeError) as error:  # no network, another data format
        raise ExptiltError(
            f"the data of lm-eval:{task} cannot be loaded ({type(error).__name__}: {str(error)[:300]}). The harness loads it "
            "from where the task's file says: check the network, or name local files there."
        ) from error


@contextmanager
def _same_order() -> Iterator[None]:
    """Python's generator as the harness seeds it: GPQA's options are shuffled by it whenever its documents are made."""
    state = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)


def _instances(part: Any, problems: int | None, asked: HarnessTask) -> list[Any]:
    """The requests of a task as the harness makes them. Raises ExptiltError for a task that does not generate."""
    kind = part.get_config("output_type")
    if kind != "generate_until":
        raise ExptiltError(
            f"lm-eval:{part.config.task} rates given texts ({kind}), and samplers draw new ones: choose a generating variant, "
            "such as gpqa_diamond_cot_zeroshot, mmlu_redux_generative or truthfulqa_gen, or our own truthfulqa for MC2"
        )
    configured = part.get_config("num_fewshot")
    if configured is None or (asked.shots is not None and configured != 0):  # the harness does not let a 0 be changed
        part.set_config(key="num_fewshot", value=asked.shots or 0)
    if asked.prompt_template is not None:
        part.set_config(key="doc_to_text", value=asked.prompt_template)
        part.set_config(key="description", value="")  # it says how to answer, which the prompt does
    part.set_fewshot_seed(seed=_SEED)
    try:
        part.build_all_requests(limit=problems)
    except Exception as error:  # a template may be wrong in any way, and the harness's own files are not
        if asked.prompt_template is None:
            raise
        fields = ", ".join(next(iter(part.eval_docs), {}))
        raise ExptiltError(
            f"the prompt template {asked.prompt_template!r} does not suit the documents of lm-eval:{part.config.task} "
            f"({type(error).__name__}: {error}): their fields are {fields}"
        ) from error
    return part.instances


def response_ends(arguments: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
    """Token cap and stop strings of a request."""
    until = arguments.get("until") or []
    return int(arguments.get("max_gen_toks", _CAP)), tuple([until] if isinstance(until, str) else until)


def _scoring(part: Any, scoring: str | None) -> tuple[str, str]:
    """The filter and the metric, from "FILTER:METRIC" or "METRIC", checked against what the task has."""
    filters = [each.name for each in part._filters]
    metrics = [each["metric"] for each in part.config.metric_list if isinstance(each["metric"], str)]
    chosen, _, metric = (scoring or "").rpartition(":")
    chosen = chosen or filters[0]
    metric = metric or next((each for each in _SHARES if each in metrics), "")
    if chosen not in filters or not metric:
        raise ExptiltError(
            f"lm-eval:{part.config.task} has the filters {', '.join(filters)} and the metrics {', '.join(metrics)}: give "
            f"FILTER:METRIC with a metric that is 0 or 1 for a single response, not {scoring!r}"
        )
    return chosen, metric


def _judge(part: Any, asked: HarnessTask) -> _Metric | _Same:
    if asked.scoring != "answer":
        return _Metric(part, *_scoring(part, asked.scoring))
    if asked.answer is None:
        raise ExptiltError(
            "scoring by answer compares what a reader of answers finds: name it (answer= of load_task, --answer), such as number"
        )
    return _Same(part, asked.answer)


@dataclass(frozen=True, eq=False)
class _Same:
    """A response is right if what a reader finds in it is what it finds in the task's target, or one of its targets."""

    part: Any
    read: Answer

    def check(self, doc: Mapping[str, Any]) -> None:
        """Raises ExptiltError for a document whose target has no answer."""
        if not self._right(doc):
            raise ExptiltError(
                f"the target {self.part.doc_to_target(doc)!r} of a problem of lm-eval:{self.part.config.task} has no answer that "
                "is read there: give another reader (answer= of load_task, --answer) or scoring (FILTER:METRIC)"
            )

    def right(self, text: str, doc: Mapping[str, Any]) -> bool:
        return self.read(text) in self._right(doc)

    def _right(self, doc: Mapping[str, Any]) -> set[str]:
        target = self.part.doc_to_target(doc)
        each = target if isinstance(target, list) else [target]
        return {found for one in each if (found := reference(self.read, str(one))) is not None}


@dataclass(frozen=True, eq=False)
class _Metric:
    """Scores responses by a filter and a metric of the task."""

    part: Any
    filter: str
    metric: str

    def check(self, doc: Mapping[str, Any]) -> None:
        """Whether it can score is known with the first response."""

    def answer(self, text: str, doc: Any = None) -> Any:
        """What the filter takes out of a response."""
        from lm_eval.api.instance import Instance  # type: ignore[import-not-found]

        instance = Instance("generate_until", doc or {}, ("", {}), 0, resps=[text])
        chosen = next(each for each in self.part._filters if each.name == self.filter)
        chosen.apply([instance])
        return instance.filtered_resps[self.filter]

    def ignored(self) -> list[str]:
        """What the metric leaves out when it compares: "1,234" and "1234" are one answer where it ignores commas."""
        settings = next(each for each in self.part.config.metric_list if each["metric"] == self.metric)
        return list(settings.get("regexes_to_ignore") or ())

    def right(self, text: str, doc: Any) -> bool:
        scores = self.part.process_results(doc, [self.answer(text, doc)])
        if self.metric not in scores or not isinstance(scores[self.metric], int | float):
            raise ExptiltError(
                f"lm-eval:{self.part.config.task} gives {sorted(scores)} for a response, and {self.metric!r} is not a number "
                "there: choose another metric (scoring)"
            )
        return scores[self.metric] == 1


@dataclass(frozen=True)
class _Filtered:
    """Reads answers for votes with the task's own filter; a response in which it finds nothing has no answer.

    name: what a results file calls it; the judge is not part of a run's settings.
    """

    name: str
    judge: _Metric = field(compare=False)

    def __call__(self, text: str) -> str | None:
        found = self.judge.answer(text)
        found = found[0] if isinstance(found, list) and found else found
        if found in (None, "[invalid]", "invalid", "", []):
            return None
        for pattern in self.judge.ignored():
            found = re.sub(pattern, "", str(found))
        return exact(str(found))


def _filtered(name: str, judges: list[_Metric]) -> _Filtered:
    """The reader of a task's answers for votes. Raises ExptiltError where no one filter can read all responses by themselves."""
    task = judges[0].part.config.task
    configured = [judge.part.config.filter_list for judge in judges]
    if any(other != configured[0] for other in configured):
        raise ExptiltError(
            f"the parts of {name.split()[0]} read answers with different filters, and a vote knows only the response: "
            "give the reader of answers (answer= of load_task, --answer), such as number or choice"
        )
    reader = _Filtered(name, judges[0])
    try:
        reader("A. 1")
    except Exception as error:  # a filter is the task's own code, and may need anything of the problem
        raise ExptiltError(
            f"the filter {judges[0].filter!r} of lm-eval:{task} cannot read a response without its problem ({error!r}), as votes "
            "must: give the reader of answers (answer= of load_task, --answer), such as number or choice"
        ) from error
    return reader


@dataclass(frozen=True)
class _Correct:
    """Scores a response by the judge of the task that its reference names."""

    judges: dict[str, _Metric | _Same]

    def __call__(self, text: str, reference: str) -> bool:
        task, doc = json.loads(reference)
        return self.judges[task].right(text, doc)
