"""What all tests have: the same state of torch's random numbers, and diffusers' pipelines in small."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a tiny pipeline for each published family; tests copy what they change."""
    from tests.support.pipelines import Folders  # imports diffusers' pipelines, which takes seconds

    return Folders(tmp_path_factory.mktemp("pipelines"))
