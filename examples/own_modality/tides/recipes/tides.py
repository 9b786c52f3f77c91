"""Tides: heights of the sea through a day, by diffusion."""

from __future__ import annotations

from core.denoiser import Denoiser
from core.grid import karras
from core.nn.unet import UNet
from core.objective import EDMWeight, LogNormal, Objective
from core.prediction import F
from core.recipe import Recipe, Sampling, Training
from core.sample.heun import heun
from core.schedule import EDM
from core.systems.diffusion import Diffusion
from tides.data import Days, evaluate
from tides.modality import MODALITY


def tiny(width: int = 16, steps: int = 300) -> Recipe:
    """One day, every hour."""

    def system() -> Diffusion:
        net = UNet(1, 1, width, (1, 2), 1, (), dims=1, groups=8)
        denoiser = Denoiser(net, EDM(), F(0.7), lambda sigma: 250 * sigma.log())
        return Diffusion(denoiser, objective=Objective(LogNormal(), EDMWeight(0.7)))

    sampling, training = Sampling(heun, karras, steps=8), Training(16, steps, lr=2e-3)
    parts = (Days(), Days(16, first=64))
    return Recipe(system, (1, 24), sampling, training, lambda: parts, MODALITY, evaluate=lambda options: evaluate)
