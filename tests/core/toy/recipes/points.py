"""A modality of points in the plane with a tiny network, for tests of everything around networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from toy.modality import PointModality

from core.cond import Cond
from core.condition import ClassLabel
from core.denoiser import Denoiser
from core.grid import trailing
from core.objective import Objective, Uncertainty, flow
from core.prediction import FlowVelocity
from core.prompts import Classes
from core.recipe import Recipe, Sampling, Training, constant, linear
from core.sample.heun import heun
from core.schedule import Flow
from core.systems.diffusion import Diffusion
from core.train.ema import Power


class Net(nn.Module):
    """An MLP; dropout and buffers that change as it trains make its state harder to resume."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3 + 4, width), nn.SiLU(), nn.Dropout(dropout), nn.LayerNorm(width), nn.Linear(width, 2)
        )
        self.calls = nn.Buffer(torch.tensor(0))
        self.fading = nn.Buffer(torch.tensor(1.0))

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        assert cond.vector is not None
        if self.training:
            self.calls += 1
            self.fading *= 0.99
        out: Tensor = self.layers(torch.cat([x, time[:, None].to(x), cond.vector], dim=1))
        return out


@dataclass(frozen=True)
class Points:
    """Points on a circle, their class the half they lie in; ``broken`` makes one of them NaN."""

    count: int = 50
    broken: bool = False

    def __len__(self) -> int:
        return self.count

    def get(self, indices: Sequence[int]) -> dict[str, Tensor]:
        rows = torch.as_tensor(indices)
        angle = rows * (2 * torch.pi / self.count)
        x = torch.stack([angle.cos(), angle.sin()], dim=1)
        if self.broken:
            x = torch.where(rows[:, None] == 7, torch.nan, x)
        return {"x": x, "label": (x[:, 1] > 0).long()}


def circle(width: int = 16, dropout: float = 0.1, steps: int = 40, parts: int = 1) -> Recipe:
    """A flow on the circle's points."""

    def system() -> Diffusion:
        return Diffusion(
            Denoiser(Net(width, dropout), Flow(), FlowVelocity()),
            ClassLabel(2, 4),
            objective=Objective(weight=flow, drop=0.2, uncertainty=Uncertainty(8)),
        )

    return Recipe(
        system,
        shape=(2,),
        sampling=Sampling(heun, trailing, steps=4, guidance=1.5),
        training=Training(batch=8, steps=steps, lr=3e-3, warmup=40, decay=linear, parts=parts),
        data=lambda: (Points(), Points(24)),
        modality=PointModality(),
        prompts=Classes(2),
    )


def few(steps: int = 400, patience: float | None = 0.2) -> Recipe:
    """The flow on two of the points, which it soon knows by heart."""
    made = circle(width=64, dropout=0.0, steps=steps)
    training = replace(made.training, lr=1e-2, decay=constant, ema={"ema": Power(0.1)}, patience=patience)
    return replace(made, training=training, data=lambda: (Points(2), Points(24)))
