"""Right answers as each reader writes answers.

A reference is often bare: "2x+1" where a response would say "\\boxed{2x+1}". The reader of responses would take a part of it for
the answer, so each reader whose answers are more than a word has a reader of references too. Your own reader reads both.
"""

from __future__ import annotations

from exptilt.answers import maths, programs
from exptilt.answers.texts import Answer

_READERS: dict[Answer, Answer] = {maths.latex: maths.reference, programs.code: programs.reference}


def reference(answer: Answer, text: str) -> str | None:
    """The right answer `text` as `answer` writes answers; None where nothing can be read in it.

    answer: the reader of the responses, such as `exptilt.answers.latex`.
    text: the answer alone, or a solution that marks it.
    """
    return _READERS.get(answer, answer)(text)
