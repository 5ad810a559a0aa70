"""Train `digits`: a class-conditional diffusion model of scikit-learn's handwritten digits, 8 by 8 pixels, for tests and first
tries.

1,797 pictures; a network of 0.65 million parameters, trained on noise in 75 seconds on one core; one picture in eight is trained
without its class, so that class 10 stands for "no class". The last 297 pictures are held out: the script prints the loss on them.

    python reproduce/train_digits.py --out exptilt/models/digits
"""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

diffusers: Any = importlib.import_module("diffusers")  # its annotations are narrower than what it takes

HELD_OUT, CLASSES, NULL_SHARE, BATCH = 297, 10, 1 / 8, 64


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """The digits from -1 to 1, float32 [pictures, 1, 8, 8], and their classes, shuffled once."""
    found: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    x = torch.tensor(found.images[order] / 8.0 - 1.0, dtype=torch.float32)[:, None]
    return x, torch.tensor(found.target[order])


def network() -> Any:
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(24, 40, 56),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=8,
        num_class_embeds=CLASSES + 1,
    )


def loss_of(model: Any, scheduler: Any, x: torch.Tensor, classes: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """The mean squared error of the noise estimate, at times drawn uniformly."""
    noise = torch.randn(x.shape, generator=random)
    times = torch.randint(scheduler.config.num_train_timesteps, (len(x),), generator=random)
    estimate = model(scheduler.add_noise(x, noise, times), times, class_labels=classes).sample
    return (estimate - noise).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=75.0, help="of training; the learning rate falls to zero over it")
    args = parser.parse_args()
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    x, classes = pictures()
    held, held_classes, x, classes = x[-HELD_OUT:], classes[-HELD_OUT:], x[:-HELD_OUT], classes[:-HELD_OUT]
    model, scheduler = network(), diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=True)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
    print(f"{sum(each.numel() for each in model.parameters()):,} parameters")
    begun, steps = time.process_time(), 0
    while (share := (time.process_time() - begun) / (args.seconds * torch.get_num_threads())) < 1:
        rows = torch.randint(len(x), (BATCH,), generator=random)
        unknown = torch.rand(BATCH, generator=random) < NULL_SHARE
        told = torch.where(unknown, CLASSES, classes[rows])
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, steps / 100) * (1 - share)
        loss = loss_of(model, scheduler, x[rows], told, random)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        steps += 1
        if steps % 200 == 0:
            with torch.inference_mode():
                test = loss_of(
                    average.module, scheduler, held.repeat(4, 1, 1, 1), held_classes.repeat(4), torch.Generator().manual_seed(1)
                )
            print(f"step {steps}: loss {loss.item():.4f}, held out {test.item():.4f}", flush=True)
    trained = average.module.half()  # 1.3 MB in the wheel; it is read as float32
    diffusers.DDIMPipeline(trained, scheduler).save_pretrained(args.out)
    print(f"{steps} steps, written to {args.out}")


if __name__ == "__main__":
    main()
