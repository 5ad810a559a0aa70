"""From logits to the distribution of the next token: truncation, inverse-CDF draws, log-probabilities, certainty.

Drawing and scoring both start from `supported`, so a draft's recorded log-probabilities and its score are
of one distribution. Logits become float32 and are divided by the temperature. Sums over the vocabulary are float32 within blocks
of about the square root of its size, which is exact to 1e-7, and float64 over the blocks: float64 throughout takes fifty times as
long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from exptilt.engines.adjustments import Adjustments
from exptilt.engines.sampling import TokenLaw
from exptilt.errors import ModelError

LOG2E = math.log2(math.e)
BLOCK = 2**20  # logits in work at once on a CPU when drawing: few enough to stay in its caches and in memory once touched
LEAST_BLOCK = 64  # of the vocabulary
FIRST_LOOK = 512  # as many of the likeliest tokens are sorted before it is known how many top_p needs


@dataclass(frozen=True)
class Laws:
    """The sampling parameters of a batch, one entry per row.

    temperature: float32 [rows, 1].
    top_k: int64 [rows, 1], the vocabulary's size where all are kept.
    top_p: float64 [rows, 1].
    least: float32 [rows, 1], the log of min_p, which is relative to the likeliest token.
    truncated: int64 [m], the rows that have top_k, top_p or min_p.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    least: Tensor
    truncated: Tensor

    @staticmethod
    def of(samplings: Sequence[TokenLaw], vocabulary: int, device: torch.device) -> Laws:
        ranks = [min(law.top_k or vocabulary, vocabulary) for law in samplings]
        return Laws(
            torch.tensor([[law.temperature] for law in samplings], dtype=torch.float32, device=device),
            torch.tensor(ranks, dtype=torch.int64, device=device)[:, None],
            torch.tensor([[law.top_p] for law in samplings], dtype=torch.float64, device=device),
            torch.tensor(
                [[math.log(law.min_p) if law.min_p else -math.inf] for law in samplings], dtype=torch.float32, device=device
            ),
            torch.tensor([i for i, law in enumerate(samplings) if law.truncated], dtype=torch.int64, device=device),
        )

    def take(self, rows: Tensor) -> Laws:
        """The distributions of the rows at these indices, repeats allowed; int64 [n]."""
        places = torch.isin(rows, self.truncated).nonzero()[:, 0]
        return Laws(self.temperature[rows], self.top_k[rows], self.top_p[rows], self.least[rows], places)


def _scaled(logits: Tensor, laws: Laws) -> Tensor:
    return logits.float() / laws.temperature


def shift(logits: Tensor, laws: Laws) -> tuple[Tensor, Tensor]:
    """Logits over the temperature less their maximum, and the maximum: float32 [rows, vocabulary] and [rows, 1]."""
    scaled = _scaled(logits, laws)
    top = scaled.amax(dim=-1, keepdim=True)
    return scaled.sub_(top), top


def floor(shifted: Tensor, laws: Laws) -> Tensor | None:
    """The value under which a token is outside the support: float32 [rows, 1], or None where nothing is truncated."""
    if not len(laws.truncated):
        return None
    floors = torch.full_like(shifted[:, :1], -math.inf)
    some = laws.truncated
    floors[some] = torch.maximum(_cut(shifted[some], laws.top_k[some], laws.top_p[some]), laws.least[some])
    return floors


