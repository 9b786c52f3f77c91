"""Latents: what an autoencoder says of data, and what is taken from it to be diffused."""

from __future__ import annotations

import pytest
import torch

from core.autoencoder import KLAutoencoder, Plan, VQAutoencoder
from core.codec import Chain, Latents, Pixels
from core.random import Stream, TrainingRNG
from tests.support.parameters import randomise

PLAN = Plan(3, 2, (8, 8, 8), 1, groups=4)
SCALE, SHIFT = torch.tensor([0.5, 3.0]), torch.tensor([0.2, -1.0])
DRAW = TrainingRNG(7, range(5, 11))


def codec(bands: int = 1) -> Latents:
    net = KLAutoencoder(PLAN)
    randomise(net, seed=0, size=0.2)
    return Latents(net, SCALE, SHIFT, bands)


@pytest.fixture
def data() -> torch.Tensor:
    return torch.randn(6, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def wide(value: torch.Tensor) -> torch.Tensor:
    return value.view(1, 2, 1, 1)


def test_data_are_described_by_mean_and_log_variance(data: torch.Tensor) -> None:
    latents = codec()
    moments = latents.moments(data)
    posterior = latents.autoencoder.encode(data)
    assert moments.shape == (6, 4, 4, 6)
    assert torch.equal(moments, torch.cat([posterior.mean, posterior.logvar], dim=1))
    torch.testing.assert_close(latents.sample(moments), (posterior.mean - wide(SHIFT)) * wide(SCALE))
    unit = DRAW.normal(posterior.mean, Stream.CODEC)
    drawn = posterior.mean + (posterior.logvar / 2).exp() * unit
    torch.testing.assert_close(latents.sample(moments, DRAW), (drawn - wide(SHIFT)) * wide(SCALE))
    assert torch.equal(latents.encode(data, DRAW), latents.sample(moments, DRAW))


def test_a_draw_is_a_function_of_the_place_in_the_run(data: torch.Tensor) -> None:
    latents = codec()
    moments = latents.moments(data)
    rows = latents.sample(moments[2:4], TrainingRNG(7, range(7, 9)))
    torch.testing.assert_close(rows, latents.sample(moments, DRAW)[2:4])


def test_decoding_undoes_scale_and_shift(data: torch.Tensor) -> None:
    latents = codec()
    code = latents.autoencoder.encode(data).mean
    torch.testing.assert_close(latents.decode((code - wide(SHIFT)) * wide(SCALE)), latents.autoencoder.decode(code))
    same = Latents(latents.autoencoder, 0.18215)
    torch.testing.assert_close(same.encode(data), 0.18215 * code)


def test_bands_decode_to_the_same(data: torch.Tensor) -> None:
    code = codec().encode(data)
    whole = codec().decode(code)
    assert whole.shape == data.shape
    for bands in (2, 4):
        assert (codec(bands).decode(code) - whole).abs().max() < 1e-4


def test_what_is_diffused_is_measured_to_be_standard(data: torch.Tensor) -> None:
    """Of what is drawn, not of the means alone: a code of wide posteriors has more spread than its means."""
    latents = codec()
    many = torch.randn(200, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    moments = latents.moments(many)
    moments[:, 2:] = torch.tensor([-8.0, 0.0]).view(1, 2, 1, 1)  # log variances: sure of one channel, not of the other
    latents.measure(moments)
    drawn = latents.sample(moments, TrainingRNG(0, range(200)))
    assert torch.allclose(drawn.mean((0, 2, 3)), torch.zeros(2), atol=0.05)
    assert torch.allclose(drawn.std((0, 2, 3)), torch.ones(2), atol=0.05)
    torch.testing.assert_close(latents.decode(latents.sample(moments)), latents.autoencoder.decode(moments[:, :2]))


def test_a_channel_that_says_nothing_is_left_at_its_size() -> None:
    latents = Latents(VQAutoencoder(PLAN, 8))
    moments = torch.randn(50, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    moments[:, 1] = 0.25
    latents.measure(moments)
    code = latents.sample(moments)
    assert bool(code.isfinite().all()) and not bool(code[:, 1].any())
    assert float(code[:, 0].std()) == pytest.approx(1, abs=1e-3)


def test_codes_of_a_table_are_diffused_before_they_are_quantised(data: torch.Tensor) -> None:
    net = VQAutoencoder(PLAN, 8)
    randomise(net, seed=0, size=0.2)
    latents = Latents(net, 2.0, 0.5)
    code = net.encode(data)
    assert torch.equal(latents.moments(data), code)
    torch.testing.assert_close(latents.encode(data, DRAW), 2 * (code - 0.5))
    torch.testing.assert_close(latents.decode(2 * (code - 0.5)), net.decode(code), atol=1e-5, rtol=1e-5)


def test_the_autoencoder_is_never_trained(data: torch.Tensor) -> None:
    latents = codec().train()
    assert not latents.autoencoder.training
    assert not any(parameter.requires_grad for parameter in latents.parameters())
    assert {"scale", "shift"} <= set(latents.state_dict())


def test_a_chain_describes_by_its_first(data: torch.Tensor) -> None:
    latents = codec()
    chain = Chain(latents, Pixels())
    assert torch.equal(chain.moments(data), latents.moments(data))
    torch.testing.assert_close(chain.encode(data, DRAW), latents.encode(data, DRAW))
