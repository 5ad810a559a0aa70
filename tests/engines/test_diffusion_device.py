"""Steps of a masked-diffusion model on another device than the CPU: no tensor of one lies elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from exptilt.engines.diffusion.decode import MaskedDecoder
from exptilt.engines.diffusion.layout import Masked
from exptilt.engines.diffusion.network import MaskedNetwork
from exptilt.engines.diffusion.sampling import DiffusionSampling
from exptilt.keys import Key
from tests.engines.other_device import OtherDevice, WrongDeviceError, send
from tests.engines.test_diffusion import END, MASKED
from tests.engines.test_diffusion_cache import CACHED, network

LAWS = {
    **CACHED,
    "entropy, two at a time": DiffusionSampling(max_tokens=6, block=3, order="entropy", per_step=2, top_k=4, min_p=0.01),
    "guidance": DiffusionSampling(max_tokens=4, block=None, order="left", guidance=0.7),
    "low-confidence": DiffusionSampling(max_tokens=4, block=2, order="low-confidence"),
}


def decided(model: Any, law: DiffusionSampling, *, shifted: bool) -> list[Any]:
    """The tokens of rows with prompts of unequal length, some of which join while others are under way."""
    decoder = MaskedDecoder(MaskedNetwork(model, MASKED, shifted=shifted), frozenset([END]))
    layout = Masked()
    prompts = [(1, 2, 1), (2,), (1, 1, 2, 2, 1)]
    rows: list[Any] = [layout.row(layout.start("", law), prompts[i % 3], law, Key(0, i), None) for i in range(6)]
    for some in (rows[:4], rows[4:]):
        decoder.join(some)
        decoder.step()
    while decoder.rows:
        decoder.step()
    return [list(row.tokens) for row in rows]


@pytest.mark.parametrize("shifted", [False, True], ids=["straight", "shifted"])
@pytest.mark.parametrize("name", LAWS)
def test_no_tensor_of_a_step_lies_elsewhere(name: str, shifted: bool) -> None:
    wanted = decided(network("EuroBert"), LAWS[name], shifted=shifted)
    model = network("EuroBert")
    with OtherDevice():
        assert decided(send(model), LAWS[name], shifted=shifted) == wanted


def test_a_tensor_that_lies_elsewhere_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("EuroBert")
    real = MaskedNetwork.__init__

    def here(self: Any, *args: Any, **options: Any) -> None:
        real(self, *args, **options)
        self.device = torch.device("cpu")

    monkeypatch.setattr(MaskedNetwork, "__init__", here)
    with OtherDevice(), pytest.raises(WrongDeviceError):
        decided(send(model), LAWS["guidance"], shifted=False)
