"""Decoding: all rows in flight take one step together; each step is one evaluation of the network for every row.

A row looks at its response as it was before the step (`boundary` decisions), so a draft that was cut in the middle of a
step is continued as if it never had been: the state before the step is restored, and the positions still missing from
that step are decided. Rows with the same prompt and state (candidates of one chain, rollouts of one candidate) share one
evaluation. A row that is scored takes the same steps, with its order and tokens given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from exptilt.core import Finish
from exptilt.engines.diffusion.network import MaskedNetwork
from exptilt.engines.diffusion.sampling import DiffusionSampling
from exptilt.engines.hf.law import Laws, draw, log_probability
from exptilt.keys import Floats


@dataclass(frozen=True)
class Path:
    """Decisions in their order: the position of each, and its token."""

    places: Sequence[int]
    tokens: Sequence[int]


@dataclass(eq=False)
class Row:
    """One response that is being decided, or scored where `given` holds its whole path.

    places, tokens: the decisions so far. boundary: how many of them came before the step under way. stop: how many
    there will be. uniforms: the row's own random numbers. end: how many there will be after the step, once that is known.
    """

    prompt: tuple[int, ...]
    sampling: DiffusionSampling
    places: list[int]
    tokens: list[int]
    boundary: int
    stop: int
    uniforms: np.random.Generator
    given: Path | None = None
    asked: list[int] = field(default_factory=list)
    end: int = 0
    logq: list[float] = field(default_factory=list)
    finish: Finish | None = None
    forwards: int = 0

    def sequence(self, mask: int, *, blind: bool = False) -> tuple[int, ...]:
        """Prompt and response before the step, as the network sees them; `blind` has its prompt masked."""
        response = [mask] * self.sampling.max_tokens
        for place, token in zip(self.places[: self.boundary], self.tokens[: self.boundary], strict=True):
            response[place] = token
        return (*([mask] * len(self.prompt) if blind else self.prompt), *response)

    @property
    def looks(self) -> bool:
        """Whether the network must be asked about every hole of the block before it is known which ones are decided."""
        return self.sampling.threshold is not None or (self.sampling.looks and self.given is None)

    def ask(self) -> None:
        """Begin a step: fill `asked` with the positions whose logits are wanted, in the order they would be decided."""
        if self.looks:
            first, last = self.sampling.span(self.boundary)
            filled = set(self.places[: self.boundary])
            self.asked = [place for place in range(first, last) if place not in filled]
            return
        self.end = self._end(0)
        count = min(self.end, self.stop) - len(self.places)
        if self.given is not None:
            self.asked = list(self.given.places[len(self.places) :][:count])
            return
        first, last = self.sampling.span(self.boundary)
        filled = set(self.places)
        holes = [place for place in range(first, last) if place not in filled]
        if self.sampling.order == "random":
            self.asked = [holes.pop(int(self.uniforms.random() * len(holes))) for _ in range(count)]
        else:
            self.asked = holes[:count]

    def choose(self, sureness: Floats) -> list[int]:
        """Which of the asked positions are decided now, as indices into `asked`.

        sureness: float64 [asked], the larger the earlier. None is chosen where a draft that goes on had been through with
        this step before: then the boundary moves on.
        """
        if not self.looks:
            return list(range(len(self.asked)))
        self.end = self._end(self._sure(sureness))
        count = max(0, min(self.end, self.stop) - len(self.places))
        if self.given is not None:
            chosen = [self.asked.index(place) for place in self.given.places[len(self.places) :][:count]]
        else:
            filled = set(self.places)
            left = self.sampling.order == "left"
            ranked = list(range(len(sureness))) if left else np.argsort(-sureness, kind="stable").tolist()
            chosen = [i for i in ranked if self.asked[i] not in filled][:count]
        if not chosen:
            self.boundary = self.end
        return chosen

    def take(self, chosen: Sequence[int], tokens: Sequence[int], logq: Sequence[float], ends: frozenset[int]) -> bool:
        """Add decisions; returns whether the row is done."""
        if not chosen:
            return False
        self.places += [self.asked[i] for i in chosen]
        self.tokens += tokens
        self.logq += logq
        if len(self.places) >= self.end:
            self.boundary = self.end
        if self.given is None:
            self.finish = finish_of(self.sampling, self.tokens, ends)
        return self.finish is not None or len(self.places) >= self.stop

    def _sure(self, sureness: Floats) -> int:
        """How many of the asked positions are sure enough to be decided together."""
        if self.sampling.threshold is None:
            return 0
        enough = sureness >= self.sampling.threshold
        return int(np.logical_and.accumulate(enough).sum() if self.sampling.order == "left" else enough.sum())

    def _end(self, sure: int) -> int:
        return min(self.boundary + max(self.sampling.per_step, sure), self.sampling.span(self.boundary)[1])


def finish_of(sampling: DiffusionSampling, tokens: Sequence[int], ends: frozenset[int]) -> Finish | None:
    """Whether a response is finished: its last block is complete and holds an end-of-text token, or is the last of all.

    tokens: the decisions in their order; those of one block stand together, whatever the order inside it.
    """
    if not tokens:
        return None
    first, last = sampling.span(len(tokens) - 1)
    if len(tokens) < last:
        return None
    if any(token in ends for token in tokens[first:]):
        return "stop"
    return "length" if last == sampling.max_tokens else None


class MaskedDecoder:
    """The batch of rows in flight: what `exptilt.scheduler` drives. Only its worker calls it."""

    def __init__(self, network: MaskedNetwork, ends: frozenset[int]) -> None:
        self.network = network
        self.ends = ends
        self.rows: dict[Row, None] = {}

    def join(self, rows: Sequence[Row]) -> None:
        self.rows |= dict.fromkeys(rows)

    def leave(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.rows.pop(row, None)

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """One step of every row; rows that are done leave and are returned."""
        rows = list(self.rows)
        for row in rows:
            row.ask()
        features = self._features(rows)
        starts = np.cumsum([0, *[len(row.asked) for row in rows]])
        laws = Laws.of([row.sampling for row in rows], self.network.vocabulary, self.network.device)
        guesses = self._guess(rows, features, starts, laws)
        sureness = self._sureness(rows, features, starts, guesses)
        chosen = [row.choose(sureness[starts[i] : starts[i + 1]]) for i, row in enumerate(rows)]
        picks = [int(starts[i]) + place for i, some in enumerate(chosen) for place in some]
        owners = [i for i, some in enumerate(chosen) for _ in some]
        tokens, logq = self._decide(rows, features, picks, owners, laws, guesses)
        done, used = [], 0
        for row, some in zip(rows, chosen, strict=True):
            mine = slice(used, used := used + len(some))
            if row.take(some, tokens[mine], logq[mine], self.ends):
                done.append(row)
        self.leave(done)
        return done

    # ------------------------------------------------------------------------------------------------- the network

    def _features(self, rows: list[Row]) -> Tensor:
        """What the network thinks of every asked position, row after row: [n, width]."""
        mask = self.network.mask
        plain = self._evaluate(rows, [row.sequence(mask) for row in rows])
        guided = [row for row in rows if row.sampling.guidance]
        if not guided:
            return plain
        blind = self._evaluate(guided, [row.sequence(mask, blind=True) for row in guided])
        scale = torch.tensor([row.sampling.guidance for row in rows for _ in row.asked], device=plain.device)
        some = scale != 0
        # The output layer is affine and the factors add up to one: mixing its inputs mixes the logits.
        plain[some] = blind + (1 + scale[some, None].to(plain.dtype)) * (plain[some] - blind)
        return plain

    def _evaluate(self, rows: list[Row], sequences: list[tuple[int, ...]]) -> Tensor:
        """Equal sequences are evaluated once, on account of the first row that has them."""
        unique: dict[tuple[int, ...], int] = {}
        where: list[int] = []
        places: list[int] = []
        for row, sequence in zip(rows, sequences, strict=True):
            if sequence not in unique:
                unique[sequence] = len(unique)
                row.forwards += 1
            where += [unique[sequence]] * len(row.asked)
            places += [len(row.prompt) + place for place in row.asked]
        return self.network.features(list(unique), where, places)

    # --------------------------------------------------------------------------------------------------- the choice

    def _guess(self, rows: list[Row], features: Tensor, starts: np.ndarray, laws: Laws) -> dict[int, tuple[int, float]]:
        """For "low-confidence" rows: a token for every asked position, with its log-probability."""
        inside = [
            (i, n) for i, row in enumerate(rows) if row.sampling.order == "low-confidence" for n in range(*starts[i : i + 2])
        ]
        if not inside:
            return {}
        uniforms = [float(rows[i].uniforms.random()) for i, _ in inside]
        tokens, logq = self._draw(features, [n for _, n in inside], [i for i, _ in inside], laws, uniforms)
        return {n: pair for (_, n), pair in zip(inside, zip(tokens, logq, strict=True), strict=True)}

    def _sureness(self, rows: list[Row], features: Tensor, starts: np.ndarray, guesses: dict[int, tuple[int, float]]) -> Floats:
        """How sure the network is of each asked position, by the measure of its row; float64 [n]."""
        sureness = np.zeros(int(starts[-1]))
        looking = [i for i, row in enumerate(rows) if row.looks]
        places = [n for i in looking for n in range(*starts[i : i + 2])]
        measured = [rows[i].sampling for i in looking for _ in range(*starts[i : i + 2])]
        if not places:
            return sureness
        part = features[torch.tensor(places, device=features.device)]
        temperatures = torch.tensor([law.temperature for law in measured], device=features.device)[:, None]
        values, used = [], 0
        for logits in self.network.chunks(part):
            here = slice(used, used := used + len(logits))
            values.append(measures(logits, temperatures[here], {law.order for law in measured[here]}))
        table = torch.cat(values).cpu().numpy()
        column = {"margin": 1, "entropy": 2}
        sureness[places] = table[np.arange(len(places)), [column.get(law.order, 0) for law in measured]]
        for place, (_, logq) in guesses.items():
            sureness[place] = logq
        return sureness

    def _decide(
        self,
        rows: list[Row],
        features: Tensor,
        picks: list[int],
        owners: list[int],
        laws: Laws,
        guesses: dict[int, tuple[int, float]],
    ) -> tuple[list[int], list[float]]:
        """Tokens and log-probabilities (nats) of the picked positions: drawn, guessed before, or given."""
        tokens, logq = [0] * len(picks), [0.0] * len(picks)
        scored = [k for k, i in enumerate(owners) if rows[i].given is not None]
        drawn = [k for k, i in enumerate(owners) if rows[i].given is None and picks[k] not in guesses]
        uniforms = [float(rows[owners[k]].uniforms.random()) for k in drawn]
        if drawn:
            found = self._draw(features, [picks[k] for k in drawn], [owners[k] for k in drawn], laws, uniforms)
            for k, token, value in zip(drawn, *found, strict=True):
                tokens[k], logq[k] = token, value
        if scored:
            wanted = _given(rows, owners, scored)
            values = self._rate(features, [picks[k] for k in scored], [owners[k] for k in scored], laws, wanted)
            for k, token, value in zip(scored, wanted, values, strict=True):
                tokens[k], logq[k] = token, value
        for k, n in enumerate(picks):
            if n in guesses:
                tokens[k], logq[k] = guesses[n]
        return tokens, logq

    def _draw(
        self, features: Tensor, places: list[int], owners: list[int], laws: Laws, uniforms: list[float]
    ) -> tuple[list[int], list[float]]:
        device = features.device
        numbers = torch.tensor(uniforms, dtype=torch.float64, device=device)
        owner = torch.tensor(owners, device=device)
        tokens, logq, used = [], [], 0
        for logits in self.network.chunks(features[torch.tensor(places, device=device)]):
            here = slice(used, used := used + len(logits))
            some, values = draw(logits, laws.take(owner[here]), numbers[here])
            tokens += some.tolist()
            logq += values.tolist()
        return tokens, logq

    def _rate(self, features: Tensor, places: list[int], owners: list[int], laws: Laws, tokens: list[int]) -> list[float]:
        device = features.device
        owner, wanted = torch.tensor(owners, device=device), torch.tensor(tokens, device=device)
        values, used = [], 0
        for logits in self.network.chunks(features[torch.tensor(places, device=device)]):
            here = slice(used, used := used + len(logits))
            values += log_probability(logits, laws.take(owner[here]), wanted[here]).tolist()
        return values


def measures(logits: Tensor, temperatures: Tensor, orders: set[str]) -> Tensor:
    """Probability of the likeliest token, its lead over the second, minus the entropy: float64 [n, 3].

    All at the law's temperature and before truncation; what no order asks for is left zero.
    """
    laws = torch.log_softmax(logits / temperatures, dim=-1).exp()
    table = torch.zeros(len(logits), 3, dtype=torch.float64, device=logits.device)
    first, second = laws.topk(2, dim=-1).values.double().T
    table[:, 0], table[:, 1] = first, first - second
    if "entropy" in orders:
        table[:, 2] = -torch.special.entr(laws).sum(dim=-1, dtype=torch.float64)
    return table


def _given(rows: list[Row], owners: list[int], scored: list[int]) -> list[int]:
    """The given tokens of the decisions that are scored: each row's next ones."""
    following: dict[int, int] = {}
    tokens = []
    for k in scored:
        row = rows[owners[k]]
        assert row.given is not None
        nth = following.get(owners[k], len(row.places))
        tokens.append(row.given.tokens[nth])
        following[owners[k]] = nth + 1
    return tokens
