"""Prompts and drafts: what is asked of a model, and its responses, finished or not. Log-probabilities are in nats.

A prompt is a plain string or a `Chat`. A plain string is one user turn where the model has a chat template, and the
start of the text where it has none. A chat that ends with a turn of the assistant has a *prefill*: the draft
continues that turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from exptilt.errors import PromptError, TargetError
from exptilt.keys import digest
from exptilt.pictures import StoredPicture, enlarged, pixels, png, thumbnail

Finish = Literal["stop", "length"]
MASK = -1  # the token of an undecided position in a masked-diffusion draft


# --------------------------------------------------------------------------------------------------------- prompts


@dataclass(frozen=True)
class Turn:
    """One message of a chat. role: "system", "user", "assistant", or another that the model's template knows."""

    role: str
    content: str


@dataclass(frozen=True)
class Chat:
    """A conversation as a prompt: at least one turn. A last turn of the assistant is a prefill that the draft continues."""

    turns: tuple[Turn, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "turns", tuple(self.turns))
        if not self.turns:
            raise PromptError('the chat has no messages: give at least one, such as {"role": "user", "content": "..."}')
        if not any(turn.content.strip() for turn in self.turns):
            raise PromptError("every message of the chat is empty: give the model something to answer")

    @classmethod
    def of(cls, messages: Sequence[Mapping[str, Any]]) -> Chat:
        """The chat of messages as OpenAI's API writes them. Raises PromptError where one is not of that form."""
        return cls(tuple(_turn(message, number) for number, message in enumerate(messages, 1)))

    @property
    def prefill(self) -> str | None:
        """The start of the response that is given already; None where the last turn is not the assistant's."""
        return self.turns[-1].content if self.turns[-1].role == "assistant" else None

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns as JSON values, as chat templates and servers read them."""
        return [{"role": turn.role, "content": turn.content} for turn in self.turns]


Prompt = str | Chat


def as_prompt(given: Any) -> Prompt:
    """A prompt as users write it: a string, a Chat, or a list of messages. Raises PromptError for anything else."""
    if isinstance(given, str):
        return str.__str__(given)  # a str of numpy is one by its content, not by how it prints itself
    if isinstance(given, Chat):
        return given
    if isinstance(given, Sequence) and not isinstance(given, bytes | bytearray):
        return Chat.of(given)
    raise PromptError(f"the prompt {given!r:.80} is of type {type(given).__name__}: give a string or a list of messages")


def check_filled(prompt: Prompt) -> None:
    """Refuse a prompt without anything to answer; a `Chat` is checked when it is made."""
    if isinstance(prompt, str) and not prompt.strip():
        raise PromptError(f"the prompt {prompt!r} is empty: give the model something to answer")


def check_characters(prompt: Prompt) -> None:
    """Refuse half of a surrogate pair, as a cut emoji leaves it: it is not a character, and no tokenizer reads it."""
    text = prompt_text(prompt)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 20) : error.start]
        raise PromptError(
            f"the prompt holds {text[error.start]!a}, half of a surrogate pair, after {around!r}: it was cut inside a character. "
            "Cut it elsewhere, or leave that half out."
        ) from None


def prompt_json(prompt: Prompt) -> str | list[dict[str, str]]:
    """The prompt as JSON values: a string, or a list of messages; `as_prompt` reads both."""
    return prompt if isinstance(prompt, str) else prompt.messages


def prompt_text(prompt: Prompt) -> str:
    """The prompt as people read it: a chat as its turns, each after the name of its role."""
    return prompt if isinstance(prompt, str) else "\n\n".join(f"{turn.role}: {turn.content}" for turn in prompt.turns)


def question(prompt: Prompt) -> str:
    """The prompt as a reward that reads text takes it: a string, the one message of a chat of one user turn, else its turns."""
    if isinstance(prompt, Chat) and [turn.role for turn in prompt.turns] == ["user"]:
        return prompt.turns[0].content
    return prompt_text(prompt)


def beginning(prompt: Prompt) -> str:
    """The text that a response continues: the string itself, or the prefill of a chat."""
    return prompt if isinstance(prompt, str) else prompt.prefill or ""


def prompt_digest(prompt: Prompt) -> str:
    """16 hexadecimal digits that stand for the prompt: they name its random streams and its line in a results file."""
    return digest(prompt if isinstance(prompt, str) else "\0chat " + json.dumps(prompt.messages, sort_keys=True))


def _turn(message: Any, number: int) -> Turn:
    where = f"message {number} of the chat"
    if isinstance(message, Turn):
        return message
    if not isinstance(message, Mapping):
        raise PromptError(f'{where} is {message!r:.80}: give {{"role": "user", "content": "..."}}')
    role = message.get("role")
    if not (isinstance(role, str) and role):
        raise PromptError(f'{where} has the role {role!r}: give "system", "user" or "assistant"')
    if unread := sorted(message.keys() - {"role", "content"}):
        raise PromptError(f'{where} has {", ".join(map(repr, unread))}, which no engine reads: give "role" and "content" alone')
    return Turn(role, _content(message.get("content"), where))


def _content(content: Any, where: str) -> str:
    """The text of a message: a string, or OpenAI's list of typed parts where all of them are text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes | bytearray):
        raise PromptError(f"{where} has the content {content!r:.80}: give a string")
    parts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise PromptError(f"{where} has a part that is not text ({part!r:.80}): exptilt reads text only")
        parts.append(text)
    return "".join(parts)


