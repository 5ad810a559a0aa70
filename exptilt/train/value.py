"""`fit_value`: a head over a frozen model's hidden states that knows what each next token is worth.

It learns log V(sa), where V(s) = E_p[exp(r/β) | s]/Z is what a response that begins with s is worth, in units of the prompt's
mean.
Each prefix of a rollout that a run has paid for is an example, and the loss exp(v) - h·v, with v the head's output and
h = exp(r/β)/Ẑ of the rollout, is least in the mean where exp(v) = E[h | prefix]. A constant of each prompt changes neither a
proposal nor the shares that SMC and ETS pick by, so it is left out, and the same head serves prompts of every difficulty.

The head is in `exptilt.train.head`. A value serves two purposes:

    Target(engine, reward, β, proposal=TwistedEngine(engine, load_value(FOLDER)))     draws that look ahead
    SMC(value=load_value(FOLDER).of(engine))                                          picking among plain draws
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from exptilt.draft import Draft, Prompt
from exptilt.engines.checkpoints import digest
from exptilt.errors import TrainError
from exptilt.keys import Floats
from exptilt.populations.diagnostics import log_shares, log_sum
from exptilt.running.lines import encode
from exptilt.train.align import draft_row
from exptilt.train.fitting import Progress, Row, fit_rows, writing
from exptilt.train.head import ABOUT, HEAD, Head, directions, hidden
from exptilt.train.lessons import Drawn, Tilt, read_source, untilted
from exptilt.train.models import Student, read_student
from exptilt.train.settings import Fit, Folder, fit_settings

WIDTH = 256
STANDARD = Fit(epochs=4, batch=64, learning_rate=3e-3, checkpoint=1000)


class _OverFrozen(nn.Module):
    """A head and the model below it, which the Trainer neither trains nor saves."""

    def __init__(self, head: Head, model: Any) -> None:
        super().__init__()
        self.head = head
        self._model = (model,)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            states = hidden(self._model[0], input_ids, attention_mask)
        vectors, levels = self.head(states)
        return {"vectors": vectors, "levels": levels}


# ----------------------------------------------------------------------------------------------------------- fitting


@dataclass(frozen=True)
class Valued:
    """A value that was fitted. prompts, drafts: that it learned from. steps, tokens: of training. loss: of the last steps."""

    folder: Path
    prompts: int
    drafts: int
    steps: int
    tokens: int
    loss: float


def fit_value(
    model: str,
    stores: Sequence[str | Path],
    out: str | Path,
    *,
    beta: float | None = None,
    width: int = WIDTH,
    fit: Fit | None = None,
    progress: Progress | None = None,
) -> Valued:
    """Fit a value to the rollouts in results files.

    model: the one that drew them. out: the folder of the head; a run that was stopped goes on from its last checkpoint.
    beta: β of the target that the value is for; that of the files where not given.
    Raises StoreError or TrainError.
    """
    fit, source = fit or STANDARD, read_source(stores)
    examples = [found for drawn in source.drawn if (found := _example(drawn, Tilt(beta))) is not None]
    if not any(np.ptp(found.worth) > 0 for found in examples):
        raise TrainError(
            f"in each of the {len(source.drawn)} prompts all drafts have the same reward, or there is a single one: nothing says "
            "which prefixes are worth more. Draw more for each prompt, or take prompts that are neither always nor never solved."
        )
    student = read_student(model, [source.engine, *source.proposals], fit.device)
    weights, size = digest(student.model), student.model.get_input_embeddings().weight.shape[1]
    counts = {"prompts": len(examples), "drafts": sum(len(found.drafts) for found in examples)}
    worth = float(np.round(sum(float(found.shares @ found.worth**2) for found in examples), 9))
    settings = {"trained": "value", "model": weights, "beta": beta, "width": width, "worth": worth, **counts}
    folder = Folder(out, {**settings, "fit": fit_settings(fit)})
    if folder.summary is None:
        torch.manual_seed(fit.seed)
        head = Head(size, width).to(student.model.device)
        rows = [row for found in examples for row in _rows(student, found, counts["drafts"] / len(examples))]
        network, loss = _OverFrozen(head, student.model.eval()), _loss(directions(student.model))
        fitted = fit_rows(network, rows, loss, fit, folder, progress=progress)
        with writing(folder):
            save_file({name: tensor.contiguous() for name, tensor in head.state_dict().items()}, folder.path / HEAD)
            about = {"model": model, "weights": weights, "beta": beta or examples[0].beta, "width": width, "size": size}
            (folder.path / ABOUT).write_text(encode(about) + "\n")
        folder.finish({**counts, **asdict(fitted)})
    assert folder.summary is not None
    return Valued(folder.path, **folder.summary)


@dataclass(frozen=True, eq=False)
class _Example:
    """The rollouts of a prompt. shares: float64 [drafts], of p, sum 1. worth: float64 [drafts], exp(r/β)/Ẑ, of mean 1."""

    prompt: Prompt
    drafts: tuple[Draft, ...]
    shares: Floats
    worth: Floats
    beta: float


def _example(drawn: Drawn, form: Tilt) -> _Example | None:
    """None for a single draft, whose worth would be 1 whatever its reward."""
    population = untilted(drawn, whole=True)
    log_h = form.factors(population)
    held = np.flatnonzero(population.log_w > -math.inf)
    if len(held) < 2 or log_h[held].max() == -math.inf:
        return None
    log_u = log_shares(population.log_w[held])
    worth = np.exp(log_h[held] - log_sum(log_u + log_h[held]))
    beta = form.beta or population.beta or math.nan
    return _Example(drawn.prompt, tuple(population.drafts[int(row)] for row in held), np.exp(log_u), worth, beta)


def _rows(student: Student, found: _Example, scale: float) -> list[Row]:
    prompt = student.encode(found.prompt)
    student.check(found.drafts)
    told = zip(found.drafts, found.shares, found.worth, strict=True)
    return [draft_row(prompt, draft.tokens, [[share * scale, worth]] * len(draft.tokens)) for draft, share, worth in told]


def _loss(embeddings: Tensor) -> Any:
    """The sum over prefixes of u·(exp(v) - h·v)."""

    def loss(output: Any, labels: Tensor) -> Tensor:
        held = labels[..., 1] > 0
        tokens, shares, worth = labels[held].unbind(-1)
        found = torch.sum(output["vectors"][held] * embeddings[tokens.long()], -1) + output["levels"][held]
        return torch.sum(shares * (torch.exp(found.clamp(max=30.0)) - worth * found))

    return loss
