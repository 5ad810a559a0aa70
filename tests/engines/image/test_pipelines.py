"""Pipelines of diffusers as engines: the steps of their schedulers, their prompts, their pictures, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import exptilt as xt
from exptilt.core import Target
from exptilt.draft import known_logq
from exptilt.engines.image import ImageSampling
from exptilt.engines.image.schedules import schedule_of
from exptilt.errors import CapabilityError, ModelError, PromptError, TargetError
from exptilt.keys import Key
from tests.engines.image.pipelines import SCHEDULERS, pixels, texts, transformer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pixels(tmp_path_factory.mktemp("pixels"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Any:
    with xt.load(f"image:{folder}", steps=4, null=3) as found:
        yield found


def opened(folder: Path) -> Any:
    return xt.load(f"image:{folder}", steps=3)


def drawn(engine: Any, count: int, prompt: str = "1") -> list[xt.Draft]:
    return engine.extend([engine.start(prompt)] * count, [Key(7, number) for number in range(count)])


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [2, 5, 50])
def test_steps_are_those_of_the_scheduler(name: str, steps: int) -> None:
    """`schedule_of` compares three steps with the scheduler's own, and would refuse them."""
    schedule = schedule_of(SCHEDULERS[name], ImageSampling(steps=steps), name)
    assert schedule.decisions in (steps, steps + 1)


def test_a_step_that_is_not_the_schedulers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exptilt.engines.image.schedules.ddim_step", lambda *given: _wrong(*given))
    with pytest.raises(ModelError, match="is not the one that exptilt computes"):
        schedule_of(SCHEDULERS["ddim"], ImageSampling(steps=5), "it")


def _wrong(time: float, now: float, then: float, eta: float) -> Any:
    from exptilt.engines.image.steps import ddpm_step

    return ddpm_step(time, now, then, True)


def test_the_whole_path_is_the_pipelines_own(engine: Any, folder: Path) -> None:
    """The scheduler's own loop, fed with the noise that the draft's tokens name, leads to the same picture."""
    [draft] = drawn(engine, 1)
    noise = [engine.noise.value(token, place, (1, 1, 4, 4)) for place, token in enumerate(draft.tokens)]
    network, scheduler = engine.model.module, type(engine.model.scheduler).from_config(engine.model.scheduler.config)
    scheduler.set_timesteps(4)
    x = torch.tensor(noise[0], dtype=torch.float32)
    for time, each in zip(scheduler.timesteps, [*noise[1:], np.zeros((1, 1, 4, 4))], strict=True):
        with torch.inference_mode():
            estimate = network(x, time, class_labels=torch.tensor([1])).sample
        x = scheduler.step(estimate, time, x, eta=1.0, variance_noise=torch.tensor(each, dtype=torch.float32)).prev_sample
    assert np.allclose(draft.output, np.clip((x[0, 0].numpy() + 1) / 2, 0, 1), atol=1e-5)


def test_a_draft_depends_on_its_key_alone(engine: Any) -> None:
    both = drawn(engine, 5)
    start = engine.start("1")
    for number, draft in enumerate(both):
        [alone] = engine.extend([start], [Key(7, number)])
        assert alone == draft
        assert np.allclose(alone.output, draft.output, atol=1e-5)
    assert len({draft.tokens for draft in both}) == 5


def test_recorded_log_probabilities_are_the_scores(engine: Any) -> None:
    drafts = drawn(engine, 3)
    for draft, score, tail in zip(drafts, engine.score(drafts), engine.score(drafts, [2] * 3), strict=True):
        assert np.allclose(score, known_logq(draft), rtol=1e-5)
        assert np.allclose(tail, score[2:])
        assert (score < 0).all()


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "euler-ancestral"])
def test_samplers_run_on_every_scheduler(folder: Path, scheduler: str) -> None:
    with xt.load(f"image:{folder}", steps=4, scheduler=scheduler) as engine:
        target = Target(engine, lambda prompt, drafts: [float(draft.output.mean()) for draft in drafts], 0.1)
        for sampler in (xt.Independent(2), xt.ETS(candidates=2, block=2), xt.SMC(particles=2, block=2), xt.SuffixMCMC(steps=2)):
            result = xt.sample(target, "2", sampler, select=xt.best)
            assert result.draft.output.shape == (4, 4)


def test_candidates_share_what_they_have_in_common(engine: Any) -> None:
    """Eight candidates of one draft need one evaluation for their first step, not eight."""
    from exptilt.usage import Work

    work = Work()
    [draft] = engine.extend([engine.start("0")], [Key(1, "shared")], 1)
    engine.metered(work).extend([draft] * 8, [Key(2, number) for number in range(8)], 1)
    assert (work.forwards, work.generated) == (1, 8)


