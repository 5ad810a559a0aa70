"""The head of a value: what each next token is worth, from a model's last hidden state; and engines and samplers that use it.

Two layers on the hidden state give a vector, whose product with a token's embedding is that token's log V. So all next tokens are
valued at once, and a twisted proposal costs one forward for each token, as p does. The model itself is not changed: the engine
that draws has modules of its own over the same weights, and another last layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from exptilt.core import Engine
from exptilt.draft import Draft, Prompt
from exptilt.engines.hf import Weights
from exptilt.engines.language import LanguageEngine
from exptilt.engines.tree import own_tree
from exptilt.errors import ModelError, TargetError
from exptilt.running.lines import decode
from exptilt.train.twisted import TwistedEngine

HEAD, ABOUT = "value.safetensors", "value.json"
CLOSE = 1e-3  # by which probabilities may differ between two ways to compute them


class Head(nn.Module):
    """log V of every next token, from a hidden state. size: of the hidden state. width: of the layer between."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(size, width)
        self.outer = nn.Linear(width, size)
        self.level = nn.Linear(width, 1)
        for layer in (self.outer, self.level):  # every token is worth the same at first
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [..., size] and levels [...] of hidden states [..., size]."""
        found = nn.functional.silu(self.inner(states.float()))
        return self.outer(found), self.level(found)[..., 0]

    def values(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """log V [..., vocabulary]. embeddings: as `directions` gives them."""
        vectors, levels = self(states)
        return vectors @ embeddings.T + levels[..., None]


def directions(model: Any) -> Tensor:
    """The model's token embeddings [vocabulary, size], each of mean 0 and length 1: any vector differs for different tokens."""
    table = model.get_input_embeddings().weight.detach().float()
    return nn.functional.layer_norm(table, table.shape[-1:]) / math.sqrt(table.shape[-1])


def hidden(model: Any, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """The last hidden states [rows, tokens, size], from which the logits are computed."""
    return model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state


@dataclass(frozen=True)
class ValueHead:
    """A value that was fitted to a model. beta: of the target it is for."""

    folder: Path = field(compare=False)
    model: str
    weights: str
    beta: float
    width: int
    size: int
    digest: str

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"weights": self.weights, "head": self.digest, "beta": self.beta}

    def read(self, device: Any) -> Head:
        """The head itself."""
        head = Head(self.size, self.width)
        head.load_state_dict(load_file(self.folder / HEAD))
        return head.to(device).eval().requires_grad_(False)

    def twist(self, engine: Engine, defence: float) -> Engine:
        """The engine that draws from q: the same model with another last layer, which has the temperature inside."""
        base = self._checked(engine)
        backend: Weights = base.backend
        model = own_tree(backend.model, base.name)
        model.set_attn_implementation("sdpa")
        head, heat = self.read(backend.network.device), base.sampling.temperature
        last = Twisted(model.get_output_embeddings(), head, directions(model), defence, heat)
        model.set_output_embeddings(last)
        _check_last(model, backend.model, last, base.name)
        own = Weights(model, backend.text.tokenizer, name=f"twisted {base.name}", ours=True)
        sampling = replace(base.sampling, temperature=1.0, top_p=1.0, top_k=None)
        return replace(base, backend=own, sampling=sampling)

    def of(self, engine: Engine) -> PrefixValue:
        """The value of partial drafts, as `value=` of samplers, in units of the reward."""
        base = self._checked(engine)
        return PrefixValue(base, self, self.read(base.backend.network.device), directions(base.backend.model))

    def _checked(self, engine: Engine) -> LanguageEngine[Any]:
        if not (isinstance(engine, LanguageEngine) and isinstance(engine.backend, Weights)):
            raise TargetError(f"the value in {self.folder} reads hidden states of {self.model}, and {engine.name} has none")
        if engine.backend.digest != self.weights:
            raise TargetError(
                f"the value in {self.folder} was fitted to {self.model}, and {engine.name} has other weights: load that model"
            )
        return engine


def load_value(folder: str | Path) -> ValueHead:
    """The value in a folder that `exptilt train value` wrote. Raises ModelError where there is none."""
    folder = Path(folder)
    try:
        about = decode((folder / ABOUT).read_text())
        found = load_file(folder / HEAD)
        whole = b"".join(found[name].numpy().tobytes() for name in sorted(found))
        return ValueHead(folder, **about, digest=blake2b(whole, digest_size=8).hexdigest())
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{folder} holds no value ({error}): give the folder that exptilt train value wrote") from error


class Twisted(nn.Module):
    """A model's last layer that gives the log-probabilities of q instead of p's logits."""

    def __init__(self, last: Any, head: Head, embeddings: Tensor, defence: float, temperature: float) -> None:
        super().__init__()
        self.last = last
        self.head = head
        self.register_buffer("embeddings", embeddings)
        self.defence = defence
        self.temperature = temperature
        self.plain = False

    def forward(self, states: Tensor) -> Tensor:
        logs = torch.log_softmax(self.last(states).float() / self.temperature, -1)
        if self.plain or self.defence == 1:
            return logs
        steered = torch.log_softmax(logs + self.head.values(states, self.get_buffer("embeddings")), -1)
        return torch.logaddexp(steered + math.log1p(-self.defence), logs + math.log(self.defence))


@torch.inference_mode()
def _check_last(model: Any, before: Any, last: Twisted, name: str) -> None:
    """Refuse a model that does something to the logits after its last layer: q would be another distribution than is meant."""
    ids = torch.arange(1, 9, device=before.device)[None] % before.get_input_embeddings().weight.shape[0]
    wanted = torch.log_softmax(before(input_ids=ids, use_cache=False).logits.float() / last.temperature, -1)
    last.plain = True
    found = model(input_ids=ids, use_cache=False).logits
    last.plain = False
    if not torch.allclose(found.float().exp(), wanted.exp(), atol=CLOSE):
        raise TargetError(f"{name} scales or caps its logits after its last layer, so it cannot be twisted: use value= instead")


@dataclass(frozen=True, eq=False)
class PrefixValue:
    """β·log V of partial drafts, relative to their prompt: `value=` of SMC and ETS. Each call reads the drafts whole."""

    engine: LanguageEngine[Any]
    value: ValueHead
    head: Head
    embeddings: Tensor

    def __call__(self, prompt: Prompt, drafts: list[Draft]) -> list[float]:
        start = self.engine.prompt_tokens(prompt)
        begun = [draft for draft in drafts if draft.tokens]
        texts = [(*start, *draft.tokens) for draft in begun]
        found = iter(self.engine.backend.scheduler.call(lambda: self._read(texts)) if texts else [])
        return [self.value.beta * next(found) if draft.tokens else 0.0 for draft in drafts]

    @torch.inference_mode()
    def _read(self, texts: list[tuple[int, ...]]) -> list[float]:
        values = []
        for text in texts:
            state = hidden(self.engine.backend.model, torch.tensor([text[:-1]], device=self.embeddings.device))[0, -1]
            vector, level = self.head(state)
            values.append(float(vector @ self.embeddings[text[-1]] + level))
        return values


def opened(value: str, *, defence: float = 0.05, **sampling: Any) -> TwistedEngine:
    """A twisted proposal by the folder of its value, for `--proposal 'exptilt.train.value:opened?value=FOLDER'`."""
    from exptilt.engines.loading import load

    found = load_value(value)
    return TwistedEngine(load(found.model, **sampling), found, defence)
