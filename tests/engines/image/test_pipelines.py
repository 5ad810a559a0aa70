"""Pipelines of diffusers as engines: the steps of their schedulers, their prompts, their pictures, and what is refused."""

from __future__ import annotations

import shutil
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
from tests.engines.image.pipelines import SCHEDULERS, pixels, texts, texts_xl, transformer
from tests.engines.image.toys import Formula, engine_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pixels(tmp_path_factory.mktemp("pixels"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Any:
    with xt.load(f"image:{folder}", steps=4, null=3) as found:
        yield found


def opened(folder: Path, **options: Any) -> Any:
    return xt.load(f"image:{folder}", **{"steps": 3, **options})


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


def test_learned_variances_are_the_schedulers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler's own loop with the draft's noise leads to the same picture. Deviations are read off that loop by drawing
    each step twice, and densities written out with them are those that were recorded."""
    learned = SCHEDULERS["ddpm-learned"]
    with opened(pixels(tmp_path, scheduler=learned, variances=True), steps=4, null=3, guidance=2.0) as engine:
        [draft] = drawn(engine, 1)
        noise = [torch.tensor(engine.noise.value(token, n, (1, 1, 4, 4))).float() for n, token in enumerate(draft.tokens)]
        scheduler = type(learned).from_config(learned.config)
        scheduler.set_timesteps(4)
        x, log_probs = noise[0], [log_normal(noise[0], torch.ones(1))]
        for time, each in zip(scheduler.timesteps, [*noise[1:], torch.zeros(1, 1, 4, 4)], strict=True):
            with torch.inference_mode():
                output, free = (engine.model.module(x, time, class_labels=torch.tensor([c])).sample for c in (1, 3))
            output = torch.cat([2 * output[:, :1] - free[:, :1], output[:, 1:]], 1)
            after = []
            for drawn_noise in (each, torch.zeros_like(each), torch.ones_like(each)):
                monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, n=drawn_noise, **__: n)
                after.append(scheduler.step(output, time, x).prev_sample)
            x = after[0]
            if len(log_probs) < len(draft.tokens):
                deviation = after[2] - after[1]
                log_probs.append(log_normal((x - after[1]) / deviation, deviation))
                assert deviation.std() > 0  # the network does choose
        monkeypatch.undo()
        cells = 16 * 24 * np.log(2)
        assert np.allclose(draft.output, np.clip((x[0, 0].numpy() + 1) / 2, 0, 1), atol=1e-5)
        assert np.allclose(known_logq(draft), np.array(log_probs) - cells, rtol=1e-4)
        assert np.allclose(engine.score([draft])[0], known_logq(draft), rtol=1e-6)
        target = Target(engine, lambda prompt, drafts: [0.0] * len(drafts), 1.0, engine.with_sampling(reuse=2))
        assert np.isfinite(xt.sample(target, "2", xt.Independent(4), select=xt.draw).log_z or np.nan)


def log_normal(noise: Any, deviation: Any) -> float:
    return float((-0.5 * noise**2 - torch.log(deviation) - 0.5 * np.log(2 * np.pi)).sum())


def test_learned_variances_that_are_lacking_or_of_another_kind_are_refused(tmp_path: Path) -> None:
    other = type(SCHEDULERS["ddpm"])(variance_type="learned")
    with pytest.raises(ModelError, match=r"gives 1 channels for 1 and so none: save the scheduler with"):
        xt.load(f"image:{pixels(tmp_path / 'one', scheduler=SCHEDULERS['ddpm-learned'])}", steps=4)
    with pytest.raises(ModelError, match=r'variance_type="learned", which exptilt does not know: give scheduler="ddim"'):
        xt.load(f"image:{pixels(tmp_path / 'two', scheduler=other, variances=True)}", steps=4)


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


@pytest.mark.parametrize("kind", [pixels, texts_xl])
def test_the_folder_is_no_part_of_the_distribution(tmp_path: Path, kind: Any) -> None:
    """Configurations hold the folder that they were read from, and with it the same weights drew other pictures."""
    shutil.copytree(kind(tmp_path / "one"), tmp_path / "two")
    found = []
    for name in ("one", "two"):
        with opened(tmp_path / name, scheduler="ddim") as engine:
            found.append((drawn(engine, 1)[0].tokens, {**engine.settings, "model": ""}))
    assert found[0] == found[1]


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


def test_guidance_counts_both_evaluations_of_a_step(engine: Any) -> None:
    """It once counted one for each step, so that guided pictures seemed to cost no more than plain ones."""
    from exptilt.usage import Work

    plain, guided = Work(), Work()
    key = Key(3, "twice")
    engine.metered(plain).extend([engine.start("0")], [key])
    engine.with_sampling(guidance=2.0).metered(guided).extend([engine.start("0")], [key])
    assert (plain.forwards, guided.forwards) == (4, 8)


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
    with opened(transformer(tmp_path), guidance=2.0) as engine:
        [draft] = drawn(engine, 1, "bird")
        assert draft.output.shape == (8, 8, 3)
        assert engine.start("2").prompt == "2"
        with pytest.raises(PromptError, match=r"[Dd]id you mean"):
            engine.start("birds")


def test_a_text_conditional_pipeline(tmp_path: Path) -> None:
    path = texts(tmp_path)
    with pytest.raises(ModelError, match=r"PNDMScheduler.*scheduler= one of"):
        xt.load(f"image:{path}", steps=3)
    with opened(path, scheduler="ddim", guidance=3.0) as engine:
        one, other = (drawn(engine, 1, prompt)[0] for prompt in ("a cat", "a dog"))
        assert one.output.shape == (8, 8, 3)
        assert not np.allclose(one.output, other.output)
        assert engine.max_tokens == 4  # the last step of this scheduler draws noise too
        with pytest.raises(PromptError, match="20 tokens"):
            engine.start("abc " * 6)


@pytest.mark.parametrize("zeros", [True, False])
def test_stable_diffusion_xl_is_told_what_its_own_pipeline_tells_it(
    tmp_path: Path, zeros: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words, the text as a whole, sizes, and what stands for no text: as diffusers passes them to the network."""
    seen: dict[str, Any] = {}
    with opened(texts_xl(tmp_path, zeros), scheduler="ddim", guidance=3.0) as engine:
        network = engine.model.module
        forward = network.forward

        def watched(x: Any, time: Any, *given: Any, **more: Any) -> Any:
            seen.update(more)
            return forward(x, time, *given, **more)

        monkeypatch.setattr(network, "forward", watched)
        engine.model.pipeline.set_progress_bar_config(disable=True)
        engine.model.pipeline("a cat", num_inference_steps=1, guidance_scale=3.0, output_type="latent")
        ours = engine.model.prompts.arguments([engine.model.prompts.null, "a cat"], "cpu", torch.float32)
        assert torch.equal(ours["encoder_hidden_states"], seen["encoder_hidden_states"])
        for name in ("text_embeds", "time_ids"):
            assert torch.equal(ours["added_cond_kwargs"][name], seen["added_cond_kwargs"][name])
        one, other = (drawn(engine, 1, prompt)[0] for prompt in ("a cat", "a dog"))
        assert one.output.shape == (8, 8, 3)
        assert not np.allclose(one.output, other.output)
        with pytest.raises(PromptError, match="20 tokens"):
            engine.start("abc " * 6)


def test_the_second_encoder_is_read_and_told_apart(tmp_path: Path) -> None:
    """Settings once named the weights of the network alone: pipelines with another encoder passed for the same one."""
    with opened(texts_xl(tmp_path), scheduler="ddim") as engine:
        [before] = drawn(engine, 1, "a cat")
        name = engine.settings["other weights"]["text_encoder_2"]
    with opened(tmp_path, scheduler="ddim") as engine:
        engine.model.pipeline.text_encoder_2.text_model.final_layer_norm.weight.data *= 3
        engine.model.pipeline.text_encoder_2.text_projection.weight.data *= 3
        [after] = drawn(engine, 1, "a cat")
        assert engine.settings["other weights"]["text_encoder_2"] != name
    assert not np.allclose(before.output, after.output)


def test_labels_are_part_of_the_distribution(folder: Path) -> None:
    """States were once kept by the prompt's words alone, so a second engine with other labels went on with the first one's."""
    pictures = []
    for number in (0, 2):
        with opened(folder, labels={"it": number}) as engine:
            [begun] = engine.extend([engine.start("it")], [Key(5)], 2)
            pictures.append(engine.extend([begun], [Key(6)])[0].output)
            [again] = drawn(engine, 1, "it")
            assert np.allclose(again.output, drawn(engine, 1, str(number))[0].output)
    assert not np.allclose(*pictures)


@pytest.mark.parametrize("kind", [texts, texts_xl])
def test_what_a_pipeline_does_not_have_is_refused(tmp_path: Path, kind: Any) -> None:
    source = f"image:{kind(tmp_path)}"
    with pytest.raises(ValueError, match=r"null=0 is for models of classes"):
        xt.load(source, steps=3, scheduler="ddim", null=0)
    with pytest.raises(ValueError, match=r"labels= names classes"):
        xt.load(source, steps=3, scheduler="ddim", labels={"cat": 0})


def test_networks_that_read_another_picture_are_refused(tmp_path: Path) -> None:
    """As of a pipeline that fills in parts: its parts are those of Stable Diffusion, and the first step failed."""
    with pytest.raises(ModelError, match=r"reads 9 channels, and its autoencoder's codes have 4.*noise alone"):
        xt.load(f"image:{texts(tmp_path, in_channels=9)}", steps=3, scheduler="ddim")


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
    with pytest.raises(ValueError, match=r"null=4 is not a class: give a number from 0 to 3"):
        xt.load(f"image:{folder}", steps=4, null=4)
    with pytest.raises(ValueError, match=r"null='none' must be a whole number of 0 or more"):
        xt.load(f"image:{folder}", steps=4, null="none")
    with pytest.raises(ValueError, match=r"labels='x' must name classes with their numbers"):
        xt.load(f"image:{folder}", steps=4, labels="x")
    with pytest.raises(ValueError, match=r"steps=2000 is more than the 1000 .* give at most 1000"):
        xt.load(f"image:{folder}", steps=2000)
    with pytest.raises(ValueError, match=r"labels has 'owl': 7, .* classes 0 to 3"):
        xt.load(f"image:{folder}", steps=4, labels={"owl": 7})
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


@pytest.mark.parametrize("where", ["module", "decoder"])
def test_memory_that_runs_out_is_told_with_its_cure(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator and on a CPU, in the network and in the autoencoder."""
    with opened(transformer(tmp_path)) as engine:

        def full(*given: Any, **more: Any) -> Any:
            raise shortage

        monkeypatch.setattr(getattr(engine.model, where), "forward" if where == "module" else "decode", full)
        shortage: Exception = torch.OutOfMemoryError("CUDA out of memory")
        with pytest.raises(ModelError, match="ran out of memory with 4 pictures at once: load it with max_rows=2"):
            engine.extend([engine.start("1")] * 4, [Key(9, number) for number in range(4)])
        shortage = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        with pytest.raises(ModelError, match=r"max_rows=1, or with dtype="):
            engine.extend([engine.start("2")] * 2, [Key(9, number) for number in range(2)])
        shortage = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        with pytest.raises(ModelError, match="cannot be multiplied"):  # which has another cure
            engine.extend([engine.start("0")], [Key(9)])


def test_pictures_with_nan_are_named_where_they_arise(tmp_path: Path) -> None:
    """A decoder that overflows gave pictures with NaN, and the reward was called the one at fault."""
    with opened(transformer(tmp_path)) as engine:
        engine.model.decoder.decoder.conv_out.bias.data[0] = torch.nan
        with pytest.raises(ModelError, match=r"drew a picture with NaN.*dtype=\"float32\""):
            drawn(engine, 1)


def test_outputs_of_another_shape_are_named() -> None:
    engine = engine_of(Formula(lambda x, *rest: x[:, :, :2], (0.3, 0.9), (1, 4, 4)))
    with pytest.raises(ModelError, match=r"returned the shape \(1, 1, 2, 4\) for states of \(1, 1, 4, 4\)"):
        drawn(engine, 1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", [pixels, transformer, texts, texts_xl])
def test_half_precision(tmp_path: Path, kind: Any, dtype: str) -> None:
    """Networks run in 16 bits. States, weights and log-probabilities do not: draws have the densities that a score finds again to
    far more digits than 16 bits hold, and weights are finite."""
    with opened(kind(tmp_path), scheduler="ddim", dtype=dtype) as engine:
        drafts = drawn(engine, 3, "1" if kind in (pixels, transformer) else "a cat")
        assert str(engine.model.module.dtype) == f"torch.{dtype}" == f"torch.{engine.settings['dtype']}"
        for draft, score in zip(drafts, engine.score(drafts), strict=True):
            assert draft.output.dtype == np.float32
            assert np.isfinite(draft.output).all()
            assert score.dtype == np.float64
            assert np.isfinite(score).all()
            assert np.allclose(score, known_logq(draft), rtol=1e-9)
        cheap = Target(engine, lambda prompt, some: [float(d.output.mean()) for d in some], 0.1, engine.with_sampling(reuse=2))
        result = xt.sample(cheap, drafts[0].prompt, xt.Independent(4), select=xt.draw)
        assert np.isfinite(result.population.log_w).all()
