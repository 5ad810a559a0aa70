"""A new engine in one file: words follow words as often as they do in a text of yours.

    exptilt sample "examples/bigram_engine.py:bigrams?file=README.md" "The model" --reward none --beta 1

A backend draws and rates rows; prompts, caps, stop strings, texts, drafts, costs and settings are `LanguageEngine`'s.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from exptilt.engines.distribution_numpy import draw, log_probability
from exptilt.engines.language import LanguageEngine
from exptilt.engines.row import LeftToRight, Rated, Row
from exptilt.engines.sampling import Sampling
from exptilt.engines.text import Text
from exptilt.keys import digest

END = 0  # the token between lines; what stands for a word that the text does not have


class Words:
    """A tokenizer with the methods of transformers' that `Text` calls: a token is a word or a single other character."""

    chat_template = bos_token_id = None

    def __init__(self, text: str) -> None:
        self.names = ["", *sorted(set(re.findall(r"\w+|\W", text)))]
        self.ids = {name: number for number, name in enumerate(self.names)}

    def __call__(self, text: str) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[self.ids.get(word, END) for word in re.findall(r"\w+|\W", text)])

    def get_vocab(self) -> dict[str, int]:
        return self.ids

    def decode(self, tokens: list[int], **_: bool) -> str:
        return "".join(self.names[token] for token in tokens)

    def batch_decode(self, responses: list[list[int]], **_: bool) -> list[str]:
        return [self.decode(response) for response in responses]


class Bigrams:
    """Counts of pairs of words as a backend; 0.01 is added to each, so that every response has a probability."""

    name, layout, context = "bigrams", LeftToRight(), None

    def __init__(self, text: str) -> None:
        words = Words(text)
        self.text, self.vocabulary = Text(words, [END]), len(words.names)
        self.settings = {"engine": self.name, "text": digest(text)}
        counts = np.full((self.vocabulary, self.vocabulary), 0.01, dtype=np.float32)
        for line in text.splitlines():
            for pair in pairwise([END, *words(line).input_ids, END]):
                counts[pair] += 1
        self.logits = np.log(counts)

    def can(self, sampling: Sampling) -> frozenset[str]:
        return frozenset({"continue", "steps", "logq", "score"})

    def check(self, sampling: Sampling) -> None:
        """Any sampling parameters will do."""

    def draw(self, rows: Sequence[Row]) -> None:
        for row in rows:
            while not row.done:
                [token], [logq] = draw(self.logits[[row.last]], [row.sampling], [row.uniform])
                row.take(token, logq, self.text)

    def rate(self, rows: Sequence[Rated]) -> None:
        for row in rows:
            before = [row.context.tokens[-1], *row.targets[:-1]]
            row.values = log_probability(self.logits[before], row.targets, row.sampling)

    def close(self) -> None:
        """Nothing is held."""


def bigrams(
    file: str, *, temperature: float = 1.0, top_p: float = 1.0, top_k: int | None = None, max_tokens: int = 64, stop: str = ""
) -> LanguageEngine[Bigrams]:
    """What `exptilt.load` calls with the options it is given."""
    sampling = Sampling(temperature, top_p, top_k, max_tokens, [stop] if stop else [])
    return LanguageEngine(Bigrams(Path(file).read_text()), sampling)
