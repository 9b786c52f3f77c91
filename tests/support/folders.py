"""What every reader of diffusers' folders has to refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

WEIGHTS = "diffusion_pytorch_model.safetensors"


def refuses_other_tensors(
    load: Callable[[Path], object], folder: Path, tensors: Mapping[str, Tensor], keys: Iterable[str]
) -> None:
    """A folder without one of the keys, or with a tensor too many, is refused by a sentence that says so."""
    for key in keys:
        save_file({name: value for name, value in tensors.items() if name != key}, folder / WEIGHTS)
        with pytest.raises(ValueError, match="missing"):
            load(folder)
    save_file({**tensors, "extra.weight": torch.zeros(1)}, folder / WEIGHTS)
    with pytest.raises(ValueError, match=r"extra\.weight"):
        load(folder)