def _cut(shifted: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """The least value that top_k and then top_p keep: float32 [rows, 1]."""
    vocabulary = shifted.shape[-1]
    cut_by_rank = bool((top_k < vocabulary).any())
    looked = min(vocabulary, max(FIRST_LOOK, int(top_k[top_k < vocabulary].max()) if cut_by_rank else 0))
    while True:
        ranked = shifted.topk(looked, dim=-1).values
        least = ranked.gather(-1, (top_k - 1).clamp(max=looked - 1))
        least = torch.where(top_k < vocabulary, least, -math.inf)
        masses = _exp_(shifted.clone()).double()
        needed = top_p * torch.where(shifted >= least, masses, 0.0).sum(dim=-1, keepdim=True)
        before = ranked.exp().cumsum(dim=-1, dtype=torch.float64) - ranked.exp()
        # A token is kept while those likelier than it have not reached the needed mass; the first always is.
        kept = ((before < needed) & (ranked >= least)).sum(dim=-1, keepdim=True).clamp(min=1)
        if looked == vocabulary or bool(((kept < looked) | (top_p >= 1)).all()):
            nucleus = ranked.gather(-1, kept - 1)
            return torch.where(top_p < 1, torch.maximum(nucleus, least), least)
        looked = min(vocabulary, 8 * looked)


def supported(logits: Tensor, laws: Laws) -> tuple[Tensor, Tensor]:
    """As `shift` gives them, -inf outside the support."""
    shifted, top = shift(logits, laws)
    least = floor(shifted, laws)
    return (shifted if least is None else shifted.masked_fill_(shifted < least, -math.inf)), top


def adjust(logits: Tensor, changes: Adjustments | None) -> Tensor:
    """Logits [rows, vocabulary] with bias and penalties: a copy in float32 where anything changes."""
    if changes is None:
        return logits
    rows, ids, bias, penalty, less = (torch.from_numpy(each).to(logits.device) for each in changes)
    logits = logits.to(torch.float32, copy=True)
    some = logits[rows, ids] + bias
    logits[rows, ids] = torch.where(some > 0, some / penalty, some * penalty) - less
    return logits


def draw(logits: Tensor, laws: Laws, uniforms: Tensor, counts: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
    """Tokens by inverse CDF over the vocabulary in id order, one for each uniform.

    logits: [rows, vocabulary].
    uniforms: float64 [draws] in [0, 1).
    counts: how many of the draws are from each row, in their order; one from each by default.
    Returns token ids int64 [draws] and their log-probabilities float64 [draws] (nats). Raises ModelError where logits are NaN.
    """
    rows, vocabulary = logits.shape
    most = max(1, BLOCK // vocabulary) if logits.device.type == "cpu" else rows
    drawn: list[tuple[Tensor, Tensor]] = []
    stop = 0
    for first in range(0, rows, most):
        some = slice(first, min(first + most, rows))
        here = None if counts is None or max(counts[some]) == 1 else counts[some]
        start, stop = stop, stop + (some.stop - first if here is None else sum(here))
        part = laws if rows <= most else laws.take(torch.arange(some.start, some.stop, device=logits.device))
        drawn.append(_draw(logits[some], part, uniforms[start:stop], here))
    tokens, logq = zip(*drawn, strict=True)
    return torch.cat(tokens), torch.cat(logq)


def _draw(logits: Tensor, laws: Laws, uniforms: Tensor, counts: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    """`draw`, all rows at once. The masses overwrite the shifted logits, so those of the tokens drawn are read again."""
    device = logits.device
    rows = torch.arange(len(logits), device=device)
    if counts is not None:
        rows = rows.repeat_interleave(torch.tensor(counts, device=device))
    shifted, top = supported(logits, laws)
    tokens, total = _inverse(_exp_(shifted), uniforms[:, None], rows)
    scaled = logits[rows, tokens[:, 0]].float() / laws.temperature[rows, 0]
    return tokens[:, 0], (scaled - top[rows, 0]).double() - total[:, 0].log()


def _inverse(masses: Tensor, uniforms: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
    """The first index whose cumulative mass exceeds the uniform's share of the total: int64 and totals float64 [draws, 1].

    of: int64 [draws], the row of `masses` that each uniform [draws, 1] is for.
    Only the block that holds the index is accumulated: a cumulative sum over a whole vocabulary takes ten times as long as a sum.
    """
    blocks = _blocks(masses)
    width = blocks.shape[-1]
    cumulative = blocks.sum(dim=-1).double().cumsum(dim=-1)
    if not bool(cumulative[:, -1].isfinite().all()):
        raise ModelError('the model gave logits that are NaN: its numbers overflow. Load it with dtype="float32".')
    cumulative = cumulative[of]
    total = cumulative[:, -1:].contiguous()
    wanted = uniforms * total
    block = _place(cumulative, wanted, total)
    wanted -= functional.pad(cumulative, (1, 0)).gather(-1, block)
    inside = blocks[of, block[:, 0]].cumsum(dim=-1, dtype=torch.float64)
    return block * width + _place(inside, wanted, inside[:, -1:].contiguous()), total


def _exp_(shifted: Tensor) -> Tensor:
    """exp in place, by way of base 2: the same to 1e-7 of the largest, and 3 to 20 times as fast where torch's exp is MKL's."""
    return shifted.mul_(LOG2E).exp2_()


def _blocks(values: Tensor) -> Tensor:
    """Values [rows, vocabulary] as [rows, blocks, width], zeros at the end where they do not fill the last block.

    The width is a power of two about the square root of the vocabulary, or one below that needs no zeros and so no copy.
    """
    rows, vocabulary = values.shape
    width = 1 << (math.isqrt(vocabulary) - 1).bit_length()
    even = math.gcd(vocabulary, width)
    width = even if even >= LEAST_BLOCK else width
    return (functional.pad(values, (0, -vocabulary % width)) if vocabulary % width else values).view(rows, -1, width)


def _sum(values: Tensor) -> Tensor:
    """Sums over the vocabulary: float64 [rows]."""
    return _blocks(values).sum(dim=-1).sum(dim=-1, dtype=torch.float64)


def _place(cumulative: Tensor, wanted: Tensor, total: Tensor) -> Tensor:
    """The first index whose cumulative mass exceeds `wanted`; rounding may carry that to the total: then the last with mass."""
    return torch.minimum(torch.searchsorted(cumulative, wanted, right=True), torch.searchsorted(cumulative, total))


def log_probability(logits: Tensor, laws: Laws, tokens: Tensor) -> Tensor:
    """Log-probability (nats) of given tokens int64 [rows]: float64 [rows], -inf outside the support."""
    shifted, _ = supported(logits, laws)
    chosen = shifted.gather(-1, tokens[:, None])[:, 0]
    return chosen.double() - _sum(_exp_(shifted)).log()


def certainty(logits: Tensor, laws: Laws) -> Tensor:
    """The three measurements of `exptilt.engines.certainty.Certainty`, in its order: float64 [rows, 3], before truncation."""
    shifted, _ = shift(logits, laws)
    masses = _exp_(shifted.clone())
    log_total = _sum(masses).log()
    mean_shifted = _sum(masses.mul_(shifted)) / log_total.exp()
    entropy = log_total - mean_shifted
    log_size = math.log(shifted.shape[-1])
    from_uniform = log_total - _sum(shifted) / shifted.shape[-1] - log_size
    return torch.stack([entropy, log_size - entropy, from_uniform], dim=-1)
