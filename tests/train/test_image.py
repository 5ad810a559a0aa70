"""Diffusion models fitted to a reward without reinforcement learning, and by the RL-like loss, on a small random network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import exptilt as xt
from exptilt.cli import main
from exptilt.core import Target
from exptilt.errors import AllWeightsZero, TargetError
from exptilt.keys import Key
from exptilt.rewards import Ink
from exptilt.train.image import PictureFit, draw_lessons, fit_pictures
from tests.engines.image.pipelines import SCHEDULERS, pixels, texts, texts_xl
from tests.engines.image.toys import Formula, bent, engine_of


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with xt.load(f"image:{pixels(tmp_path_factory.mktemp('pixels'))}", steps=4, null=3) as opened:
        yield opened


def mean_reward(engine: Any) -> float:
    drafts = engine.extend([engine.start("1")] * 200, [Key(77, number) for number in range(200)])
    return float(np.mean(Ink()("1", drafts)))


@pytest.mark.parametrize("form", ["weighted", "resampled", "rl"])
def test_the_fitted_model_has_a_higher_reward(engine: Any, tmp_path: Path, form: Any) -> None:
    steps, rate = (80, 1e-3) if form == "rl" else (40, 3e-3)
    fit = PictureFit(form=form, draws=64, steps=steps, batch=64, learning_rate=rate)
    target = Target(engine, Ink(), 0.02 if form != "rl" else 1e-4)
    before = torch.cat([each.flatten() for each in engine.model.module.parameters()]).clone()
    fitted = fit_pictures(target, ["1"], tmp_path / "out", fit)
    with xt.load(fitted.model, steps=4, null=3) as trained:
        assert mean_reward(trained) > mean_reward(engine) + (0.02 if form != "rl" else 0.005)
    after = torch.cat([each.flatten() for each in engine.model.module.parameters()])
    assert torch.equal(before, after)  # the engine itself is left alone
    assert fitted.forwards > 64 * 4


@pytest.mark.parametrize("kind", [texts, texts_xl])
@pytest.mark.parametrize("form", ["weighted", "rl"])
def test_models_of_texts_are_fitted(tmp_path: Path, kind: Any, form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that is encoded anew while a gradient is taken has none of its own: kept for later steps, it would hold the first
    one's."""
    monkeypatch.setattr("exptilt.engines.image.prompts.KEPT", 1)
    with xt.load(f"image:{kind(tmp_path / 'made')}", steps=3, scheduler="ddim") as engine:
        target = Target(engine, Ink(), 0.1)
        fit = PictureFit(form=form, draws=4, steps=3, batch=4)
        fitted = fit_pictures(target, ["a cat", "a dog"], tmp_path / "out", fit)
        with torch.enable_grad():
            told = cast(Any, engine).model.prompts.arguments(["a fish"], "cpu", torch.float32)
        assert not told["encoder_hidden_states"].requires_grad
    with xt.load(fitted.model, steps=3, scheduler="ddim") as trained:
        assert trained.settings["weights"] != engine.settings["weights"]
        assert trained.settings["other weights"] == engine.settings["other weights"]


def test_learned_variances_are_left_as_they_are(tmp_path: Path) -> None:
    learned = pixels(tmp_path / "made", scheduler=SCHEDULERS["ddpm-learned"], variances=True)
    with xt.load(f"image:{learned}", steps=4) as engine:
        fit_pictures(Target(engine, Ink(), 0.1), ["1"], tmp_path / "out", PictureFit(draws=4, steps=2, batch=4))
        with pytest.raises(TargetError, match=r'form="rl" learns by steps of fixed variance'):
            fit_pictures(Target(engine, Ink(), 0.1), ["1"], tmp_path / "new", PictureFit(form="rl", draws=4))


def test_both_forms_have_the_same_gradient_in_the_mean(engine: Any) -> None:
    target = Target(engine, Ink(), 0.1)
    lessons = draw_lessons(target, ["1", "2"], PictureFit(draws=16))
    assert lessons.weights.reshape(2, 16).mean(1) == pytest.approx([1.0, 1.0])
    rewards = np.array([float((x.clamp(-1, 1).mean() + 1) / 2) for x in lessons.x[:16]])
    ratio = np.exp((rewards - rewards[0]) / 0.1)
    assert (lessons.weights[:16] / lessons.weights[0]).numpy() == pytest.approx(ratio, rel=1e-4)


def test_bad_input_is_refused(engine: Any, tmp_path: Path) -> None:
    target = Target(engine, Ink(), 0.1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    nothing = Target(engine, lambda prompt, drafts: [-math.inf] * len(drafts), 0.1)
    toy = Target(engine_of(Formula(bent, (0.3, 0.9))), Ink(), 0.1)
    with pytest.raises(ValueError, match="form='ppo' is unknown"):
        PictureFit(form="ppo")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TargetError, match="is there already"):
        fit_pictures(target, ["1"], tmp_path / "full")
    with pytest.raises(AllWeightsZero, match="excludes all 4 pictures"):
        fit_pictures(nothing, ["1"], tmp_path / "new", PictureFit(draws=4))
    with pytest.raises(xt.PromptError, match="no class"):
        fit_pictures(target, ["nine"], tmp_path / "new")
    with pytest.raises(TargetError, match="not a pipeline of diffusers"):
        fit_pictures(toy, ["1"], tmp_path / "new")


def test_the_command_fits_a_pipeline(engine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.txt").write_text("1\n2\n")
    model = f"{engine.name}?steps=4&null=3"
    line = ["train", "image", model, str(tmp_path / "p.txt"), "--reward", "ink", "--beta", "0.1", "--out", str(tmp_path / "out")]
    assert main([*line, "--draws", "4", "--steps", "2", "--batch", "4"]) == 0
    told = capsys.readouterr()
    assert told.out == f"image:{tmp_path / 'out'}\n"
    assert "effective sample size" in told.err
    assert main([*line, "--draws", "1"]) == 2
    assert "draws=1 must be a whole number of 2 or more" in " ".join(capsys.readouterr().err.split())
