"""Rewards of pictures: what they say of plain arrays, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from exptilt import names
from exptilt.draft import Draft
from exptilt.errors import ModelError, RewardError, TargetError
from exptilt.rating import rate
from exptilt.rewards import ImageClassifier, Ink, JpegSize, OfPictures, Symmetry, TextSimilarity
from exptilt.rewards.model.pictures import colours
from tests.engines.image.pipelines import text_config, tokenizer

RAMP = np.tile(np.linspace(0, 1, 8, dtype=np.float32), (8, 1))
NOISE = np.random.default_rng(0).random((16, 16, 3))


def drafts_of(*pictures: Any) -> list[Draft]:
    return [Draft("3", (number,), finish="stop", output=picture) for number, picture in enumerate(pictures)]


def test_rewards_of_plain_pictures() -> None:
    assert Ink()("3", drafts_of(RAMP, np.zeros((2, 2)))) == pytest.approx([0.5, 0.0])
    assert Ink(sign=-1)("3", drafts_of(RAMP)) == pytest.approx([-0.5])
    assert Symmetry()("3", drafts_of(RAMP, RAMP.T)) == pytest.approx([-np.abs(RAMP - RAMP[:, ::-1]).mean(), 0.0])
    assert Symmetry(axis="horizontal")("3", drafts_of(RAMP)) == [0.0]
    flat, busy = JpegSize()("3", drafts_of(np.zeros((16, 16, 3)), NOISE))
    assert busy < flat < 0
    assert OfPictures(lambda picture: picture.max())("3", drafts_of(RAMP)) == [1.0]


@pytest.mark.parametrize(
    "reward", [Ink(), Symmetry(), JpegSize(), OfPictures(np.mean), ImageClassifier(lambda x: x[:, 0, 0], label=0)]
)
def test_what_is_no_picture_is_refused(reward: Any) -> None:
    holed = RAMP.copy()
    holed[2, 3] = np.nan
    with pytest.raises(RewardError, match=r"1 of 64 numbers that are NaN.*float32"):
        rate(reward, "3", drafts_of(RAMP, holed))
    with pytest.raises(RewardError, match=r"shape \(4, 4, 2\)"):
        rate(reward, "3", drafts_of(np.zeros((4, 4, 2))))
    with pytest.raises(TargetError, match="draft 0 has none"):
        rate(reward, "3", [Draft("3", text="a text")])


def test_a_torch_module_classifies() -> None:
    """Logits are of the pictures' means; the class is the prompt's, or the one that is asked for."""

    def network(x: torch.Tensor) -> torch.Tensor:
        assert x.shape == (2, 1, 8, 8)
        return x.mean((1, 2, 3))[:, None] * torch.arange(4.0)

    ours = ImageClassifier(network)("3", drafts_of(RAMP, 0 * RAMP))
    assert ours == pytest.approx([1.5 - np.log(np.exp(0.5 * np.arange(4)).sum()), -np.log(4)])
    assert ImageClassifier(network, label=0)("3", drafts_of(RAMP, RAMP))[0] < ours[0]
    with pytest.raises(RewardError, match="no class 'owl'"):
        ImageClassifier(network)("owl", drafts_of(RAMP, RAMP))
    with pytest.raises(RewardError, match="class 9 is wanted"):
        ImageClassifier(network, label=9)("3", drafts_of(RAMP, RAMP))


def test_a_classifier_of_transformers(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16, patch_size=8,
        id2label={0: "cat", 1: "owl, bird"}, label2id={"cat": 0, "owl, bird": 1},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    cat, bird = (ImageClassifier(tmp_path, label=label)("x", drafts_of(RAMP, NOISE)) for label in ("cat", "bird"))
    assert np.exp(cat) + np.exp(bird) == pytest.approx([1.0, 1.0])
    found: Any = names.find_reward(f"image-classifier:{tmp_path}?label=owl")
    assert found("x", drafts_of(RAMP, NOISE)) == pytest.approx(bird)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random CLIP."""
    folder = tmp_path_factory.mktemp("clip")
    small = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**small, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text_config().to_dict(), vision_config=vision, projection_dim=6)
    transformers.CLIPModel(config).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    reader = transformers.CLIPImageProcessor(size=size, crop_size=size)
    transformers.CLIPProcessor(reader, tokenizer(folder / "words")).save_pretrained(folder)
    return folder


def test_similarities_are_the_models_own(clip: Path) -> None:
    """Picture by picture and text by text against CLIP's own logits; a batch, its order and `text` make no difference."""
    model: Any = transformers.CLIPModel.from_pretrained(clip).eval()
    reader: Any = transformers.CLIPProcessor.from_pretrained(clip)
    found, pictures = TextSimilarity(clip), [NOISE, 1 - NOISE, RAMP, RAMP.T]
    for text in ("a cat", "dogs"):
        alone = []
        for picture in pictures:
            with torch.inference_mode():
                read = model(**reader(text=[text], images=[colours(picture)], return_tensors="pt"))
                alone.append(float(read.logits_per_image[0, 0] / model.logit_scale.exp()))
        together = found(text, drafts_of(*pictures))
        assert together == pytest.approx(alone, abs=1e-5)
        assert len(set(np.round(together, 4))) == 4
        assert found(text, drafts_of(*pictures[::-1])) == pytest.approx(alone[::-1], abs=1e-5)
        assert TextSimilarity(clip, text=text)("another prompt", drafts_of(*pictures)) == pytest.approx(alone, abs=1e-5)
    named: Any = names.find_reward(f"text-similarity:{clip}?text=dogs")
    assert named("x", drafts_of(*pictures)) == pytest.approx(found("dogs", drafts_of(*pictures)))


def test_similarities_that_make_no_sense_are_refused(clip: Path, tmp_path: Path) -> None:
    """Texts that are too long were once cut without a word."""
    found, holed = TextSimilarity(clip), RAMP.copy()
    holed[0, 0] = np.inf
    with pytest.raises(RewardError, match=r"has 20 tokens, and .* reads 16: give text= a shorter one"):
        found("abc " * 6, drafts_of(RAMP))
    with pytest.raises(RewardError, match="draft 1 has 1 of 64 numbers that are NaN or infinite"):
        found("a cat", drafts_of(RAMP, holed))
    with pytest.raises(TargetError, match="draft 0 has none"):
        found("a cat", [Draft("a cat", text="a text")])
    transformers.CLIPTextModel(text_config()).save_pretrained(tmp_path / "text")
    tokenizer(tmp_path / "words").save_pretrained(tmp_path / "text")
    with pytest.raises(ModelError, match="compares no pictures with texts: give a CLIP"):
        TextSimilarity(tmp_path / "text")
    with pytest.raises(ModelError, match="nowhere"):
        TextSimilarity(tmp_path / "nowhere")


def test_names_on_the_command_line() -> None:
    assert [names.find_reward(name) for name in ("ink", "symmetry", "jpeg-size")] == [Ink(), Symmetry(), JpegSize()]
