"""Identities for the tokens of servers that return text but no token ids.

A draft's identity is its token ids, and samplers cut drafts by them. Where a server tells only strings, each string is
a token: its id is a hash of the string, so equal strings have equal ids in every process and a results file can be
resumed. The end of a response is a token of its own, END, because an empty response is a response too.

This is not exact in the server's own tokens: a prefix is sent back as text, and the server may encode it in
other tokens than those it was drawn in. The distribution of a continuation is that of the *text*.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from hashlib import blake2b

from exptilt.engines.openai.wire import Choice
from exptilt.engines.text import BROKEN
from exptilt.errors import AnswerError, ModelError

END = 0  # the token of a response's end; it has no text
DIGEST_BYTES = 6  # 48 bits: exact in JSON, and among a million strings a collision has a chance of 1 in 500


class Pieces:
    """The strings that this process has seen, by their ids. Safe to share between threads."""

    def __init__(self) -> None:
        self._strings = {END: ""}
        self._lock = threading.Lock()

    def ids(self, strings: Sequence[str]) -> tuple[int, ...]:
        """The ids of some strings, which are remembered."""
        names = tuple(_name(string) for string in strings)
        with self._lock:
            for name, string in zip(names, strings, strict=True):
                if self._strings.setdefault(name, string) != string:
                    raise ModelError(
                        f"the strings {string!r} and {self._strings[name]!r} have the same digest, so drafts cannot be told "
                        "apart: use a server that returns token ids"
                    )
        return names

    def text(self, ids: Sequence[int]) -> str:
        """The text that some ids stand for. Raises ValueError for ids that no answer to this process had."""
        with self._lock:
            unknown = [token for token in ids if token not in self._strings]
            if unknown:
                raise ValueError(
                    f"the token {unknown[0]} was not drawn by this engine in this process, so its text is not known: a server "
                    "that returns no token ids can only continue its own drafts"
                )
            return "".join(self._strings[token] for token in ids)


def split(choice: Choice) -> list[str]:
    """The token strings of a response, cut so that they join to its text; one for each token that was drawn.

    What goes beyond the text is dropped where the response stopped: a stop string, the name of the end token. Where
    the strings do not join to the text (a character of several tokens), the text is one string and empty ones follow,
    so that their number still is the number of tokens. Raises AnswerError where strings are missing.
    """
    assert choice.pieces is not None
    kept: list[str] = []
    rest = choice.text
    for piece in choice.pieces:
        if not rest and choice.finish == "stop":
            break
        part = piece[: len(rest)]
        if not rest.startswith(part):
            break
        kept.append(part)
        rest = rest[len(part) :]
    entire = all(choice.pieces) and not any(BROKEN in piece for piece in choice.pieces)  # no string is part of a character
    if (rest and entire and len(kept) == len(choice.pieces)) or not (choice.pieces or choice.finish == "stop"):
        raise AnswerError(
            f"the server's answer cannot be used: its token strings end before the text, {len(choice.pieces)} of them for "
            f"{choice.text[:60]!r}"
        )
    return [choice.text] + [""] * (len(choice.pieces) - 1) if rest else kept


def _name(string: str) -> int:
    return 1 + int.from_bytes(blake2b(string.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest(), "little")