# ---------------------------------------------------------------------------------------------------------- drafts


@dataclass(frozen=True)
class Draft:
    """A response, finished or not. Its identity is the prompt and the token ids; it holds no tensors and no caches.

    tokens: the response's token ids, the end-of-text token included where it was drawn. A masked-diffusion draft
        always has its full length, with MASK where nothing has been decided.
    logq: log-probability (nats) of each decision under the distribution it was drawn from, after temperature and truncation;
        None where the engine cannot tell. One per decision, in the order of the decisions.
    text: the decoded response without end-of-text and stop string. Empty after `cut`, until an engine extends it.
    finish: None while unfinished; "stop" for end of text or a stop string, "length" at the token cap.
    order: the positions in the order they were decided; None means left to right.
    output: what rewards and selects read where the response is not text, such as the array of an image. It follows from
        prompt and tokens, so it takes no part in comparisons.
    """

    prompt: Prompt
    tokens: tuple[int, ...] = ()
    logq: tuple[float, ...] | None = ()
    text: str = ""
    finish: Finish | None = None
    order: tuple[int, ...] | None = None
    output: Any = field(default=None, compare=False, repr=False)

    def __repr__(self) -> str:
        logq = "no logq" if self.logq is None else f"logq={sum(self.logq):.4g}"
        tokens = f"tokens={self.tokens}" if len(self.tokens) <= 8 else f"{len(self.tokens)} tokens"
        order = "" if self.order is None else f", {len(self.order)} decided"
        return f"Draft({shortened(self.text, 70)!r}, {tokens}{order}, {logq}, finish={self.finish!r})"

    @property
    def decided(self) -> int:
        """How many tokens have been decided."""
        return len(self.tokens) if self.order is None else len(self.order)

    @property
    def glimpse(self) -> str:
        """What people are shown of it in a line of text: its text, or its picture as a data: address of a small PNG."""
        if self.text or self.output is None:
            return self.text
        if isinstance(self.output, StoredPicture):
            return self.output.address
        image = pixels(self.output)
        return "" if image is None else thumbnail(image)

    def _repr_png_(self) -> bytes | None:
        """The picture, in notebooks; None where it has none."""
        image = pixels(self.output)
        return None if image is None else png(enlarged(image))

    def cut(self, count: int) -> Draft:
        """The draft after its first `count` decisions; the draft itself where it has no more than that."""
        if not count >= 0:
            raise ValueError(f"cannot keep {count} tokens of a draft: give a count of 0 or more")
        if count >= self.decided:
            return self
        logq = None if self.logq is None else self.logq[:count]
        if self.order is None:
            return Draft(self.prompt, self.tokens[:count], logq)
        kept = set(self.order[:count])
        tokens = tuple(token if position in kept else MASK for position, token in enumerate(self.tokens))
        return Draft(self.prompt, tokens, logq, order=self.order[:count])


def shortened(text: str, most: int) -> str:
    """A text of `most` characters or fewer: of a longer one its beginning and its end, where answers are."""
    if len(text) <= most:
        return text
    front = (most - 3) // 2
    return f"{text[:front]} … {text[len(text) - (most - 3 - front) :]}"


def check_text(reader: str, drafts: Iterable[Draft]) -> None:
    """Refuse drafts without text for what reads text. Raises TargetError for a draft that has an output instead."""
    for draft in drafts:
        if draft.output is not None and not draft.text:
            raise TargetError(
                f"{reader} reads text, and these drafts have none: their output is of type {type(draft.output).__name__}. "
                "Use a reward or select that reads `draft.output`, such as draw or best."
            )


def known_logq(draft: Draft) -> tuple[float, ...]:
    """The draft's log-probabilities (nats). Raises ValueError where the engine that drew it did not record them."""
    if draft.logq is None:
        raise ValueError(f'the draft {draft.text[:60]!r} carries no log-probabilities: use an engine that can "logq"')
    return draft.logq
