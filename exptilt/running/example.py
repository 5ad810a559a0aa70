"""Examples: what a file or a data set has for one problem, a prompt with an id and further columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from exptilt.draft import Chat, Prompt, Turn, as_prompt
from exptilt.errors import PromptError

PROMPT_KEYS = ("prompt", "messages")  # the first that is there, where no other is asked for
ID_KEY = "id"


@dataclass(frozen=True)
class Example:
    """One problem of a data set.

    prompt: what the model is asked: a string, a `Chat`, or a list of messages.
    id: what the data set calls it.
    columns: everything else by name. A reward with further parameters gets those of their names (`exptilt.rewards.columns`).

    What is drawn depends on the prompt alone, whatever its id and its columns.
    """

    prompt: Prompt
    id: str | int | None = None
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", as_prompt(self.prompt))
        object.__setattr__(self, "columns", dict(self.columns))
        if isinstance(self.id, bool) or not (self.id is None or isinstance(self.id, str | int)):
            raise PromptError(f"the id {self.id!r:.60} is of type {type(self.id).__name__}: give a text or a whole number")


def as_example(given: Any, prompt_key: str | None = None, id_key: str | None = None) -> Example:
    """An example as users write it: a prompt, an `Example`, or a row of a data set, with its values by name.

    prompt_key, id_key: the names of the prompt and of the id in a row; else "prompt" or "messages", and "id" where there is one.
    Raises PromptError for what has no prompt.
    """
    if isinstance(given, Example):
        return given
    if isinstance(given, Mapping):
        return _of_row(given, prompt_key, id_key)
    return Example(given)


def _of_row(row: Mapping[Any, Any], prompt_key: str | None, id_key: str | None) -> Example:
    keys = PROMPT_KEYS if prompt_key is None else (prompt_key,)
    found = next((key for key in keys if key in row), None)
    has = ", ".join(map(str, row)) or "none"
    if found is None:
        raise PromptError(f"a row has no {' or '.join(map(repr, keys))} (its keys are {has}): name the prompt's by prompt_key")
    if id_key is not None and id_key not in row:
        raise PromptError(f"a row has no {id_key!r} (its keys are {has}): name the id's by id_key, or leave it out")
    if not (isinstance(row[found], str) or _is_messages(row[found])):
        raise PromptError(f"the prompt {row[found]!r:.80} of a row is not a string or a list of messages")
    name = ID_KEY if id_key is None else id_key
    identity = row.get(name)
    named = id_key is not None or identity is None or (isinstance(identity, str | int) and not isinstance(identity, bool))
    left = {found, name} if named else {found}
    columns = {str(key): value for key, value in row.items() if key not in left}
    return Example(as_prompt(row[found]), identity if named else None, columns)


def _is_messages(value: Any) -> bool:
    return isinstance(value, Chat) or (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(turn, Turn) or (isinstance(turn, Mapping) and "role" in turn) for turn in value)
    )
