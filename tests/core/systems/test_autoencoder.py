"""What training an autoencoder costs, term by term against closed forms, and whom each term teaches."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from core.autoencoder import KLAutoencoder, Plan, VQAutoencoder
from core.autoencoder.adversary import PatchDiscriminator
from core.autoencoder.perceptual import Perceptual
from core.random import Stream, TrainingRNG
from core.systems.autoencoder import AutoencoderTraining, Weights
from tests.support.parameters import randomise

PLAN = Plan(3, 2, (8, 8), 1, groups=4, middle_attention=False)
WEIGHTS = Weights(
    absolute=0.7, squared=0.3, perceptual=0.5, kl=0.01, codebook=2.0, adversarial=0.4, discriminator_start=100
)
EARLY, LATE = TrainingRNG(3, range(96, 100)), TrainingRNG(3, range(100, 104))


def made(judged: bool = True, seen: bool = True, vq: bool = False) -> AutoencoderTraining:
    torch.manual_seed(0)
    autoencoder = VQAutoencoder(PLAN, 16) if vq else KLAutoencoder(PLAN)
    features = nn.Conv2d(3, 5, 3)
    perceptual = Perceptual(Listed(features)) if seen else None
    judge = PatchDiscriminator(3, 4, 1, groups=2) if judged else None
    system = AutoencoderTraining(autoencoder, WEIGHTS, perceptual, judge)
    randomise(system, seed=0, size=0.15)
    return system


class Listed(nn.Module):
    """A layer's map as the only one."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.layer(x)]


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return {"x": torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))}


def parts(system: AutoencoderTraining, x: Tensor, rng: TrainingRNG | None) -> tuple[Tensor, Tensor, Tensor]:
    """The reconstruction, what each sample costs and what the code costs, written out."""
    moments = system.autoencoder.moments(x)
    mean, deviation = moments[:, :2], (moments[:, 2:] / 2).exp()
    code = mean if rng is None else mean + deviation * rng.normal(mean, Stream.CODEC)
    out = system.autoencoder.decode(code)
    each = 0.7 * (out - x).abs().mean((1, 2, 3)) + 0.3 * ((out - x) ** 2).mean((1, 2, 3))
    if system.perceptual is not None:
        each = each + 0.5 * system.perceptual(out, x)
    unit = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    nats = torch.distributions.kl_divergence(torch.distributions.Normal(mean, deviation), unit).sum((1, 2, 3))
    return out, each, 0.01 * nats.mean() / (3 * 8 * 8)


def test_the_loss_is_the_sum_of_its_terms(batch: dict[str, Tensor]) -> None:
    system = made(judged=False)
    found = system(batch, LATE)
    _, each, kl = parts(system, batch["x"], LATE)
    torch.testing.assert_close(found.mean, each.mean() + kl)
    torch.testing.assert_close(found.each, each.detach())
    assert float(kl.detach()) > 0 and not found.each.requires_grad and not bool(found.t.any())


def test_held_out_losses_see_the_mean_of_the_code_and_no_judge(batch: dict[str, Tensor]) -> None:
    system, places = made(), torch.tensor([0.1, 0.3, 0.5, 0.7], dtype=torch.float64)
    found = system(batch, LATE, places)
    _, each, kl = parts(system, batch["x"], None)
    torch.testing.assert_close(found.mean, each.mean() + kl)
    assert torch.equal(found.t, places)
    assert torch.equal(system(batch, EARLY, places).mean, found.mean)


def test_a_table_has_its_own_loss_in_place_of_a_divergence(batch: dict[str, Tensor]) -> None:
    system = made(judged=False, seen=False, vq=True)
    out, quantised = system.autoencoder(batch["x"])
    error = out - batch["x"]
    expected = 0.7 * error.abs().mean() + 0.3 * error.square().mean() + 2.0 * quantised.loss
    torch.testing.assert_close(system(batch, LATE).mean, expected)


def test_the_judge_begins_after_so_many_samples_of_the_run(batch: dict[str, Tensor]) -> None:
    judged, alone = made(), made(judged=False)
    torch.testing.assert_close(judged(batch, EARLY).mean, alone(batch, EARLY).mean)
    assert abs(float((judged(batch, LATE).mean - alone(batch, LATE).mean).detach())) > 0.1


