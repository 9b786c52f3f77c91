"""Autoencoders in 1 to 3 dimensions, decoding in bands, posteriors and tables against closed forms."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from core.autoencoder import DiagonalGaussian, KLAutoencoder, Plan, VQAutoencoder
from core.autoencoder.vq import Codebook
from core.weights.autoencoder import save_diffusers
from core.weights.checkpoint import CheckpointError
from tests.support.parameters import randomise


@pytest.mark.parametrize("dims", [1, 2, 3])
@torch.no_grad()
def test_bands_and_slices_give_what_the_whole_gives(dims: int) -> None:
    torch.manual_seed(0)
    net = KLAutoencoder(Plan(2, 3, (8, 16, 16), 1, dims=dims, groups=4))
    randomise(net, seed=0)
    z = torch.randn(2, 3, *(6, 5, 4)[:dims])
    whole = net.decode(z)
    apart = 1e-5 * whole.abs().max()
    assert whole.shape == (2, 2, *(24, 20, 16)[:dims])
    for bands in (2, 3, 6):
        assert (net.decode(z, bands) - whole).abs().max() < apart
    assert (net.decode(z, bands=3, sliced=True) - whole).abs().max() < apart
    with pytest.raises(ValueError, match="7 bands of a code with 6 rows"):
        net.decode(z, bands=7)


@torch.no_grad()
def test_bands_need_less_memory_for_temporaries() -> None:
    net = KLAutoencoder(Plan(3, 4, (16, 16), 1, groups=4))
    z = torch.randn(1, 4, 32, 32)

    def largest(bands: int) -> int:
        seen: list[int] = []
        hooks = [
            module.register_forward_hook(lambda _, inputs, out: seen.append(out.numel()))
            for module in net.decoder.up[-1].modules()
            if isinstance(module, nn.Conv2d)
        ]
        net.decode(z, bands)
        for hook in hooks:
            hook.remove()
        return max(seen)

    assert largest(8) <= largest(1) / 6


def test_posterior_against_closed_forms() -> None:
    posterior = DiagonalGaussian.of(torch.tensor([[[1.0], [math.log(4.0)]]]))
    assert float(posterior.kl()) == pytest.approx((1 + 4 - 1 - math.log(4.0)) / 2)
    assert float(posterior.sample(torch.tensor([[[0.5]]]))) == pytest.approx(1 + 2 * 0.5)
    assert float(DiagonalGaussian.of(torch.tensor([[[0.0], [99.0]]])).logvar) == 20
    normal = torch.distributions.Normal(0.0, 1.0)
    found = torch.distributions.kl_divergence(torch.distributions.Normal(1.0, 2.0), normal)
    assert float(posterior.kl()) == pytest.approx(float(found), rel=1e-6)


def test_data_that_do_not_fit_are_refused() -> None:
    net = KLAutoencoder(Plan(3, 4, (8, 8), 1, groups=4))
    with pytest.raises(ValueError, match="does not divide by 2"):
        net.encode(torch.zeros(1, 3, 7, 8))
    with pytest.raises(ValueError, match="takes 3 channels over 2 axes"):
        net.encode(torch.zeros(1, 1, 8, 8))


def test_the_nearest_entry_is_found_and_gradients_pass() -> None:
    torch.manual_seed(0)
    book = Codebook(7, 3).double()
    book.table.weight.data = torch.randn(7, 3, dtype=torch.float64)
    z = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    found = book(z)
    distance = (z.movedim(1, -1)[..., None, :] - book.table.weight).square().sum(-1)
    assert torch.equal(found.indices, distance.argmin(-1))
    assert torch.allclose(found.code, book.table.weight[found.indices].movedim(-1, 1))
    weight = torch.randn_like(found.code)
    (gradient,) = torch.autograd.grad((found.code * weight).sum(), z, retain_graph=True)
    assert torch.equal(gradient, weight)
    (pull,) = torch.autograd.grad(found.loss, z)
    assert torch.allclose(pull, 0.25 * 2 * (z - found.code).detach() / z.numel())


def test_perplexity_counts_the_entries_in_use() -> None:
    book = Codebook(16, 2)
    assert float(book.perplexity(torch.arange(16).repeat(3))) == pytest.approx(16)
    assert float(book.perplexity(torch.zeros(9, dtype=torch.long))) == pytest.approx(1)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_vq_learns_to_give_data_back(dims: int) -> None:
    torch.manual_seed(0)
    net = VQAutoencoder(Plan(1, 4, (8, 8), 1, dims=dims, groups=4), entries=32)
    shape = (16, 1, *(8, 4, 4)[:dims])
    x = torch.randn(16, 1, *[1] * dims).expand(shape).contiguous()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    errors = []
    for _ in range(60):
        out, found = net(x)
        loss = (out - x).square().mean() + found.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float((out - x).square().mean().detach()))
    assert errors[-1] < 0.3 * errors[0]


@pytest.mark.parametrize(("fold", "widths", "factor"), [(2, (8, 16), 4), (4, (8,), 4), (2, (8,), 2)])
@torch.no_grad()
def test_folded_pixels_come_back(fold: int, widths: tuple[int, ...], factor: int) -> None:
    """Shapes there and back; a band at a time is the whole; what does not divide by the whole factor is refused."""
    torch.manual_seed(0)
    plan = Plan(3, 4, widths, 1, groups=4, middle_attention=False, fold=fold)
    net = randomise(KLAutoencoder(plan), seed=0)
    assert plan.factor == factor and plan.folded == 3 * fold**2
    x = torch.randn(2, 3, 7 * factor, 5 * factor)
    code = net.encode(x).mean
    assert code.shape == (2, 4, 7, 5)
    whole = net.decode(code)
    assert whole.shape == x.shape
    for bands in (2, 3, 7):
        assert (net.decode(code, bands) - whole).abs().max() < 1e-5 * whole.abs().max()
    assert (net.decode(code, bands=3, sliced=True) - whole).abs().max() < 1e-5 * whole.abs().max()
    with pytest.raises(ValueError, match=f"does not divide by {factor}: crop or pad it"):
        net.encode(x[..., :-1])


@torch.no_grad()
def test_a_square_of_pixels_becomes_channels() -> None:
    """The first convolution sees them, and the last makes them: the same networks without fold, unfolded by hand."""
    folded = randomise(KLAutoencoder(Plan(1, 2, (8, 16), 1, groups=4, fold=2)), seed=3)
    plain = randomise(KLAutoencoder(Plan(4, 2, (8, 16), 1, groups=4)), seed=3)
    x = torch.randn(2, 1, 8, 12)
    squares = torch.stack([x[:, 0, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)
    assert torch.equal(folded.encode(x).mean, plain.encode(squares).mean)
    code = torch.randn(2, 2, 2, 3)
    out = plain.decode(code)
    made = folded.decode(code)
    for channel, (i, j) in enumerate((i, j) for i in (0, 1) for j in (0, 1)):
        assert torch.equal(made[:, 0, i::2, j::2], out[:, channel])


def test_other_grids_than_pictures_are_not_folded() -> None:
    with pytest.raises(ValueError, match="only grids of two dimensions are folded"):
        Plan(3, 4, (8,), fold=2, dims=3)
    with pytest.raises(ValueError, match="by 1 or more"):
        Plan(3, 4, (8,), fold=0)


def test_folded_pixels_are_not_exported(tmp_path: Path) -> None:
    net = KLAutoencoder(Plan(3, 4, (8, 8), 1, groups=4, fold=2))
    with pytest.raises(CheckpointError, match="do not fold pixels into channels: keep our own format"):
        save_diffusers(tmp_path, net)
    assert not any(tmp_path.iterdir())
