"""The one function of attention: both ways of computing it agree, in values and gradients."""

import pytest
import torch
from torch import Tensor

from core.nn import attention
from core.nn.attention import attend, by_products, zero_padded


def heads(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(3, 2, n, 8, dtype=torch.float64, generator=random).to(dtype) for n in (5, 7, 7)]


def masks() -> list[Tensor | None]:
    ragged = torch.arange(7) < torch.tensor([7, 3, 0])[:, None]  # the last sample may attend to nothing
    return [None, ragged[:, None, None, :], ragged[:, None, None, :].expand(3, 1, 5, 7)]


@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("scale", [None, 0.3])
def test_two_products_equal_the_fused_kernel(mask: Tensor | None, scale: float | None) -> None:
    theirs, ours = ([x.requires_grad_() for x in heads()] for _ in range(2))
    expected, got = attend(*theirs, mask, scale), by_products(*ours, mask, scale)
    assert torch.allclose(got, expected, rtol=0, atol=1e-14)
    for out in (expected, got):
        out.square().sum().backward()
    for one, other in zip(theirs, ours):
        assert one.grad is not None and other.grad is not None
        assert torch.allclose(other.grad.nan_to_num(), one.grad.nan_to_num(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("scale", [None, 0.3])
def test_narrow_heads_filled_with_zeros_say_the_same(
    monkeypatch: pytest.MonkeyPatch, mask: Tensor | None, scale: float | None
) -> None:
    results = {}
    for few in (0, 10**9):
        monkeypatch.setattr(attention, "FEW", few)
        parts = [x.requires_grad_() for x in heads()]
        out = attend(*parts, mask, scale)
        out.square().sum().backward()
        results[few] = [out, *(part.grad for part in parts)]
    for one, other in zip(*results.values()):
        assert torch.allclose(one.nan_to_num(), other.nan_to_num(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(2, 1, 1, 9), (2, 5, 7, 9), (5, 7, 9), (5, 1, 9), (1, 7, 9)])
@torch.no_grad()
def test_heads_filled_a_few_at_a_time_keep_their_masks(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 5, n, 8, dtype=torch.float64) for n in (7, 9, 9))
    mask = torch.rand(shape) < 0.7
    mask[..., 0] = True
    plain = attend(query, key, value, mask)
    monkeypatch.setattr(attention, "FEW", 0)
    assert torch.allclose(attend(query, key, value, mask), plain, rtol=0, atol=1e-13)


def test_only_narrow_heads_with_many_pairs_are_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []

    def counted(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
        widths.append(query.shape[-1])
        return zero_padded(query, key, value, mask, scale)

    monkeypatch.setattr(attention, "zero_padded", counted)
    for width, places in ((8, 128), (8, 127), (16, 128), (15, 128)):
        attend(*torch.randn(3, 1, 2, places, width))
    assert widths == [8, 15]


@pytest.mark.parametrize("autocast", [False, True])
def test_short_sequences_in_bfloat16_go_by_products(monkeypatch: pytest.MonkeyPatch, autocast: bool) -> None:
    calls = []

    def counted(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
        calls.append(query.dtype)
        return by_products(query, key, value, mask, scale)

    monkeypatch.setattr(attention, "by_products", counted)
    exact = attend(*heads())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        got = attend(*heads(torch.float32 if autocast else torch.bfloat16))
    assert len(calls) == 1
    assert (got.double() - exact).abs().max() < 0.03  # bfloat16 keeps 8 bits
    monkeypatch.setattr(attention, "SHORT", 5 * 7 - 1)
    attend(*heads(torch.bfloat16))
    assert len(calls) == 1
