"""The results files of a report as methods: a name, the settings they were run with, and their lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exptilt import answers
from exptilt.answers import Answer
from exptilt.draft import as_prompt, prompt_text
from exptilt.running.described import kind_of, sampler_words, select_words
from exptilt.running.store import read_store


@dataclass(frozen=True)
class Method:
    """One results file. name: short, after the file. lines: the file's lines by their ids; each has its "reference", or None."""

    name: str
    path: Path
    settings: Mapping[str, Any]
    lines: Mapping[str, Mapping[str, Any]]

    @property
    def beta(self) -> float:
        return float(self.settings["beta"])

    @property
    def kind(self) -> str:
        """The sampler's class, such as "ETS"."""
        return kind_of(self.settings["sampler"])

    @property
    def label(self) -> str:
        """Sampler and select with the parameters that are not at their defaults, such as "ETS candidates 8, block 16 · vote"."""
        return f"{sampler_words(self.settings['sampler'])} · {select_words(self.settings['select'])}"

    @property
    def target(self) -> dict[str, Any]:
        """What methods must share to be compared: the distribution, the reward and β."""
        return {name: self.settings[name] for name in ("engine", "proposal", "reward", "beta")}

    @property
    def models(self) -> tuple[str | None, str | None]:
        """The names of the model and of its proposal, as far as their engines have names."""
        laws = (self.settings[name] for name in ("engine", "proposal"))
        model, proposal = (law.get("model") if isinstance(law, Mapping) else None for law in laws)
        return model, proposal

    def referred(self, references: Mapping[str, str], key: str | None) -> Method:
        """The same with the right answer of each line: by its prompt, or out of the column of this name."""

        def found(line: Mapping[str, Any]) -> str | None:
            if key is None:
                return references.get(line["prompt"])
            value = line.get("example", {}).get("columns", {}).get(key)
            return None if value is None else str(value)

        return replace(self, lines={name: {**line, "reference": found(line)} for name, line in self.lines.items()})


def collect(paths: Sequence[str | Path]) -> list[Method]:
    """The methods of these files, each with a name of its own. Raises ValueError for no file, or the same one twice."""
    files = [Path(path) for path in paths]
    if not files or len({path.resolve() for path in files}) < len(files):
        raise ValueError(f"{', '.join(map(str, files)) or 'no results file'}: give one or more results files, each once")
    stems = Counter(path.stem for path in files)
    names = [path.stem if stems[path.stem] == 1 else str(path.with_suffix("")) for path in files]
    return [_method(name, path) for name, path in zip(names, files, strict=True)]


def _method(name: str, path: Path) -> Method:
    """One file. Its prompts are texts here, by which references are found; those of chats have their "turns" beside them."""
    settings, lines = read_store(path)
    shown = {}
    for key, line in lines.items():
        prompt = as_prompt(line["prompt"])
        turns = None if isinstance(prompt, str) else prompt.messages
        shown[key] = line | {"prompt": prompt_text(prompt), "turns": turns, "reference": None}
    return Method(name, path, settings, shown)


def reader(methods: Sequence[Method]) -> Answer:
    """What reads answers: the one that the first vote among the methods used, `answers.number` where none tells."""
    for method in methods:
        select = method.settings["select"]
        name = select.get("answer") if isinstance(select, Mapping) else None
        if isinstance(name, str) and (found := getattr(answers, name, None)) is not None:
            return found
    return answers.number
