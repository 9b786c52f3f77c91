"""Codecs: decoding undoes encoding, and standardised data are standard."""

from __future__ import annotations

import pytest
import torch

from core.codec import Chain, Codec, Pixels, Scale, Standardize


@pytest.mark.parametrize(
    "codec",
    [
        Codec(),
        Scale(0.18215, 0.3),
        Standardize(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])),
        Chain(Scale(2.0), Standardize(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]), unit=0.5)),
    ],
)
def test_decode_undoes_encode(codec: Codec) -> None:
    data = torch.linspace(-1, 1, 10).view(5, 2)
    assert torch.allclose(codec.decode(codec.encode(data)), data, atol=1e-6)


def test_fit_makes_features_standard_and_leaves_constants_alone() -> None:
    data = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 9.0, 0.0]) + 4
    code = Standardize.fit(data, unit=0.5).encode(data)
    assert torch.allclose(code.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(code.std(0), torch.tensor([0.5, 0.5, 0.0]), atol=1e-5)


def test_fit_over_positions_keeps_channels() -> None:
    data = torch.randn(50, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1
    codec = Standardize.fit(data, dims=(0, 2, 3))
    assert codec.mean.shape == (3, 1, 1)
    assert torch.allclose(codec.encode(data).std((0, 2, 3)), torch.ones(3), atol=1e-5)


def test_bytes_become_the_unit_interval_exactly() -> None:
    data = torch.arange(256, dtype=torch.uint8)[None]
    code = Pixels().encode(data)
    assert (code.min(), code.max()) == (-1, 1)
    assert torch.equal(((Pixels().decode(code) + 1) * 127.5).round().to(torch.uint8), data)


def test_a_chain_encodes_in_order() -> None:
    assert Chain(Scale(2.0), Scale(1.0, shift=1.0)).encode(torch.ones(1)).item() == 1.0
    assert Chain(Scale(1.0, shift=1.0), Scale(2.0)).encode(torch.ones(1)).item() == 0.0


def test_what_cannot_be_undone_is_refused() -> None:
    with pytest.raises(ValueError, match="erase"):
        Scale(0.0)
    with pytest.raises(ValueError, match="no spread"):
        Standardize(torch.zeros(2), torch.tensor([1.0, 0.0]))
