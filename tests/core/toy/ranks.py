"""One process of a run that is spread: ``torchrun --nproc-per-node 2 -m toy.ranks FOLDER [sharded | deadline | few]``.

``accelerate`` shards weights (FSDP2) on GPUs only; ``sharded`` has torch do the same thing on CPUs in its place.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.distributed.fsdp import fully_shard

from core.recipe import Recipe, build
from core.systems.diffusion import Diffusion
from core.train import loop, monitor
from core.train.loop import train, update
from core.train.run import Run
from core.train.state import State


def recipe() -> Recipe:
    """Batches of 4, without dropout, whose seeds are each process's own."""
    found = build("toy.recipes.points.circle", {"dropout": 0.0, "steps": 20}, ("toy",))
    return replace(found, training=replace(found.training, batch=4))


def run(folder: Path) -> Run:
    """A run that keeps its middle."""
    return Run(folder, save_every=10, validate_every=20, sample_every=0, keep=None, tensorboard=False, cpu=True)


def shard(accelerator: Accelerator, system: Diffusion, adam: torch.optim.AdamW) -> tuple[Any, Any]:
    """What ``accelerator.prepare`` does under FSDP2."""
    fully_shard(system.denoiser.net)
    fully_shard(system)
    adam.param_groups[0]["params"] = [value for value in system.parameters() if value.requires_grad]
    return system, accelerator.prepare_optimizer(adam)


def spoil(state: State, accelerator: Accelerator, clip: float | None) -> None:
    """An update whose gradient is not finite at the second step."""
    if state.step == 1:
        gradient: Any = state.parameters[0].grad
        gradient.mul_(float("nan"))
    before = [_local(value).clone() for value in state.parameters]
    update(state, accelerator, clip)
    unchanged = all(torch.equal(_local(value), old) for value, old in zip(state.parameters, before))
    if unchanged != (state.step == 1):
        raise RuntimeError("a bad step was made, or a good one skipped")


def _local(value: Any) -> torch.Tensor:
    found: torch.Tensor = value.detach().to_local()
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if "sharded" in sys.argv:
        Accelerator.prepare = shard
        train(recipe(), run(folder))
        loop.update = spoil
        train(recipe(), replace(run(folder.with_name("spoiled")), sample_every=10))
    elif "deadline" in sys.argv:
        Accelerator(cpu=True)  # which finds its peers, however long that takes
        endless = recipe()
        endless = replace(endless, training=replace(endless.training, steps=10**6, warmup=0))
        deadline = time.monotonic() + 4
        late = replace(run(folder), log_every=1, save_every=0, validate_every=100, deadline=deadline)
        train(endless, late)
        (folder / "late").write_text(str(time.monotonic() - deadline))
    elif "few" in sys.argv:
        if Accelerator(cpu=True).process_index:
            monitor.is_lower = lambda losses, best: True  # the main process decides, whatever others make of it
        made = build("toy.recipes.points.few", {}, ("toy",))
        train(made, replace(run(folder), save_every=50, validate_every=20, log_every=1))
    else:
        train(recipe(), run(folder))
