"""Pipelines of diffusers with small random networks, of every kind that exptilt reads."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch

diffusers: Any = importlib.import_module("diffusers")  # its annotations are narrower than what it takes
transformers: Any = importlib.import_module("transformers")

SCHEDULERS: dict[str, Any] = {
    "ddpm": diffusers.DDPMScheduler(clip_sample=True),
    "ddpm-large": diffusers.DDPMScheduler(variance_type="fixed_large", clip_sample=False, timestep_spacing="trailing"),
    "ddpm-v": diffusers.DDPMScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2"),
    "ddpm-learned": diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False),
    "ddim": diffusers.DDIMScheduler(),
    "ddim-latent": diffusers.DDIMScheduler(
        set_alpha_to_one=False, steps_offset=1, clip_sample=False, beta_schedule="scaled_linear"
    ),
    "ddim-sample": diffusers.DDIMScheduler(prediction_type="sample", timestep_spacing="linspace"),
    "euler": diffusers.EulerAncestralDiscreteScheduler(),
    "euler-v": diffusers.EulerAncestralDiscreteScheduler(prediction_type="v_prediction", timestep_spacing="leading"),
}


def pixels(folder: Path, classes: int | None = 4, scheduler: Any = None, variances: bool = False) -> Path:
    """A network of 4 by 4 grey pixels, class-conditional or not. variances: it estimates those of steps too."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=4, in_channels=1, out_channels=1 + variances, num_class_embeds=classes, layers_per_block=1,
        block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    chosen = scheduler or SCHEDULERS["ddim"]
    kind = diffusers.DDPMPipeline if isinstance(chosen, diffusers.DDPMScheduler) else diffusers.DDIMPipeline
    kind(unet, chosen).save_pretrained(folder)
    return folder


def _autoencoder() -> Any:
    return diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 8), norm_num_groups=4, sample_size=8,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip


def transformer(folder: Path) -> Path:
    """A DiT with three classes and an autoencoder, which estimates a variance as well."""
    torch.manual_seed(0)
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=4, patch_size=2,
        num_embeds_ada_norm=3,
    )  # fmt: skip
    diffusers.DiTPipeline(network, _autoencoder(), SCHEDULERS["ddim"], {}).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())  # names of classes are written into it by hand, as on the hub
    (folder / "model_index.json").write_text(json.dumps({**index, "id2label": {"0": "cat", "1": "dog", "2": "owl, bird"}}))
    return folder


LETTERS = [chr(code) for code in range(97, 123)]
WORDS = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(letter + "</w>" for letter in LETTERS)]


def tokenizer(folder: Path, most: int = 16) -> Any:
    """A tokenizer of CLIP that knows single letters. most: tokens of a text."""
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=most)


def text_config(**more: Any) -> Any:
    """The reader of texts of a small CLIP."""
    return transformers.CLIPTextConfig(
        vocab_size=len(WORDS), hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1, **more,
    )  # fmt: skip


def _conditional(**more: Any) -> Any:
    return diffusers.UNet2DConditionModel(**{
        "sample_size": 4, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "block_out_channels": (8, 8),
        "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        **more,
    })  # fmt: skip


def texts(folder: Path, **network: Any) -> Path:
    """A text-conditional network as of Stable Diffusion, with a scheduler whose steps draw no noise."""
    torch.manual_seed(0)
    words, encoder = tokenizer(folder / "words"), transformers.CLIPTextModel(text_config())
    parts = _autoencoder(), encoder, words, _conditional(**network), diffusers.PNDMScheduler(), None, None
    diffusers.StableDiffusionPipeline(*parts, requires_safety_checker=False).save_pretrained(folder)
    return folder


def texts_xl(folder: Path, zeros: bool = True) -> Path:
    """Stable Diffusion XL: two encoders, of which the second reads the text as a whole too. zeros: stand for no text."""
    torch.manual_seed(0)
    one = transformers.CLIPTextModel(text_config())
    two = transformers.CLIPTextModelWithProjection(text_config(projection_dim=6))
    network = _conditional(
        cross_attention_dim=16, addition_embed_type="text_time", addition_time_embed_dim=2,
        projection_class_embeddings_input_dim=6 * 2 + 6,
    )  # fmt: skip
    words = tokenizer(folder / "words"), tokenizer(folder / "words_2")
    parts = _autoencoder(), one, two, *words, network, diffusers.EulerDiscreteScheduler()
    diffusers.StableDiffusionXLPipeline(*parts, force_zeros_for_empty_prompt=zeros).save_pretrained(folder)
    return folder
