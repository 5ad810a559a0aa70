"""Position scaling that changes for a whole text once it is longer than some limit, such as Phi-3's longrope.

Such a model reads the first tokens of a long text in another way than the same tokens alone, and rows that are read together
change each other. A draft's distribution here depends on its room, prompt and cap together: rows that may cross the border are
read as a text beyond it is, from their first token on, by modules of their own; the others as a short text is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from exptilt.engines.hf.fast.private import freeze_positions
from exptilt.engines.hf.trial import Texts
from exptilt.engines.tree import own_tree

Beside = Callable[[int], Tensor]
"""The logits of a short text [tokens, vocabulary] as the plain model has them beside one whose last position is this."""


def beside(model: Any, texts: Texts) -> Beside:
    """The shortest text of the trial, read beside itself at other positions."""
    ids = torch.tensor([texts.tokens[-1]] * 2, device=model.device)
    own = torch.arange(ids.shape[1], device=model.device)

    def read(last: int) -> Tensor:
        places = torch.stack([own, own + last - len(own) + 1])
        return model(input_ids=ids, position_ids=places, use_cache=False).logits[0].float()

    return read


def find_border(read: Beside, texts: Texts, context: int) -> int | None:
    """The number of tokens from which on a longer text changes how its neighbours are read; None where none does."""
    alone, shortest = texts.logits[-1], len(texts.tokens[-1])

    def minds(last: int) -> bool:
        return not texts.alike(texts.off(read(last), alone))

    below, beyond = 2 * shortest, context - 1
    if beyond <= below or not minds(beyond) or minds(below):  # a model that minds both has positions of another kind
        return None
    while below < beyond:
        middle = (below + beyond) // 2
        below, beyond = (below, middle) if minds(middle) else (middle + 1, beyond)
    return beyond


def beyond_border(model: Any, name: str, read: Beside, texts: Texts, border: int, context: int) -> Any | None:
    """A model that reads every text as those beyond the border; None where that is not found to be so."""
    frozen = own_tree(model, name)
    freeze_positions(frozen, border)
    alone = frozen(input_ids=torch.tensor([texts.tokens[-1]], device=model.device), use_cache=False).logits[0].float()
    there = (border, context - 1)  # some kinds of scaling go on changing
    return frozen if all(texts.alike(texts.off(read(last), alone)) for last in there) else None
