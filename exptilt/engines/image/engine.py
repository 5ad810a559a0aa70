"""Image diffusion as an engine: p(x|c), where every decision of a draft is the noise of one denoising step.

A draft's tokens are names of noise (`exptilt.engines.image.noise`): its states, and the picture at the end, follow from them. So
a draft holds no tensors until it is finished; then `draft.output` is the picture, an array. What an unfinished draft is expected
to become is its `output` where states are pixels.

A draft depends on its prompt and its key alone, up to the rounding of the network, which differs with the batch. `extend` decides
as many steps as it is asked to, so that a block of any sampler is a number of denoising steps. Each step is Gaussian, with a
density: `draft.logq` and `score` agree, and engines of one model, and of models with the same schedule, can rate each other's
drafts as long as their states are kept (`exptilt.engines.image.paths`).

In `Work`, `generated` counts decisions, `forwards` evaluations of the network, `cached` those that another path or call had made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from exptilt.blocks import Block, BlockSize
from exptilt.draft import Draft, Prompt, check_filled
from exptilt.engines.image.evidence import estimate
from exptilt.engines.image.model import Model
from exptilt.engines.image.noise import MARK_BITS, Gaussian, Noise
from exptilt.engines.image.paths import Paths
from exptilt.engines.image.rows import Chain, Rated, Row
from exptilt.engines.image.sampling import ImageSampling
from exptilt.engines.image.steps import Schedule
from exptilt.engines.sampling import check_count
from exptilt.errors import CapabilityError, ModelError, did_you_mean
from exptilt.keys import Floats, Key, digest
from exptilt.usage import Work
from exptilt.watching import show


@dataclass(frozen=True)
class ImageEngine:
    """The distribution of pictures of a model under sampling parameters.

    model: the network and its schedule.
    run: runs rows to their ends (`exptilt.engines.scheduler.Scheduler.run`), for all engines of the model.
    noise: the random part of each step.
    paths: where states are kept; engines that are to rate each other's drafts share it.
    busy: calls a function of the network between two steps of rows (`Scheduler.call`).
    closing: releases what the model holds.
    most: states that go through the network at once.
    """

    model: Model
    run: Callable[[Sequence[Any]], None]
    sampling: ImageSampling = field(default_factory=ImageSampling)
    noise: Noise = field(default_factory=Gaussian)
    paths: Paths = field(default_factory=Paths, compare=False, repr=False)
    busy: Callable[[Callable[[], tuple[Floats, int]]], tuple[Floats, int]] = field(default=lambda work: work(), repr=False)
    closing: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)
    most: int = field(default=64, compare=False, repr=False)
    work: Work = field(default_factory=Work, compare=False, repr=False)

    def __post_init__(self) -> None:
        _ = self.schedule  # which refuses parameters that the model cannot follow

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release what the model holds; calls under way and calls to come raise ModelError."""
        self.closing()

    @cached_property
    def schedule(self) -> Schedule:
        return self.model.schedule(self.sampling)

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def can(self) -> frozenset[str]:
        return frozenset({"continue", "logq", "score"} | ({"evidence"} if self.model.conditional else set()))

    @property
    def max_tokens(self) -> int:
        """The decisions of a whole path: the noise it begins with, and that of every step that has any."""
        return self.schedule.decisions

    @property
    def alphabet(self) -> str:
        return f"image-{'x'.join(map(str, self.model.shape))}-{self.schedule.space}"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {**self.model.settings, **self.sampling.settings(), **self.noise.settings()}

    def with_sampling(self, **changes: Any) -> ImageEngine:
        """The same model under other sampling parameters."""
        known = [item.name for item in fields(ImageSampling)]
        if unknown := sorted(changes.keys() - set(known)):
            raise ValueError(
                f"{self.name} draws pictures and has no {', '.join(unknown)}: it has {', '.join(known)}."
                f"{did_you_mean(unknown[0], known)}"
            )
        return replace(self, sampling=replace(self.sampling, **changes))

    def metered(self, work: Work) -> ImageEngine:
        return replace(self, work=work)

    def never_draws(self, other: Any) -> str | None:
        """Nothing: where a step has noise every picture has a density (`exptilt.proposals`). None where it cannot tell."""
        return "" if isinstance(other, ImageEngine) and isinstance(self.noise, Gaussian) else None

    def prompt_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        """None: a prompt is a class, or a text that is read as a whole."""
        return ()

    def start(self, prompt: Prompt) -> Draft:
        """The empty draft of a prompt. Raises PromptError where the model does not know what is asked for."""
        check_filled(prompt)
        self.model.condition(prompt)
        return Draft(prompt)

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        """Take up to `tokens` more decisions of each draft (None: to its end), one key per draft."""
        if isinstance(tokens, Block):
            raise CapabilityError(f"{self.name} draws pictures, not text: give the block as a number of denoising steps")
        check_count(tokens)
        rows = [
            self._row(draft, key, tokens) if draft.finish is None and tokens != 0 else None
            for draft, key in zip(drafts, keys, strict=True)
        ]
        begun = [row for row in rows if row is not None]
        show(lambda: sum(row.cost.generated for row in begun), lambda: [""] * len(begun), grows=False)
        self._run(begun)
        return [draft if row is None else _grown(draft, row) for draft, row in zip(drafts, rows, strict=True)]

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        """Log-probability (nats) of the decisions of each draft from number `starts[i]` on, by this engine's own steps."""
        rows = []
        for draft, start in zip(drafts, starts or [0] * len(drafts), strict=True):
            condition, first = self._condition(draft), max(1, start)
            wanted = {*range(first, draft.decided + 1), *(self._chain.anchor(done) for done in range(first, draft.decided))}
            states = self._states(draft, wanted | ({draft.decided} if draft.decided else set()))
            rows.append(Rated(self._chain, draft.prompt, condition, draft.tokens, start, states))
        self._run(rows)
        scores = [np.zeros(0) if row.logq is None else row.logq for row in rows]
        self.work.add(scored=sum(map(len, scores)))
        return scores

    def drawn_again(self, drafts: Iterable[Draft]) -> list[Draft]:
        """Finished drafts with their pictures, such as those of a results file, which keeps the names of their noise alone."""
        drafts = list(drafts)
        rows = [self._again(replace(draft, finish=None)) for draft in drafts]
        self._run(rows)
        return [replace(draft, output=row.output) for draft, row in zip(drafts, rows, strict=True)]

    def finals(self, drafts: Sequence[Draft]) -> list[Floats]:
        """The last state of each finished draft, in the numbers that the network reads: float64 of the model's shape."""
        names = [("final", draft.prompt, draft.tokens) for draft in drafts]
        kept = [self.paths.get(name) for name in names]
        rows = {place: self._again(draft) for place, draft in enumerate(drafts) if kept[place] is None}
        self._run(list(rows.values()))
        found = [rows[place].final if each is None else each for place, each in enumerate(kept)]
        return [each for each in found if each is not None]

    def evidence(self, drafts: Sequence[Draft], key: Key, levels: int, noises: int) -> Floats:
        """log p(c|x) of finished drafts up to a constant, by the network itself: float64 [drafts], nats (`evidence.py`).

        key: names the noise that all of them share. levels, noises: how many noise levels, and draws at each.
        """
        conditions = [self._condition(draft) for draft in drafts]
        states, found, cost = self.finals(drafts), np.zeros(len(drafts)), 0
        for condition in dict.fromkeys(conditions):
            rows = [row for row, each in enumerate(conditions) if each == condition]
            mine = [states[row] for row in rows]
            settings = condition, self.schedule.prediction, key, levels, noises, self.most
            found[rows], spent = self.busy(lambda mine=mine, settings=settings: estimate(self.model, mine, *settings))
            cost += spent
        self.work.add(forwards=cost)
        return found

    # ---------------------------------------------------------------------------------------------------------------

    @cached_property
    def _chain(self) -> Chain:
        mark = int(_digest(self.settings), 16) % (1 << MARK_BITS)
        network = _digest(self.model.settings)
        chosen = self.sampling
        return Chain(self.schedule, self.noise, chosen.guidance, chosen.reuse, mark, network, self.model.shape, self.paths)

    def _condition(self, draft: Draft) -> Any:
        if draft.order is not None or draft.decided > self.max_tokens:
            raise ValueError(
                f"{self.name} reads drafts of up to {self.max_tokens} decisions, not one of {draft.decided}: give drafts of "
                "engines of the same model and steps"
            )
        return self.model.condition(draft.prompt)

    def _run(self, rows: Sequence[Any]) -> None:
        """Have rows run, and count what they cost, also where it fails."""
        try:
            self.run(rows)
        finally:
            for row in rows:
                self.work.add(**{**vars(row.cost), "scored": 0})

    def _row(self, draft: Draft, key: Key, count: int | None) -> Row:
        """The row that takes up to `count` more decisions of a draft."""
        condition, decided, left = self._condition(draft), draft.decided, self.max_tokens - draft.decided
        fresh = self.noise.names(key, left if count is None else min(left, count), self._chain.mark)
        needed = {decided, self._chain.anchor(decided)} if decided else set()
        return Row(self._chain, draft.prompt, condition, (*draft.tokens, *fresh), decided, self._states(draft, needed))

    def _again(self, draft: Draft) -> Row:
        """The row that takes all decisions of a draft as they were taken."""
        for place, token in enumerate(draft.tokens):
            if self.noise.foreign(token, self._chain.mark):
                raise ModelError(
                    f"decision {place} of a draft was drawn by another engine than {self.name} with these parameters, and its "
                    "state is no longer kept: draw it with this engine, or draw fewer pictures at once"
                )
        return Row(self._chain, draft.prompt, self._condition(draft), draft.tokens, 0, {})

    def _states(self, draft: Draft, lengths: set[int]) -> dict[int, Floats]:
        """The states of a draft after so many decisions, those that are no longer kept computed anew."""
        found = {length: self.paths.get(("state", draft.prompt, draft.tokens[:length])) for length in lengths}
        if any(state is None for state in found.values()):
            row = self._again(replace(draft, tokens=draft.tokens[: max(lengths)], finish=None))
            self._run([row])
            found = {length: row.states[length] for length in lengths}
        return {length: state for length, state in found.items() if state is not None}


def _digest(settings: Mapping[str, Any]) -> str:
    """A digest of settings without the model's name: the same weights draw the same pictures from any folder."""
    return digest(repr(sorted((key, value) for key, value in settings.items() if key != "model")))


def _grown(draft: Draft, row: Row) -> Draft:
    """The draft with what its row decided."""
    logq = None if draft.logq is None else (*draft.logq, *row.logq)
    return Draft(draft.prompt, row.tokens, logq, "", None if row.final is None else "stop", output=row.output)
