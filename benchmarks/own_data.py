"""Your own pictures for a fixed wall time, beside diffusers and lucidrains: one judge, the same data, the same machine.

    python benchmarks/own_data.py clothes.npz --seconds 900 --out runs/own [--peers diffusers lucidrains]

Each trainer gets the wall time from its first import to its last step; a peer gets it once for each of three learning
rates, and the best counts. Then each draws as many samples as it is measured on, by class where the data have classes,
and one classifier (or, without classes, one self-supervised embedder), trained once on the training part by
``core.evaluation``, gives the Frechet distance to the held-out part. Peers are run as their own examples run them, in
one process with a thread a core, with a network of about our size: at their default sizes they make a few steps only.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.evaluation.options import EvaluationOptions
from core.registry import newest, open_model
from image.data import open_parts
from image.evaluation import evaluator
from image.facts import picture_arguments

RATES = (3e-4, 1e-3, 3e-3)
BATCH = 64
STEPS = 50  # of DDIM
Sample = Callable[[int], Tensor]  # a count -> pictures in [-1, 1], of class i mod the number of classes


def ours(data: Path, seconds: float, out: Path, count: int) -> Tensor:
    """`langevin train edm --data D --time T`, as a person types it, and its samples."""
    command = [sys.executable, "-m", "app.main", "train", "edm", "--data", str(data), "--time", f"{seconds:g}"]
    subprocess.run([*command, "--out", str(out)], check=True)
    model = open_model(newest(out))
    request = model.modality.request(count=count, batch=100)
    return torch.cat([found for found, _ in model.batches(request)])


def padded(x: Tensor) -> Tensor:
    """Pictures with sides that divide by 8, as both peers need them."""
    height, width = x.shape[-2:]
    return torch.nn.functional.pad(x, (0, -width % 8, 0, -height % 8), value=-1.0)


def diffusers(x: Tensor, labels: Tensor | None, rate: float, seconds: float) -> Sample:
    """UNet2DModel and DDPMScheduler, with the loop, AdamW, warm-up, cosine and EMA of diffusers' training example."""
    began = time.monotonic()
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
    from diffusers.training_utils import EMAModel

    x = padded(x)
    classes = None if labels is None else int(labels.max()) + 1
    net = UNet2DModel(
        sample_size=x.shape[-1],
        in_channels=x.shape[1],
        out_channels=x.shape[1],
        layers_per_block=1,
        block_out_channels=(32, 64, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        num_class_embeds=classes,
    )
    noise, average = DDPMScheduler(1000), EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True)
    adam = torch.optim.AdamW(net.parameters(), rate, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    steps = 0
    while (progress := (time.monotonic() - began) / seconds) < 1:
        for group in adam.param_groups:
            group["lr"] = rate * min(1.0, progress / 0.05) * (1 + math.cos(math.pi * progress)) / 2
        rows = torch.randint(len(x), (BATCH,))
        t, eps = torch.randint(1000, (BATCH,)), torch.randn(BATCH, *x.shape[1:])
        label = None if labels is None else labels[rows]
        found = net(noise.add_noise(x[rows], eps, t), t, class_labels=label).sample
        torch.nn.functional.mse_loss(found, eps).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        average.step(net.parameters())
        steps += 1
    average.copy_to(net.parameters())
    print(json.dumps({"diffusers": rate, "steps": steps, "samples": steps * BATCH}), flush=True)

    @torch.no_grad()
    def sample(count: int) -> Tensor:
        ddim, parts = DDIMScheduler(1000), []
        ddim.set_timesteps(STEPS)
        for first in range(0, count, 100):
            numbers = torch.arange(first, min(first + 100, count))
            label = None if classes is None else numbers % classes
            state = torch.randn(len(numbers), *x.shape[1:])
            for t in ddim.timesteps:
                state = ddim.step(net(state, t, class_labels=label).sample, t, state).prev_sample
            parts.append(state)
        return torch.cat(parts)

    return sample


def lucidrains(x: Tensor, labels: Tensor | None, rate: float, seconds: float) -> Sample:
    """denoising-diffusion-pytorch's GaussianDiffusion with its Unet, or its classifier-free guidance twin by class."""
    began = time.monotonic()
    x = padded(x)
    if labels is None:
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet

        net = Unet(dim=32, dim_mults=(1, 2, 2), channels=x.shape[1], flash_attn=False)
        model = GaussianDiffusion(net, image_size=x.shape[-2:], sampling_timesteps=STEPS)
    else:
        from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion, Unet

        net = Unet(dim=32, dim_mults=(1, 2, 2), channels=x.shape[1], num_classes=int(labels.max()) + 1)
        model = GaussianDiffusion(net, image_size=x.shape[-1], sampling_timesteps=STEPS)
    from ema_pytorch import EMA

    average = EMA(model, beta=0.995, update_every=10)
    adam = torch.optim.Adam(model.parameters(), rate, betas=(0.9, 0.99))
    steps = 0
    while time.monotonic() - began < seconds:
        rows = torch.randint(len(x), (BATCH,))
        shown = (x[rows] + 1) / 2
        loss = model(shown) if labels is None else model(shown, classes=labels[rows])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        average.update()
        steps += 1
    print(json.dumps({"lucidrains": rate, "steps": steps, "samples": steps * BATCH}), flush=True)

    @torch.no_grad()
    def sample(count: int) -> Tensor:
        parts = []
        for first in range(0, count, 100):
            numbers = torch.arange(first, min(first + 100, count))
            if labels is None:
                parts.append(average.ema_model.sample(batch_size=len(numbers)))
            else:
                parts.append(average.ema_model.sample(numbers % (int(labels.max()) + 1)))
        return torch.cat(parts) * 2 - 1

    return sample


PEERS = {"diffusers": diffusers, "lucidrains": lucidrains}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peers", nargs="*", choices=sorted(PEERS), default=sorted(PEERS))
    parser.add_argument("--judge", type=float, default=180.0, help="seconds in which the judge is trained")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    facts = picture_arguments(options.data)
    parts = open_parts(options.data, tuple(facts["size"]), facts["channels"])
    measure = evaluator(lambda: (parts.train, parts.held_out))(EvaluationOptions(seconds=options.judge))
    count = len(facts["classes"])
    asked: Mapping[str, Any] = {"label": torch.arange(options.count) % count} if count else {}

    def report(name: str, samples: Tensor) -> None:
        np.savez(options.out / f"{name}.npz", images=samples.numpy())
        figures = measure(samples.clamp(-1, 1), asked)
        print(json.dumps({"trainer": name, **{key: str(value) for key, value in figures.items()}}), flush=True)

    report("langevin", ours(options.data, options.seconds, options.out / "run", options.count))
    batch = parts.train.get(range(len(parts.train)))
    height, width = facts["size"]
    for name in options.peers:
        for rate in RATES:
            torch.manual_seed(0)
            sample = PEERS[name](batch["x"], batch.get("label"), rate, options.seconds)
            report(f"{name}-{rate:g}", sample(options.count)[..., :height, :width])


if __name__ == "__main__":
    main()