def test_the_adversarial_term_weighs_as_much_as_the_reconstruction(batch: dict[str, Tensor]) -> None:
    """The ratio of the gradients' norms at the decoder's last weights, measured by hand."""
    system, x = made(), batch["x"]
    judge, last = system.discriminator, system.autoencoder.decoder.conv_out.weight
    assert judge is not None
    out, each, kl = parts(system, x, LATE)
    fooled = -judge(out).mean()
    sizes = [torch.autograd.grad(term, last, retain_graph=True)[0].norm() for term in (each.mean(), fooled)]
    ratio = float(sizes[0] / sizes[1])
    hinge = ((1 - judge(x)).clamp(min=0).mean() + (1 + judge(out)).clamp(min=0).mean()) / 2
    expected = each.mean() + kl + 0.4 * ratio * fooled + hinge
    torch.testing.assert_close(system(batch, LATE).mean, expected, rtol=1e-3, atol=1e-4)
    weighed = torch.autograd.grad(ratio * fooled, last)[0].norm()
    assert float(weighed) == pytest.approx(float(sizes[0]), rel=1e-4)


def test_each_part_is_taught_by_its_own_terms(batch: dict[str, Tensor]) -> None:
    """The judge learns from the hinge alone, the autoencoder from the rest, the feature network from nothing."""
    system, x = made(), batch["x"]
    system(batch, LATE).mean.backward()
    judge = system.discriminator
    assert judge is not None and system.perceptual is not None
    out, each, kl = parts(system, x, LATE)
    hinge = ((1 - judge(x)).clamp(min=0).mean() + (1 + judge(out.detach())).clamp(min=0).mean()) / 2
    for name, parameter in judge.named_parameters():
        (expected,) = torch.autograd.grad(hinge, parameter, retain_graph=True)
        torch.testing.assert_close(parameter.grad, expected, msg=name)
    fooled = -judge(out).mean()
    last = system.autoencoder.decoder.conv_out.weight
    sizes = [torch.autograd.grad(term, last, retain_graph=True)[0].norm() for term in (each.mean(), fooled)]
    rest = each.mean() + kl + 0.4 * (sizes[0] / (sizes[1] + 1e-4)).detach() * fooled
    for name, parameter in system.autoencoder.named_parameters():
        (expected,) = torch.autograd.grad(rest, parameter, retain_graph=True)
        assert parameter.grad is not None and bool(expected.ne(0).any()), name
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-5, msg=name)
    assert all(parameter.grad is None for parameter in system.perceptual.parameters())


def test_training_leaves_the_feature_network_as_it_was(batch: dict[str, Tensor]) -> None:
    """Norms over the batch would otherwise learn their statistics from what they judge."""
    system = made(judged=False, seen=False)
    norm = nn.BatchNorm2d(3)
    system = AutoencoderTraining(system.autoencoder, WEIGHTS, Perceptual(Listed(norm))).train()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    system(batch, LATE)
    assert system.autoencoder.training and not norm.training
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_a_few_steps_give_data_back(batch: dict[str, Tensor]) -> None:
    """All terms at once, in one optimizer: the picture comes back and the judge tells both apart."""
    torch.manual_seed(0)
    weights = dataclasses.replace(WEIGHTS, discriminator_start=0, kl=1e-6)
    system = AutoencoderTraining(KLAutoencoder(PLAN), weights, None, PatchDiscriminator(3, 8, 1, groups=2))
    x = torch.nn.functional.interpolate(torch.randn(8, 3, 2, 2), (8, 8))
    optimizer = torch.optim.Adam(system.parameters(), lr=3e-3)
    errors = []
    for step in range(120):
        found = system({"x": x}, TrainingRNG(0, range(8 * step, 8 * step + 8)))
        optimizer.zero_grad()
        found.mean.backward()
        optimizer.step()
        errors.append(float(found.each.mean()))
    assert errors[-1] < 0.5 * errors[0]
