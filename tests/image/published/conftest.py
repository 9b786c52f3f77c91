"""Tiny pipelines of diffusers, saved once for all files here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.image import tiny_pipelines

MAKERS = {
    "stable_diffusion": tiny_pipelines.stable_diffusion,
    "sdxl": tiny_pipelines.sdxl,
    "refiner": tiny_pipelines.refiner,
    "sd3": tiny_pipelines.sd3,
    "flux": tiny_pipelines.flux,
    "schnell": tiny_pipelines.schnell,
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each family."""
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}
