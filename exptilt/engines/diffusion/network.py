"""Runs a masked-language model on sequences of unequal length and gives what it thinks of chosen positions.

The logits of one position are as wide as the vocabulary, and only the holes of a block are of interest: so the hidden
states of those positions are caught in front of the model's output layer, and the layer is applied to them alone, a
bounded number at a time. [rows, length, vocabulary] never exists. A model whose output layer cannot be parted from the
rest (found out by a trial when it is loaded) is asked for all logits, and those positions are kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from exptilt.errors import ModelError

BLOCK_TOKENS = 2**14  # positions evaluated at once
BLOCK_LOGITS = 2**23  # logits held at once
TRIAL_TOLERANCE = 1e-3  # of the largest logit; a model that minds padding is off by much more
HALF_TOLERANCE = 5e-2


class MaskedNetwork:
    """A model that maps token ids [rows, length] to `.logits` [rows, length, vocabulary], reading in both directions.

    mask: the id of the mask token, which is never drawn. shifted: whether the logits of a position stand one place before
    it, as in models that grew out of autoregressive ones (Dream). thin: whether to catch hidden states at all.
    Not thread-safe: the scheduler's worker calls it.
    """

    def __init__(self, model: Any, mask: int, *, shifted: bool = False, thin: bool = True) -> None:
        self.model = model
        self.mask = mask
        self.shifted = shifted
        self.device = next(model.parameters()).device
        self.context: int | None = getattr(model.config, "max_position_embeddings", None)
        self._takes_mask = "attention_mask" in inspect.signature(model.forward).parameters
        self._wanted: tuple[Tensor, Tensor] | None = None
        self._caught: Tensor | None = None
        find = getattr(model, "get_output_embeddings", None)
        self._head: Callable[[Tensor], Tensor] | None = find() if thin and find is not None else None
        self.vocabulary = self._try_out()

    # ------------------------------------------------------------------------------------------------ evaluation

    @torch.inference_mode()
    def features(self, sequences: Sequence[tuple[int, ...]], rows: Sequence[int], places: Sequence[int]) -> Tensor:
        """What the network thinks of position places[i] of sequence rows[i], for `logits`: [n, width]."""
        found: Tensor | None = None
        for group in self._groups(sequences):
            index = {row: place for place, row in enumerate(group)}
            inside = [i for i, row in enumerate(rows) if row in index]
            if not inside:
                continue
            ids, known = self._pad([sequences[row] for row in group])
            where = torch.tensor([[index[rows[i]], places[i] - self.shifted] for i in inside], device=self.device)
            values = self._evaluate(ids, known, where[:, 0], where[:, 1].clamp_(min=0))
            if found is None:
                found = values.new_empty(len(rows), values.shape[-1])
            found[torch.tensor(inside, device=self.device)] = values
        assert found is not None
        return found

    @torch.inference_mode()
    def logits(self, features: Tensor) -> Tensor:
        """Logits [n, vocabulary] in float32; the mask token has -inf."""
        logits = (features if self._head is None else self._head(features)).float()
        logits = logits.clone() if self._head is None else logits
        logits[:, self.mask] = -torch.inf
        return logits

    def chunks(self, features: Tensor) -> Iterator[Tensor]:
        """The logits of all features, at most BLOCK_LOGITS numbers at once."""
        for part in features.split(max(1, BLOCK_LOGITS // self.vocabulary)):
            yield self.logits(part)

    def _groups(self, sequences: Sequence[tuple[int, ...]]) -> Iterator[list[int]]:
        """Part sequences into batches: similar in length, or equal where the model does not bear padding."""
        group: list[int] = []
        for row in sorted(range(len(sequences)), key=lambda row: len(sequences[row])):
            length = len(sequences[row])
            unequal = group and not self._pads and length != len(sequences[group[0]])
            if group and (unequal or (len(group) + 1) * length > BLOCK_TOKENS):
                yield group
                group = []
            group.append(row)
        if group:
            yield group

    def _pad(self, sequences: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """Ids int64 and whether they are known bool, both [rows, longest]; the padding is on the right."""
        width = max(map(len, sequences))
        ids = torch.tensor([[*sequence, *[self.mask] * (width - len(sequence))] for sequence in sequences])
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        return ids.to(self.device), (torch.arange(width) < lengths[:, None]).to(self.device)

    def _evaluate(self, ids: Tensor, known: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        more = {} if not self._takes_mask or bool(known.all()) else {"attention_mask": known.long()}
        if self._head is None:
            return self.model(input_ids=ids, **more).logits[rows, places]
        self._wanted, self._caught = (rows, places), None
        handle = self._head.register_forward_pre_hook(self._catch)  # type: ignore[attr-defined]
        try:
            self.model(input_ids=ids, **more)
        finally:
            handle.remove()
        caught, self._caught = self._caught, None
        if caught is None:
            raise ModelError(f"{type(self.model).__name__} did not use its output layer: load it with thin=False")
        return caught

    def _catch(self, module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Keep the hidden states of the wanted positions; let the layer itself see only one position."""
        hidden = inputs[0]
        if self._wanted is None or hidden.ndim != 3 or not hidden.is_floating_point():
            return None  # an output layer that is the embedding as well, asked for embeddings
        self._caught = hidden[self._wanted]
        self._wanted = None
        return (hidden[:1, :1], *inputs[1:])

    # ----------------------------------------------------------------------------------------------------- trial

    @torch.inference_mode()
    def _try_out(self) -> int:
        """Find out whether the output layer can be parted and whether padding is borne; returns the vocabulary's size."""
        short, long = (self.mask, 1, 2, self.mask), (self.mask,) * 7
        self._pads = self._takes_mask
        ids, _ = self._pad([short])
        whole = self.model(input_ids=ids).logits[0].float()
        tolerance = TRIAL_TOLERANCE if self.model.dtype == torch.float32 else HALF_TOLERANCE
        bound = tolerance * float(whole.abs().max())

        def agrees(sequences: list[tuple[int, ...]]) -> bool:
            rows, places = torch.zeros(4, dtype=torch.int64), torch.arange(4)
            values = self._evaluate(*self._pad(sequences), rows.to(self.device), places.to(self.device))
            values = (values if self._head is None else self._head(values)).float()
            return values.shape == whole.shape and float((values - whole).abs().max()) <= bound

        if self._head is not None:
            try:
                parted = agrees([short])
            except (ModelError, RuntimeError, ValueError, IndexError, TypeError):
                parted = False  # the trial is what decides: this model's logits are taken whole
            if not parted:
                self._head = None
        self._pads = self._takes_mask and agrees([short, long])
        return whole.shape[-1]
