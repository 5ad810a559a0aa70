"""llama.cpp's own server on loopback, with the bundled tiny model written to a GGUF file.

The server is `llama-server` from the search path, or what EXPTILT_LLAMA_SERVER names; CONTRIBUTING.md says how to build it.
"""

from __future__ import annotations

import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from exptilt.core import Engine, Target
from exptilt.draft import Draft
from exptilt.engines.loading import load
from exptilt.errors import CapabilityError
from exptilt.keys import Key
from exptilt.rewards import Arithmetic
from exptilt.running.run import sample
from exptilt.samplers import ETS, Independent, SuffixMCMC
from exptilt.usage import Work
from tests.engines.gguf_tiny import tiny_gguf
from tests.engines.laws import check_law
from tests.servers.conftest import CAP, free_port, server

pytestmark = pytest.mark.servers

# The tiny model's prompts and answers, whose tokens llama.cpp cuts almost as its tokenizer does.
QUESTION = "Tom has 3 apples and buys 4 more. How many apples does Tom have?"
SLOTS = 4


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a server, started as docs/servers.md says."""
    pytest.importorskip("gguf")
    program = os.environ.get("EXPTILT_LLAMA_SERVER") or shutil.which("llama-server")
    if program is None:
        pytest.skip("there is no llama-server on the search path: CONTRIBUTING.md says how to build one")
    folder = tmp_path_factory.mktemp("llamacpp")
    port = free_port()
    command = [program, "-m", str(tiny_gguf(folder / "tiny.gguf")), "-c", "2048", "--parallel", str(SLOTS), "-t", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port), "-ctk", "f32", "-ctv", "f32", "-fa", "off"]
    with server(command, port, folder / "log"):
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="module")
def engine(url: str) -> Iterator[Any]:
    found: Any = load("openai:tiny", base_url=url, max_tokens=CAP, concurrency=SLOTS)
    yield found
    found.close()


def keys(count: int, *path: int) -> list[Key]:
    return [Key(0, *path, i) for i in range(count)]


def draw(engine: Engine, count: int, **changes: Any) -> list[Draft]:
    law: Any = engine
    law = law.with_sampling(**changes) if changes else law
    return law.extend([law.start(QUESTION)] * count, keys(count))


def test_what_the_server_can_is_measured(engine: Any) -> None:
    assert (engine.backend.server.abilities.mode, engine.backend.server.abilities.make) == ("text", "llamacpp")
    assert engine.can == {"continue"}


def test_seeds_repeat_and_copies_differ(engine: Engine) -> None:
    """Prompts in other slots round differently: of 16 drafts nearly all come again."""
    once, again = draw(engine, 16), draw(engine, 16)
    assert sum(one.text == other.text for one, other in zip(once, again, strict=True)) >= 14
    assert len({draft.text for draft in once}) > 4


def test_caps_stops_and_blocks(engine: Engine) -> None:
    drafts = draw(engine, 8)
    assert {draft.finish for draft in drafts} <= {"stop", "length"}
    assert any(draft.finish == "stop" for draft in drafts)
    assert all(len(draft.tokens) <= CAP for draft in drafts)
    stopped = draw(engine, 8, stop=["="])
    assert all("=" not in draft.text for draft in stopped)
    assert any(draft.finish == "stop" for draft in stopped)
    begun = engine.extend([engine.start(QUESTION)] * 4, keys(4), tokens=5)
    assert all(len(draft.tokens) == 5 or draft.finish for draft in begun)
    for part, whole in zip(begun, engine.extend(begun, keys(4, 1)), strict=True):
        assert whole.text.startswith(part.text)
        assert whole.finish


def test_greedy_decoding_is_that_of_transformers(engine: Engine, reference: Any) -> None:
    """One token has all the mass: the text is the other engine's, whatever the seed."""
    [ours], [theirs] = draw(engine, 1, top_k=1), draw(reference, 1, top_k=1)
    assert ours.text == theirs.text


def test_first_tokens_follow_the_law_of_transformers(engine: Engine, reference: Any) -> None:
    """The first piece of text, drawn 300 times, is as likely as 5 standard errors at least."""
    count, text = 300, reference.backend.text
    drafts = engine.extend([engine.start(QUESTION)] * count, keys(count, 2), tokens=1)
    firsts = [Draft(QUESTION, (token,), None) for token in range(reference.backend.network.vocabulary)]
    scores = reference.score(firsts)
    probabilities: defaultdict[str, float] = defaultdict(float)
    for draft, score in zip(firsts, scores, strict=True):
        probabilities[text.decode([draft.tokens])[0]] += math.exp(score[0])
    check_law(drafts, probabilities, lambda draft: draft.text)


def test_work_is_counted(engine: Engine) -> None:
    work = Work()
    metered: Any = engine.metered(work)
    drafts = draw(metered, 6)
    assert work.generated >= sum(len(draft.tokens) for draft in drafts) - 6
    assert work.prompt + work.cached > 0


def test_samplers_run_and_those_that_need_more_are_refused(engine: Engine) -> None:
    target = Target(engine, Arithmetic(), beta=0.2)
    for sampler in [Independent(4), ETS(candidates=2, rollouts=1, block=8), SuffixMCMC(steps=3)]:
        result = sample(target, QUESTION, sampler, seed=1)
        assert result.text
        assert result.usage.tokens > 0
    with pytest.raises(CapabilityError):
        sample(Target(engine, Arithmetic(), beta=0.2, proposal=engine), QUESTION, ETS(candidates=2, rollouts=1, block=8))
