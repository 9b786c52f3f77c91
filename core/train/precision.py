"""Mixed precision: in which numbers the products of a training step are computed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from enum import Enum

import torch


class Precision(Enum):
    """Mixed precision of a training, by the word that the command knows it by."""

    NO = "no"
    BF16 = "bf16"
    FP16 = "fp16"  # with a scaled loss
    AUTO = "auto"  # bf16 where the device computes in it, else none: emulated, it is many times as slow


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context in which a loss is computed. That of fp16 belongs to the accelerator, which scales the loss."""
    if precision is Precision.BF16 or (precision is Precision.AUTO and computes_in_bf16(device)):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def computes_in_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for products of bfloat16."""
    if device.type == "cpu":
        known = torch.cpu.get_capabilities()
        return bool(known.get("avx512_bf16") or known.get("amx_bf16") or known.get("bf16"))
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
