"""Runs a masked-language model on sequences of unequal length and returns its logits at chosen positions.

The logits of one position are as wide as the vocabulary, and only the holes of a block are of interest. So the hidden
states of those positions are caught before the model's output layer, and the layer is applied to them alone, a bounded
number at a time: [rows, length, vocabulary] never exists. A model whose output layer cannot be separated from the rest
(a trial finds this out when it is loaded) is asked for all logits, and those positions are kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from exptilt.engines.diffusion.cache import Tape, joined, prepare
from exptilt.errors import ModelError

BLOCK_TOKENS = 2**14  # positions evaluated at once
BLOCK_LOGITS = 2**23  # logits held at once
TRIAL_TOLERANCE = 1e-3  # of the largest value; a model that padding disturbs is off by much more
HALF_TOLERANCE = 5e-2


@dataclass(frozen=True, eq=False)
class View:
    """What the network sees of one row.

    tokens: the ids that are fed.
    first: the position of the first of them, in prompt and response together.
    window: first and end of positions outside which keys and values are to be kept; None to keep none.
    kept: keys and values of all positions that are not fed, [layers, 2, heads, positions, width]; None where all are fed.
    """

    tokens: tuple[int, ...]
    first: int = 0
    window: tuple[int, int] | None = None
    kept: Tensor | None = None

    @property
    def reused(self) -> int:
        """How many positions are not fed."""
        return 0 if self.kept is None else self.kept.shape[3]


class MaskedNetwork:
    """A model that maps token ids [rows, length] to `.logits` [rows, length, vocabulary], reading in both directions.

    mask: the id of the mask token, which is never drawn.
    shifted: whether the logits of a position are read one position before it, as in models made from autoregressive ones
        (Dream).
    thin: whether to catch hidden states at all.
    no_cache: why this model cannot have block caches, found out by a trial; None where it can.
    kept_bytes: the bytes that the keys and values of one position take there.

    Not thread-safe: the scheduler's worker calls it.
    """

    def __init__(self, model: Any, mask: int, *, shifted: bool = False, thin: bool = True) -> None:
        self.model = model
        self.mask = mask
        self.shifted = shifted
        self.device = next(model.parameters()).device
        self.context: int | None = getattr(model.config, "max_position_embeddings", None)
        self._mask: Callable[[Tensor], Tensor] | None = None  # makes the mask that hides padding; None where the model takes none
        self._wanted: tuple[Tensor, Tensor] | None = None
        self._caught: Tensor | None = None
        find = getattr(model, "get_output_embeddings", None)
        self._head: Callable[[Tensor], Tensor] | None = find() if thin and find is not None else None
        self.vocabulary = self._try_out()
        self.kept_bytes = 0
        self.no_cache = prepare(model) or self._try_cache()

    # ------------------------------------------------------------------------------------------------ evaluation

    @torch.inference_mode()
    def features(
        self, views: Sequence[View], rows: Sequence[int], positions: Sequence[int]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The features of position positions[i] of view rows[i], from which `logits` are made: [n, width].

        Returns with them, for each view, the keys and values outside its window, [layers, 2, heads, positions, width], or None.
        """
        found: Tensor | None = None
        kept: list[Tensor | None] = [None] * len(views)
        for group in self._groups(views):
            index = {row: number for number, row in enumerate(group)}
            inside = [i for i, row in enumerate(rows) if row in index]
            some = [views[row] for row in group]
            ids, known = self._pad([view.tokens for view in some])
            at = [[index[rows[i]], max(0, positions[i] - self.shifted - views[rows[i]].first)] for i in inside]
            where = torch.tensor(at, dtype=torch.int64, device=self.device).reshape(-1, 2)
            tape = self._tape(some, known)
            values = self._evaluate(ids, known, where[:, 0], where[:, 1], tape, [view.first for view in some])
            if found is None:
                found = values.new_empty(len(rows), values.shape[-1])
            found[torch.tensor(inside, dtype=torch.int64, device=self.device)] = values
            for number, view in enumerate(some):
                if tape is not None and view.window is not None:
                    kept[group[number]] = tape.parts(number, self._outside(view))
        assert found is not None
        return found, kept

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

    def _groups(self, views: Sequence[View]) -> Iterator[list[int]]:
        """Split views into batches: with kept keys and values or without, and similar in length.

        Where the model cannot take padding, whole responses in a batch have equal length; the tape masks the padding of windows.
        """
        group: list[int] = []
        for row in sorted(range(len(views)), key=lambda row: (views[row].kept is None, len(views[row].tokens))):
            view, before = views[row], views[group[0]] if group else views[row]
            apart = (view.kept is None) != (before.kept is None)
            unequal = view.kept is None and not self._pads and len(view.tokens) != len(before.tokens)
            if group and (apart or unequal or (len(group) + 1) * (len(view.tokens) + view.reused) > BLOCK_TOKENS):
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

    def _tape(self, views: Sequence[View], known: Tensor) -> Tape | None:
        kept = [view.kept for view in views if view.kept is not None]
        if kept:
            return joined(kept, known)
        return Tape() if any(view.window is not None for view in views) else None

    def _outside(self, view: View) -> Tensor:
        first, last = view.window or (0, 0)
        return torch.tensor([*range(first), *range(last, len(view.tokens))], dtype=torch.int64, device=self.device)

    def _evaluate(
        self, ids: Tensor, known: Tensor, rows: Tensor, positions: Tensor, tape: Tape | None = None, firsts: Sequence[int] = ()
    ) -> Tensor:
        """Features of the positions (rows[i], positions[i]) of a padded batch; firsts: where each row's tokens begin."""
        more: dict[str, Any] = {} if tape is None else {"tape": tape}
        if tape is not None and tape.kept is not None:
            begins = torch.tensor(firsts, device=self.device)[:, None]
            more["position_ids"] = torch.where(known, begins + torch.arange(ids.shape[1], device=self.device), 0)
        elif self._mask is not None and not bool(known.all()):
            more["attention_mask"] = self._mask(known)
        if self._head is None:
            return self.model(input_ids=ids, **more).logits[rows, positions]
        self._wanted, self._caught = (rows, positions), None
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
            return None  # the output layer is the embedding as well, and is asked for embeddings
        self._caught = hidden[self._wanted]
        self._wanted = None
        return (hidden[:1, :1], *inputs[1:])

    # ---------------------------------------------------------------------------------------------------- trials

    @property
    def _tolerance(self) -> float:
        return TRIAL_TOLERANCE if self.model.dtype == torch.float32 else HALF_TOLERANCE

    @torch.inference_mode()
    def _try_out(self) -> int:
        """Find out whether the output layer can be separated and padding changes nothing. Returns the vocabulary's size."""
        short, long = (self.mask, 1, 2, self.mask), (self.mask,) * 7
        self._pads = False
        ids, _ = self._pad([short])
        whole = self.model(input_ids=ids).logits[0].float()
        bound = self._tolerance * float(whole.abs().max())

        def agrees(sequences: list[tuple[int, ...]]) -> bool:
            """Whether it can be evaluated in this way, and as the text alone; the trial is what decides."""
            rows, positions = torch.zeros(4, dtype=torch.int64), torch.arange(4)
            try:
                values = self._evaluate(*self._pad(sequences), rows.to(self.device), positions.to(self.device))
            except (ModelError, RuntimeError, ValueError, IndexError, TypeError, AttributeError):
                return False
            values = (values if self._head is None else self._head(values)).float()
            return values.shape == whole.shape and float((values - whole).abs().max()) <= bound

        if self._head is not None and not agrees([short]):
            self._head = None  # this model's logits are taken whole
        if "attention_mask" in inspect.signature(self.model.forward).parameters:
            for form in (Tensor.long, _pairs):
                self._mask = form
                if agrees([short, long]):
                    self._pads = True
                    break
            else:
                self._mask = None
        return whole.shape[-1]

    @torch.inference_mode()
    def _try_cache(self) -> str | None:
        """Find out whether a window with kept keys and values gives what the whole gives. Returns why not, or None."""
        tokens, window, asked = (self.mask, 1, 2, self.mask, 1, self.mask, 2), (2, 5), [3, 4]
        try:
            whole, [kept] = self.features([View(tokens, window=window)], [0, 0], asked)
            part, _ = self.features([View(tokens[2:5], 2, kept=kept)], [0, 0], asked)
            off = float((whole - part).abs().max() / whole.abs().max())
            if kept is not None and off <= self._tolerance:
                self.kept_bytes = kept[:, :, :, 0].nbytes
                return None
            reason = f"a block with kept keys and values differs from the whole by {off:.2g} of the largest value"
        except (ModelError, RuntimeError, ValueError, IndexError, TypeError) as error:
            reason = str(error)  # the trial is what decides: this model is evaluated whole
        self.model.set_attn_implementation("sdpa")
        return reason


def _pairs(known: Tensor) -> Tensor:
    """Which positions see which, bool [rows, 1, length, length], for models that hand the mask on as it is (Dream)."""
    return known[:, None, None, :].expand(-1, -1, known.shape[1], -1)
