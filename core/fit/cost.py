"""What a training step costs, measured on the data themselves in a few seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from core.data.dataset import Dataset
from core.random import TrainingRNG
from core.recipe import Recipe
from core.systems.diffusion import Diffusion
from core.systems.system import System
from core.train.precision import Precision, autocast

BATCHES = (4, 16)  # samples of the steps that are timed
STATE = 5  # numbers kept for each weight: itself, its gradient, two moments and an average


@dataclass(frozen=True)
class Cost:
    """What training costs one process: a step of b samples takes ``step + b sample`` seconds."""

    parameters: int
    step: float  # seconds
    sample: float  # seconds
    memory: int  # bytes for the weights and all that is kept for them
    sample_memory: int  # bytes of a sample's activations

    def seconds(self, batch: int) -> float:
        """Seconds of a step with so many samples."""
        return self.step + batch * self.sample

    def bytes(self, batch: int) -> int:
        """Bytes that a step with so many samples needs."""
        return self.memory + batch * self.sample_memory


def measure(recipe: Recipe, data: Dataset, device: torch.device, seconds: float = 2.0) -> Cost:
    """Time training steps of a recipe on its first examples. seconds: about how long it may take."""
    training = recipe.training
    system = recipe.system().to(device).train()
    parameters = [parameter for parameter in system.parameters() if parameter.requires_grad]
    adam = torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    began, took, kept = time.monotonic(), list[float](), 0
    for batch in BATCHES:
        step = partial(_step, system, adam, _batch(system, data, batch, device), batch, training.precision, device)
        kept = _activations(step)
        best, until = math.inf, began + seconds * (1 if batch == BATCHES[-1] else 0.3)
        while best == math.inf or time.monotonic() < until:
            _wait(device)
            start = time.perf_counter()
            step()
            _wait(device)
            best = min(best, time.perf_counter() - start)
        took.append(best)
    small, large = BATCHES
    sample = max((took[1] - took[0]) / (large - small), took[1] / large / 10)
    every = sum(value.numel() * value.element_size() for value in system.state_dict().values())
    count = sum(parameter.numel() for parameter in parameters)
    return Cost(count, max(took[0] - small * sample, 0.0), sample, every + 4 * (STATE - 1) * count, kept // large)


def _step(
    system: System,
    adam: torch.optim.Optimizer,
    rows: Mapping[str, Any],
    batch: int,
    precision: Precision,
    device: torch.device,
) -> None:
    with autocast(precision, device):
        loss = system(rows, TrainingRNG(0, range(batch))).mean
    loss.backward()
    adam.step()
    adam.zero_grad()


def _batch(system: System, data: Dataset, count: int, device: torch.device) -> dict[str, Any]:
    """The first examples, as training reads them: of a costly codec its moments, which are made once."""
    found: Mapping[str, Any] = data.get([index % len(data) for index in range(count)])
    rows = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in found.items()}
    if isinstance(system, Diffusion) and system.codec.costly:
        with torch.no_grad():
            rows["moments"] = system.codec.moments(rows.pop("x"))
    return rows


def _activations(step: Callable[[], None]) -> int:
    """Bytes that a step keeps for its backward pass."""
    seen: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        step()
    # What is computed on the way takes as much again at its highest.
    return 2 * sum(seen.values())


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