def test_guidance_moves_away_from_no_class(engine: Any) -> None:
    plain, none, twice = (drawn(engine.with_sampling(guidance=guidance), 1)[0].output for guidance in (1.0, 0.0, 2.0))
    x = np.random.default_rng(0).normal(size=(1, 1, 4, 4))
    estimates = [engine.model.predict(x, np.array([500.0]), [each], np.array([g])) for each, g in ((1, 1.0), (3, 1.0), (1, 2.0))]
    assert np.allclose(estimates[2], 2 * estimates[0] - estimates[1], atol=1e-5)
    assert not np.allclose(plain, none)
    assert not np.allclose(plain, twice)


def test_another_eta_can_propose(engine: Any) -> None:
    """A proposal that reuses each second evaluation is rated by the engine over the proposal's own path."""
    cheap = engine.with_sampling(reuse=2)
    target = Target(engine, lambda prompt, drafts: [0.0] * len(drafts), 1.0, cheap)
    result = xt.sample(target, "2", xt.Independent(4), select=xt.draw)
    assert np.isfinite(result.log_z or np.nan)
    assert result.usage.proposal.forwards == 4 * 2
    with pytest.raises(TargetError, match="alphabet"):
        Target(engine, lambda prompt, drafts: [0.0] * len(drafts), 1.0, engine.with_sampling(steps=5))


def test_a_transformer_with_an_autoencoder(tmp_path: Path) -> None:
    with xt.load(f"image:{transformer(tmp_path)}", steps=3, guidance=2.0) as engine:
        [draft] = drawn(engine, 1, "bird")
        assert draft.output.shape == (8, 8, 3)
        assert engine.start("2").prompt == "2"
        with pytest.raises(PromptError, match=r"[Dd]id you mean"):
            engine.start("birds")


def test_a_text_conditional_pipeline(tmp_path: Path) -> None:
    path = texts(tmp_path)
    with pytest.raises(ModelError, match=r"PNDMScheduler.*scheduler= one of"):
        xt.load(f"image:{path}", steps=3)
    with xt.load(f"image:{path}", steps=3, scheduler="ddim", guidance=3.0) as engine:
        one, other = (drawn(engine, 1, prompt)[0] for prompt in ("a cat", "a dog"))
        assert one.output.shape == (8, 8, 3)
        assert not np.allclose(one.output, other.output)
        assert engine.max_tokens == 4  # the last step of this scheduler draws noise too
        with pytest.raises(PromptError, match="20 tokens"):
            engine.start("abc " * 6)


def test_what_cannot_be_drawn_is_refused(folder: Path, tmp_path: Path, engine: Any) -> None:
    with pytest.raises(ValueError, match=r"eta=0.*Give eta=1"):
        xt.load(f"image:{folder}", steps=4, eta=0.0)
    with pytest.raises(ValueError, match="takes no temperature"):
        xt.load(f"image:{folder}", temperature=0.5)
    with pytest.raises(ValueError, match="no option stepz"):
        xt.load(f"image:{folder}", stepz=3)
    with pytest.raises(ValueError, match=r"give null="):
        xt.load(f"image:{folder}", steps=4, guidance=2.0)
    with pytest.raises(ModelError, match="cannot be read by diffusers"):
        xt.load(f"image:{tmp_path}", steps=4)
    with pytest.raises(PromptError, match=r"no class 'seven': give one of 0, 1, 2"):
        engine.start("seven")
    with pytest.raises(PromptError, match="no class '3'"):
        engine.start("3")  # the class that stands for none
    with pytest.raises(ValueError, match="steps=1 goes"):
        engine.with_sampling(steps=1)
    with pytest.raises(ValueError, match="has no temperature"):
        engine.with_sampling(temperature=1.0)
    with pytest.raises(CapabilityError, match="number of denoising steps"):
        engine.extend([engine.start("1")], [Key(0)], xt.Block("\n"))


def test_damaged_weights_are_named(folder: Path) -> None:
    with opened(folder) as engine:
        engine.model.module.conv_out.weight.data[0, 0, 0, 0] = torch.nan
        with pytest.raises(ModelError, match="NaN or infinite values at time"):
            drawn(engine, 1)


def test_memory_that_runs_out_is_told_with_its_cure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(folder) as engine:

        def full(*given: Any, **more: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(engine.model.module, "forward", full)
        with pytest.raises(ModelError, match="max_rows=2"):
            engine.extend([engine.start("1")] * 4, [Key(9, number) for number in range(4)])


def test_half_precision_draws(folder: Path) -> None:
    with xt.load(f"image:{folder}", steps=3, dtype="bfloat16") as engine:
        assert np.isfinite(drawn(engine, 2)[1].output).all()
