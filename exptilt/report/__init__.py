"""One self-contained HTML page about one results file or several: what came out, what it cost, how far to trust it, and why.

    write_report(["runs/ets.jsonl", "runs/qalign.jsonl"], "report.html", references={question: answer, ...})

Results files of the same prompts are compared as methods. The overview shows accuracy against tokens, the cost of
each method, whether the answers' posterior means what it says, and the diagnostics; each prompt shows how its answer
came about: the tree of candidates, the chain, or the generations of particles, as far as the trace tells.

The work is split as the page is: `methods` reads the files, `figures` sums them up, `prompt` and `growth` turn one
line of a file into what the page shows of it, `page` puts it all into HTML. The page itself is in `page/`: plain
JavaScript and CSS that ask for nothing from outside. Model texts are data there and never markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exptilt.answers import Answer
from exptilt.draft import Prompt, prompt_text
from exptilt.evaluation.cost import Parameters
from exptilt.report.figures import summary, warning_kinds
from exptilt.report.methods import Method, collect, reader
from exptilt.report.page import render
from exptilt.report.prompt import detail, glance

MOST_DRAFTS = 300
"""At most as many drafts of one prompt have their texts in the page; more make it slow to open."""


def write_report(
    stores: Sequence[str | Path],
    out: str | Path,
    *,
    references: Mapping[Prompt, str] | Mapping[str, str] | None = None,
    reference_key: str | None = None,
    answer: Answer | None = None,
    title: str = "exptilt report",
    most_drafts: int = MOST_DRAFTS,
    parameters: Sequence[Parameters] = (),
) -> Path:
    """Write the page and return its path.

    stores: results files of `run`; they are only read, and may still be growing.
    references: the right answer of each prompt, by the prompt or its text (`exptilt.draft.prompt_text`); without them
        rewards replace accuracy.
    reference_key: the column of the results that holds the right answer instead, which equal prompts may have different.
    answer: reads the answer out of a text; where not given, the one that the files' own vote used, else `answers.number`.
    most_drafts: texts kept of one prompt and method, the heaviest drafts first; the weights of all are shown.
    parameters: sizes of the models, which the files do not hold, for a column of FLOPs: for each file, or once where all are
        of the same models.

    Raises StoreError for a file that cannot be used, ValueError for none, for references that fit no prompt, or for
    parameters that cannot be those of all files.
    """
    known = {prompt_text(prompt): reference for prompt, reference in (references or {}).items()}
    methods = [method.referred(known, reference_key) for method in collect(stores)]
    read = answer or reader(methods)
    sizes = _of_each(methods, parameters)
    lines = _lines(methods, known, reference_key)
    kinds = warning_kinds(methods)
    index = [
        {
            "id": name,
            "prompt": line["prompt"],
            "turns": line["turns"],
            "reference": line["reference"],
            "by": [_glance(method, name, read, kinds) for method in methods],
        }
        for name, line in lines.items()
    ]
    details = (
        (row, column, detail(method.lines[name], method, read, most_drafts))
        for row, name in enumerate(lines)
        for column, method in enumerate(methods)
        if name in method.lines
    )
    overview = {"title": title, "methods": summary(methods, read, sizes), "warnings": list(kinds), "prompts": index}
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(render(title, overview, details))
    return path


def _lines(methods: Sequence[Method], known: Mapping[str, str], reference_key: str | None) -> dict[str, Any]:
    """For each prompt, by its name in the files, the first line about it; in the order of the references where there are any.

    A file of references is in the order that its reader knows, where results are in the order in which they finished.
    Raises ValueError where no reference belongs to a prompt, or no result has the column of the references.
    """
    lines: dict[str, Any] = {}
    for method in methods:
        lines |= {name: line for name, line in method.lines.items() if name not in lines}
    if known and reference_key is not None:
        raise ValueError("references and reference_key both tell the right answers: give one of them")
    unknown = all(line["reference"] is None for line in lines.values())
    if reference_key is not None and unknown:
        columns = dict.fromkeys(name for line in lines.values() for name in line.get("example", {}).get("columns", {}))
        raise ValueError(f"no result of {methods[0].path} has a column {reference_key!r}: it has {', '.join(columns) or 'none'}")
    if not known:
        return lines
    if unknown:
        raise ValueError(
            f"none of the {len(known)} references belongs to a prompt of {methods[0].path}: give those of its prompts"
        )
    number = {prompt: position for position, prompt in enumerate(known)}
    return dict(sorted(lines.items(), key=lambda item: (number.get(item[1]["prompt"], len(number)), item[0])))


def _of_each(methods: Sequence[Method], parameters: Sequence[Parameters]) -> Sequence[Parameters]:
    """The parameters of each method's models; none where none are given."""
    if len(parameters) != 1:
        if parameters and len(parameters) != len(methods):
            raise ValueError(f"{len(parameters)} sets of parameters for {len(methods)} results files: give one for each, or one")
        return parameters
    for method in methods:
        if method.models != methods[0].models:
            raise ValueError(
                f"{method.path} and {methods[0].path} are of other models ({method.models} and {methods[0].models}): "
                "give the parameters of each"
            )
    return list(parameters) * len(methods)


def _glance(method: Method, name: str, read: Answer, kinds: Mapping[str, int]) -> dict[str, Any] | None:
    line = method.lines.get(name)
    return None if line is None else glance(line, method, line["reference"], read, kinds)
