"""Denoising: all paths in flight, of all callers, take one step together, each at its own noise level.

A step of a path needs one output of the network, for the state before it. Paths that are equal so far, such as the candidates of
one draft, need the same one: it is evaluated once, and kept as long as states are.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from exptilt.engines.image.model import Model
from exptilt.engines.image.paths import Paths
from exptilt.engines.image.rows import Request, Row
from exptilt.errors import ModelError
from exptilt.keys import Floats


class Denoiser:
    """The batch of rows in flight: what `exptilt.engines.scheduler` drives. most: states that go through the network at once."""

    def __init__(self, model: Model, paths: Paths, most: int) -> None:
        self.model, self.paths, self.most = model, paths, most
        self.rows: dict[Any, None] = {}

    def join(self, rows: Sequence[Any]) -> None:
        for row in rows:
            row.begin()
        self.rows |= dict.fromkeys(rows)

    def leave(self, rows: Sequence[Any]) -> None:
        for row in rows:
            self.rows.pop(row, None)

    def step(self) -> list[Any]:
        """One step of every row; rows that are done leave and are returned."""
        rows = list(self.rows)
        wanted = [[] if row.over else row.wants() for row in rows]
        outputs = self._outputs(rows, wanted)
        for row, some in zip(rows, wanted, strict=True):
            row.take(some, [outputs[each.name] for each in some])
        over = [row for row in rows if row.over]
        self._decode([row for row in over if isinstance(row, Row)])
        self.leave(over)
        return over

    def _outputs(self, rows: Sequence[Any], wanted: Sequence[Sequence[Request]]) -> dict[Hashable, Floats]:
        """The output for each name, those not kept from before evaluated."""
        found: dict[Hashable, Floats] = {}
        missing: dict[Hashable, Request] = {}
        for row, some in zip(rows, wanted, strict=True):
            for each in some:
                if each.name in found or each.name in missing:
                    row.cost.cached += 1
                elif (kept := self.paths.get(("output", each.name))) is not None:
                    found[each.name] = kept
                    row.cost.cached += 1
                else:
                    missing[each.name] = each
                    row.cost.forwards += each.evaluations
        asked = list(missing.values())
        for first in range(0, len(asked), self.most):
            part = asked[first : first + self.most]
            for each, output in zip(part, self._evaluate(part), strict=True):
                found[each.name] = output
                self.paths.put(("output", each.name), output)
        return found

    def _evaluate(self, part: Sequence[Request]) -> Floats:
        x = np.stack([each.x * each.step.scale for each in part])
        times, guidance = (np.array(values) for values in ([e.step.time for e in part], [e.guidance for e in part]))
        outputs = self.model.predict(x, times, [each.condition for each in part], guidance)
        channels = x.shape[1] * (1 if part[0].step.widest is None else 2)
        if outputs.shape != (len(x), channels, *x.shape[2:]):
            raise ModelError(
                f"{self.model.name} returned the shape {outputs.shape} for states of {x.shape}: {channels} channels are needed"
            )
        if not np.isfinite(outputs).all():
            time = times[~np.isfinite(outputs).reshape(len(part), -1).all(1)][0]
            raise ModelError(
                f"{self.model.name} gave NaN or infinite values at time {time:g}: its weights are damaged, or numbers left the "
                'range of float16. Load it with dtype="float32".'
            )
        return outputs

    def _decode(self, rows: Sequence[Row]) -> None:
        """The picture of each row that is finished; of the others, where it costs nothing, the one that is expected."""
        shown: list[tuple[Row, Floats]] = []
        for row in rows:
            if row.final is not None:
                self.paths.put(("final", row.prompt, row.tokens), row.final)
            state = row.clean if row.final is None and self.model.pixels else row.final
            if state is not None:
                shown.append((row, state))
        for first in range(0, len(shown), self.most):
            part = shown[first : first + self.most]
            pictures = self.model.decode(np.stack([state for _, state in part]))
            for (row, _), picture in zip(part, pictures, strict=True):
                if not np.isfinite(picture).all():
                    raise ModelError(
                        f"{self.model.name} drew a picture with NaN or infinite values: its decoder is damaged, or numbers left "
                        'the range of float16. Load it with dtype="float32".'
                    )
                row.output = picture
