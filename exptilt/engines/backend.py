"""What `exptilt.engines.language` needs of a model: a backend with two methods, its tokenizer, and how its drafts become rows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from exptilt.blocks import BlockSize
from exptilt.draft import Chat, Draft, Prompt
from exptilt.engines.row import Measure
from exptilt.keys import Key


class Texts(Protocol):
    """Prompts to token ids, and token ids to text; `exptilt.engines.text.Text` does it by a tokenizer of transformers."""

    @property
    def has_template(self) -> bool:
        """Whether there is a chat template."""
        ...

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a response."""
        ...

    @property
    def alphabet(self) -> str:
        """A digest of the vocabulary."""
        ...

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The ids of a text as it is, or of a chat by the template. Raises PromptError where there are none."""
        ...

    def decode(self, responses: Sequence[Sequence[int]]) -> list[str]:
        """The text of each response, without the tokens that end it."""
        ...


@runtime_checkable
class Templated(Protocol):
    """Texts whose chat template takes variables."""

    def encode(self, prompt: Prompt, variables: Mapping[str, Any] = ...) -> tuple[int, ...]:
        """As in `Texts`, with variables of the template."""
        ...

    def seen(self, chat: Chat, variables: Mapping[str, Any]) -> Hashable:
        """What the model reads of a chat, as far as it can be seen: its ids, or how many there are; None where nothing can."""
        ...


class Layout(Protocol):
    """How drafts become rows and rows drafts: `exptilt.engines.row.LeftToRight`, or the masked positions of diffusion."""

    def alphabet(self, vocabulary: str, sampling: Any) -> str:
        """What drafts of two engines must have in common, so that each can read the other's."""
        ...

    def start(self, prompt: Any, sampling: Any) -> Draft:
        """The empty draft of a prompt."""
        ...

    def row(self, draft: Draft, prompt: tuple[int, ...], sampling: Any, key: Key, tokens: BlockSize | None) -> Any:
        """The row that decides up to `tokens` more tokens of an unfinished draft, all it may have where None.

        A `Block` comes only where the backend can do "steps".
        """
        ...

    def response(self, row: Any, ends: frozenset[int]) -> Sequence[int]:
        """The tokens that are the text of a row's response."""
        ...

    def extended(self, draft: Draft, row: Any, text: str) -> Draft:
        """The draft with what its row decided; without log-probabilities where it had none before."""
        ...

    def rated(self, draft: Draft, prompt: tuple[int, ...], sampling: Any, start: int, measure: Measure) -> Sequence[Any]:
        """Rows that measure the decisions of a draft from number `start` on, at least one; they may begin before it."""
        ...


class Backend(Protocol):
    """A model ready to serve many callers, from many threads.

    name: what errors and settings call it.
    text: its tokenizer.
    layout: how its drafts become rows.
    context: the most tokens of prompt and response together, None for no limit.
    vocabulary: the number of token ids, None where tokens are not the model's.
    settings: what fixes the model, as JSON values.
    """

    @property
    def name(self) -> str: ...

    @property
    def text(self) -> Texts: ...

    @property
    def layout(self) -> Layout: ...

    @property
    def context(self) -> int | None: ...

    @property
    def vocabulary(self) -> int | None: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def can(self, sampling: Any) -> frozenset[str]:
        """What it can do under these sampling parameters, as in `Engine.can`."""
        ...

    def check(self, sampling: Any) -> None:
        """Raise ValueError or ModelError, with a cure, for sampling parameters that it cannot follow."""
        ...

    def draw(self, rows: Sequence[Any]) -> None:
        """Draw each row to its end: its tokens, their log-probabilities, its finish, and what it cost."""
        ...

    def rate(self, rows: Sequence[Any]) -> None:
        """Measure the given tokens of each row: its values, and what it cost. Raises CapabilityError where it cannot."""
        ...

    def close(self) -> None:
        """Release what the model holds; calls under way and calls to come raise ModelError."""
        ...


@runtime_checkable
class CountsMemory(Protocol):
    """A backend that knows how many tokens' key-values its rows in flight may hold together, each at its full length."""

    @property
    def memory_tokens(self) -> int | None: ...


@runtime_checkable
class CountsRows(Protocol):
    """A backend that knows how many rows it draws at once; more wait for their turn."""

    @property
    def rows_at_once(self) -> int: ...
