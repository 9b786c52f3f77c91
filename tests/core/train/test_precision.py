"""Mixed precision: what is computed in which numbers, by what the device can."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from core.train.precision import Precision, autocast

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "capabilities", "dtype"),
    [
        (Precision.NO, {"avx512_bf16": True}, torch.float32),
        (Precision.BF16, {}, torch.bfloat16),
        (Precision.AUTO, {"avx512_bf16": True}, torch.bfloat16),
        (Precision.AUTO, {"amx_bf16": True}, torch.bfloat16),
        (Precision.AUTO, {"avx512_bf16": False, "avx2": True}, torch.float32),
    ],
)
def test_products_are_computed_in(precision: Precision, capabilities: dict[str, bool], dtype: torch.dtype) -> None:
    x = torch.randn(4, 4)
    with mock.patch("torch.cpu.get_capabilities", lambda: capabilities), autocast(precision, CPU):
        assert (x @ x).dtype is dtype
