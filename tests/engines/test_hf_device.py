"""A step on another device than the CPU: no tensor of it lies elsewhere, as a GPU would find out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from exptilt.engines.hf.backend import Weights  # noqa: E402
from exptilt.engines.hf.decode import Decoder  # noqa: E402
from exptilt.engines.hf.memory import FREE_FOR_PREFIXES, FREE_FOR_ROWS, budgets  # noqa: E402
from exptilt.engines.hf.network import Network  # noqa: E402
from exptilt.engines.hf.rating import rate  # noqa: E402
from exptilt.engines.hf.trial import trial_ids  # noqa: E402
from exptilt.engines.row import Context, Rated, Row  # noqa: E402
from exptilt.engines.sampling import Sampling  # noqa: E402
from exptilt.engines.text import Text  # noqa: E402
from exptilt.keys import Key  # noqa: E402
from tests.engines.other_device import DEVICE, OtherDevice, WrongDeviceError, send  # noqa: E402

LAWS = {
    "plain": Sampling(max_tokens=12),
    "truncated": Sampling(max_tokens=12, temperature=1.4, top_k=50, top_p=0.9, min_p=0.01),
    "changed": Sampling(max_tokens=12, repetition_penalty=1.2, presence_penalty=0.5, logit_bias={70: 2.0}),
}


def prompts(config: Any) -> list[tuple[int, ...]]:
    """Two that share a root, one of a trunk's length, and a short one."""
    ids = [4 + token % (config.vocab_size - 4) for token in trial_ids(config) * 7]
    return [tuple(ids[:150]), (*ids[:140], 9, 8, 7), tuple(ids[50:90]), (1, 30)]


@pytest.fixture
def parts(model_folder: Path) -> tuple[Any, Any]:
    return (
        transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval(),
        transformers.AutoTokenizer.from_pretrained(model_folder),
    )


def decoder(parts: tuple[Any, Any], *, fast: bool = True) -> Decoder:
    return Decoder(Network(parts[0], 2**24, name="small", fast=fast), Text(parts[1], [2, 3]))


def drawn(decoding: Decoder, law: Sampling) -> list[Row]:
    """Rows that join in two waves, leave at different steps, and go on from where others ended."""
    config = decoding.network.model.config
    rows = [Row(Context(p, p), law, Key(0, n, i), 12 - i) for n, p in enumerate(prompts(config)) for i in range(3)]
    decoding.join(rows[:8])
    decoding.step()
    decoding.join(rows[8:])
    dropped = rows[1]
    decoding.leave([dropped])
    while decoding.rows:
        decoding.step()
    first = rows[0]
    more = Row(Context(first.context.prompt, (*first.context.tokens, *first.tokens)), law, Key(7), 3)
    decoding.join([more])
    while decoding.rows:
        decoding.step()
    return [row for row in [*rows, more] if row is not dropped]


def rated(network: Network, rows: Sequence[Row]) -> list[Any]:
    """Scores of what was drawn, by the backend's own measure."""
    backend: Any = Weights.__new__(Weights)
    backend.network, backend.vocabulary = network, network.vocabulary
    given = [Rated(row.context, tuple(row.tokens), row.sampling, "logq") for row in rows]
    values, _ = rate(network, [each.context for each in given], [each.targets for each in given], backend._measure(given))
    return [each[:, 0].tolist() for each in values]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("law", LAWS)
def test_no_tensor_of_a_step_lies_elsewhere(law: str, fast: bool, parts: tuple[Any, Any]):
    """Loading's trial, prefilling, trunks, steps with rows that join and leave, and scores; the draws are those of a CPU."""
    here = decoder((copy.deepcopy(parts[0]), parts[1]), fast=fast)
    wanted = drawn(here, LAWS[law])
    scores = rated(here.network, wanted)
    with OtherDevice():
        send(parts[0])
        there = decoder(parts, fast=fast)
        assert there.network.device == DEVICE
        assert (there.network.caches, there.network.shares) == (True, fast)
        found = drawn(there, LAWS[law])
        assert [row.tokens for row in found] == [row.tokens for row in wanted]
        for one, other in zip(rated(there.network, found), scores, strict=True):
            assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("part", ["slots", "network"])
def test_a_tensor_that_lies_elsewhere_is_seen(part: str, parts: tuple[Any, Any]):
    """What the test above would not see otherwise: positions, or drawn tokens, made on the CPU."""
    with OtherDevice():
        send(parts[0])
        there = decoder(parts)
        (there.slots if part == "slots" else there.network).device = torch.device("cpu")
        with pytest.raises(WrongDeviceError):
            drawn(there, LAWS["plain"])


def test_memory_is_a_share_of_what_the_card_has_free(monkeypatch: pytest.MonkeyPatch):
    """4 GiB of an 80 GiB card were used for rows, and the others waited."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * 2**30, 80 * 2**30))
    rows, prefixes = budgets(torch.device("cuda:1"), None, None)
    assert (rows, prefixes) == (int(FREE_FOR_ROWS * 60 * 2**30), int(FREE_FOR_PREFIXES * 60 * 2**30))
    assert budgets(torch.device("cuda:1"), 5, 6) == (5, 6)
    assert budgets(torch.device("cpu"), None, None) == (2**32, 2**30)
    assert FREE_FOR_ROWS + FREE_FOR_PREFIXES < 0.9, "the rest is for what is computed"
