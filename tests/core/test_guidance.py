"""Guidance against closed forms on Gaussians and mixtures, against its own algebra, and against diffusers' guiders."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.guiders import AdaptiveProjectedGuidance, ClassifierFreeZeroStarGuidance
from diffusers.guiders.guider_utils import rescale_noise_cfg
from torch import Tensor

from core.cond import Cond
from core.denoiser import Bound, DenoiserLike, Estimate
from core.guidance import (
    Autoguided,
    ClassifierGuided,
    Composed,
    DynamicThreshold,
    GuidanceInterval,
    Guided,
    LinearRule,
    PerpendicularNegative,
    Projected,
    Rescale,
    Rule,
    StaticThreshold,
    X0Transform,
    ZeroStar,
    ZeroVelocity,
    plus_plus,
    zero_star,
)
from core.guidance.guided import levels_at
from core.prediction import X0, Epsilon, FlowVelocity, Prediction, V
from core.random import SamplingRNG
from core.sample.ddim import ddim
from core.sample.step import levels, run
from core.schedule import EDM, VP, Flow, Schedule


@dataclass(frozen=True)
class Gaussian:
    """The exact denoiser of N(mean, deviation^2), with mean and deviation as the condition; counts its batches."""

    schedule: Schedule
    learned: bool = False
    batches: list[int] = field(default_factory=list)

    def bind(self, cond: Cond = Cond()) -> Bound:
        law = cond.vector

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            self.batches.append(len(x))
            assert law is not None and len(law) == len(x)
            mean, deviation = (law[:, i].view(-1, *[1] * (x.ndim - 1)) for i in (0, 1))
            alpha, sigma = levels_at(self.schedule, t, x)
            gain = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)
            return Estimate(mean + gain * (x - alpha * mean), mean.expand_as(x) if self.learned else None)

        return Bound(self.schedule, estimate)


def law(mean: float, deviation: float, batch: int = 1) -> Cond:
    return Cond(vector=torch.tensor([[mean, deviation]], dtype=torch.float64).expand(batch, 2))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def at(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


SHAPES = [(3, 4), (3, 2, 5), (3, 2, 4, 4), (3, 2, 2, 3, 3)]
SCHEDULES: list[tuple[Schedule, float]] = [(VP(), 0.4), (EDM(), 0.7), (Flow(), 0.6)]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("schedule", "time"), SCHEDULES)
def test_guidance_of_gaussians_is_the_tilted_gaussian(
    schedule: Schedule, time: float, shape: tuple[int, ...], together: bool
) -> None:
    """The score of p(x|c)^w p(x)^(1 - w), whose precision is linear in w."""
    x, t, w = draw(*shape), at(time), 2.5
    guided = Guided(Gaussian(schedule), law(-0.3, 1.2), w, batched=together)
    clean = guided.bind(law(0.8, 0.5, 3))(x, t)
    alpha, sigma = schedule(t)
    variances = [alpha**2 * s**2 + sigma**2 for s in (0.5, 1.2)]
    score = w * (alpha * 0.8 - x) / variances[0] + (1 - w) * (alpha * -0.3 - x) / variances[1]
    torch.testing.assert_close(clean, (x + sigma**2 * score) / alpha, rtol=1e-12, atol=1e-12)


def test_one_batch_of_both_branches_or_two_calls() -> None:
    x, t = draw(3, 2), at(0.5)
    for together, batches in ((True, [6]), (False, [3, 3])):
        denoiser = Gaussian(VP())
        Guided(denoiser, law(0, 1), 3.0, batched=together).bind(law(1, 1, 3))(x, t)
        assert denoiser.batches == batches


def test_scales_one_and_zero_cost_one_evaluation_and_are_the_branches() -> None:
    x, t, cond, null = draw(3, 2), at(0.5), law(1, 0.4, 3), law(0, 1)
    for scale, alone in ((1.0, cond), (0.0, law(0, 1, 3))):
        denoiser = Gaussian(VP())
        clean = Guided(denoiser, null, scale).bind(cond)(x, t)
        assert denoiser.batches == [3]
        torch.testing.assert_close(clean, Gaussian(VP()).bind(alone)(x, t), rtol=0, atol=0)


def test_times_and_scales_may_differ_by_sample() -> None:
    x, t, scales = draw(3, 2, 4), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64), at(0) + torch.tensor([0, 1.5, 4])
    together = Guided(Gaussian(VP()), law(0, 1), lambda t: scales).bind(law(1, 0.4, 3))(x, t)
    for i in range(3):
        one = Guided(Gaussian(VP()), law(0, 1), float(scales[i])).bind(law(1, 0.4))(x[i : i + 1], t[i])
        torch.testing.assert_close(together[i : i + 1], one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_a_scale_that_is_no_number_is_refused(scale: float) -> None:
    denoiser = Gaussian(VP())
    for make in (
        lambda: Guided(denoiser, law(0, 1), scale),
        lambda: Autoguided(denoiser, denoiser, scale),
        lambda: Composed(denoiser, law(0, 1), 1.0, [(law(1, 1), scale)]),
        lambda: PerpendicularNegative(denoiser, law(0, 1), law(1, 1), 2.0, scale),
        lambda: ClassifierGuided(denoiser, lambda x, t, cond: x.sum(1), scale),
    ):
        with pytest.raises(ValueError, match="guidance scale must be a finite number"):
            make()


def test_the_null_keeps_what_it_does_not_speak_of_and_must_fit() -> None:
    cond = dataclasses.replace(law(1, 1, 3), concat=draw(3, 1, 4))
    denoiser = Gaussian(VP())
    Guided(denoiser, law(0, 1), 2.0).bind(cond)(draw(3, 2), at(0.5))
    assert denoiser.batches == [6]
    with pytest.raises(ValueError, match="'tokens', which the condition leaves empty"):
        Guided(denoiser, Cond(tokens=draw(1, 2, 2)), 2.0).bind(cond)
    with pytest.raises(ValueError, match="batch of 2"):
        Guided(denoiser, law(0, 1, 2), 2.0).bind(cond)
    with pytest.raises(ValueError, match="'tokens' differ in shape"):
        Guided(denoiser, Cond(tokens=draw(1, 2, 8)), 2.0).bind(Cond(tokens=draw(3, 5, 8)))


def test_the_learned_variance_is_the_wanted_branch_s() -> None:
    denoiser = Gaussian(VP(), learned=True)
    for made in (
        Guided(denoiser, law(0, 1), 3.0),
        Composed(denoiser, law(0, 1), 3.0, [(law(0.2, 1), 1.0)]),
        Autoguided(denoiser, Guided(denoiser, law(0, 1), 0.0), 3.0),
        X0Transform(Guided(denoiser, law(0, 1), 3.0, Projected()), DynamicThreshold()),
    ):
        mix = made.bind(law(0.7, 1, 3)).estimate(draw(3, 2), at(0.5)).mix
        assert mix is not None and bool((mix == 0.7).all())


def test_composition_is_its_algebra() -> None:
    x, t = draw(3, 2, 4), at(0.5)
    a, b, c, null = (Gaussian(VP()).bind(law(m, s, 3))(x, t) for m, s in ((1, 0.5), (-1, 0.7), (0.4, 0.3), (0, 1)))
    denoiser = Gaussian(VP())
    composed = Composed(denoiser, law(0, 1), 3.0, [(law(-1, 0.7), 1.5), (law(9, 9), 0.0), (law(0.4, 0.3), -0.5)])
    clean = composed.bind(law(1, 0.5, 3))(x, t)
    assert denoiser.batches == [12]
    torch.testing.assert_close(clean, null + 3 * (a - null) + 1.5 * (b - null) - 0.5 * (c - null))
    alone = Composed(denoiser, law(0, 1), 3.0, []).bind(law(1, 0.5, 3))(x, t)
    torch.testing.assert_close(alone, Guided(denoiser, law(0, 1), 3.0).bind(law(1, 0.5, 3))(x, t))


def test_a_perpendicular_negative_moves_across_the_condition_only() -> None:
    x, t, cond, null, negative = draw(3, 2, 4), at(0.5), law(1, 0.5, 3), law(0, 1), law(0.3, 0.2)
    plain = Guided(Gaussian(VP()), null, 4.0).bind(cond)(x, t)
    clean = PerpendicularNegative(Gaussian(VP()), null, negative, 4.0, 0.8).bind(cond)(x, t)
    toward = Gaussian(VP()).bind(cond)(x, t) - Gaussian(VP()).bind(law(0, 1, 3))(x, t)
    away = Gaussian(VP()).bind(law(0.3, 0.2, 3))(x, t) - Gaussian(VP()).bind(law(0, 1, 3))(x, t)
    moved = plain - clean  # 4 * 0.8 * the part of away orthogonal to toward
    assert ((moved * toward).flatten(1).sum(1)).abs().max() < 1e-12
    torch.testing.assert_close((moved * away).flatten(1).sum(1), (moved**2).flatten(1).sum(1) / 3.2)


def test_autoguidance_is_its_algebra_also_across_schedules() -> None:
    x, t, cond = draw(3, 2, 4), at(0.4), law(1, 0.5, 3)
    good, bad = Gaussian(VP()), Guided(Gaussian(VP()), law(0.2, 1.4), 0.0)
    clean = Autoguided(good, bad, 2.0).bind(cond)(x, t)
    torch.testing.assert_close(clean, 2 * good.bind(cond)(x, t) - bad.bind(cond)(x, t))
    elsewhere = Autoguided(good, Guided(Gaussian(Flow()), law(0.2, 1.4), 0.0), 2.0).bind(cond)(x, t)
    torch.testing.assert_close(elsewhere, clean, rtol=1e-12, atol=1e-12)
    good.batches.clear()
    Autoguided(good, bad, 1.0).bind(cond)(x, t)
    assert good.batches == [3]


@pytest.mark.parametrize(("schedule", "time"), SCHEDULES)
def test_classifier_guidance_with_the_exact_classifier_is_the_conditional_denoiser(
    schedule: Schedule, time: float
) -> None:
    """A mixture of two Gaussians guided by its own posterior over components becomes one of them."""
    components = [(0.3, 1.0, 0.5), (0.7, -0.8, 1.1)]

    def joint(x: Tensor, t: Tensor) -> Tensor:  # (2, B): log weight + log N(x; alpha m, alpha^2 s^2 + sigma^2)
        alpha, sigma = schedule(t)
        rows = []
        for weight, mean, deviation in components:
            variance = alpha**2 * deviation**2 + sigma**2
            rows.append(math.log(weight) - ((x - alpha * mean) ** 2 / variance + variance.log()).flatten(1).sum(1) / 2)
        return torch.stack(rows)

    def mixture(x: Tensor, t: Tensor) -> Estimate:
        weight = joint(x, t).softmax(0).view(2, -1, 1, 1)
        each = [Gaussian(schedule).bind(law(m, s, len(x)))(x, t) for _, m, s in components]
        return Estimate(weight[0] * each[0] + weight[1] * each[1])

    @dataclass(frozen=True)
    class Mixture:
        schedule: Schedule

        def bind(self, cond: Cond = Cond()) -> Bound:
            return Bound(self.schedule, mixture)

    x, t = draw(5, 2, 3), at(time)
    for wanted, (_, mean, deviation) in enumerate(components):
        guided = ClassifierGuided(Mixture(schedule), lambda x, t, cond: joint(x, t).log_softmax(0)[wanted])  # noqa: B023
        with torch.no_grad():
            clean = guided.bind()(x, t)
        torch.testing.assert_close(clean, Gaussian(schedule).bind(law(mean, deviation, 5))(x, t), rtol=1e-9, atol=1e-9)


def test_a_classifier_is_not_asked_about_pure_noise() -> None:
    guided = ClassifierGuided(Gaussian(Flow()), lambda x, t, cond: x.sum(1))
    with pytest.raises(ValueError, match="start the grid later"):
        guided.bind(law(0, 1, 3))(draw(3, 2), at(1.0))


def test_an_interval_asks_one_side_only() -> None:
    inside, outside = Gaussian(EDM()), Gaussian(EDM())
    bound = GuidanceInterval(Guided(inside, law(0, 1), 3.0), outside, 0.3, 5.0).bind(law(1, 0.5, 3))
    x = draw(3, 2)
    for t, guided in ((0.29, False), (0.3, True), (5.0, True), (5.1, False)):
        inside.batches.clear()
        outside.batches.clear()
        bound(x, at(t))
        assert (inside.batches, outside.batches) == (([6], []) if guided else ([], [3]))
    mixed = torch.tensor([0.1, 1.0, 50.0], dtype=torch.float64)
    for row, t in enumerate(mixed):
        torch.testing.assert_close(bound(x, mixed)[row], bound(x, t)[row], rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="low <= high"):
        GuidanceInterval(inside, outside, 2.0, 1.0)


def test_an_open_interval_includes_pure_noise() -> None:
    inside, outside = Gaussian(Flow()), Gaussian(Flow())
    GuidanceInterval(inside, outside, low=2.0).bind(law(0, 1, 3))(draw(3, 2), at(1.0))
    GuidanceInterval(inside, outside, high=2.0).bind(law(0, 1, 3))(draw(3, 2), at(1.0))
    assert inside.batches == [3] and outside.batches == [3]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.93, 0.995, 1.0])
def test_the_dynamic_threshold_is_numpy_s_quantile(shape: tuple[int, ...], quantile: float) -> None:
    clean = draw(*shape) * torch.tensor([0.2, 2.0, 9.0], dtype=torch.float64).view(-1, *[1] * (len(shape) - 1))
    for limit, maximum in ((1.0, math.inf), (1.0, 4.0), (0.5, 2.0)):
        ours = DynamicThreshold(quantile, limit, maximum)(clean)
        for row, sample in zip(ours, clean.numpy()):
            bound = np.clip(np.quantile(np.abs(sample), quantile), limit, maximum)
            np.testing.assert_allclose(row.numpy(), np.clip(sample, -bound, bound) * limit / bound, rtol=1e-12)


def test_the_dynamic_threshold_is_diffusers_s() -> None:
    theirs: Any = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=3.0)
    clean = 2 * draw(3, 2, 5, 5).float()
    torch.testing.assert_close(DynamicThreshold(0.9, 1.0, 3.0)(clean), theirs._threshold_sample(clean))
    half = DynamicThreshold(0.9)(clean.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), DynamicThreshold(0.9)(clean), rtol=2e-2, atol=2e-2)
    assert bool((StaticThreshold(0.5)(clean) == clean.clamp(-0.5, 0.5)).all())
    with pytest.raises(ValueError, match="dynamic threshold"):
        DynamicThreshold(1.5)


@pytest.mark.parametrize("space", [Epsilon(), V(), FlowVelocity(), X0()])
def test_rescale_is_diffusers_s_in_the_space_it_names(space: Prediction) -> None:
    """Read through the whole denoiser: the network's output is what their function returns."""
    x, t, cond = draw(3, 2, 4, 4), at(0.4), law(1, 0.5, 3)
    alpha, sigma = VP()(t)

    def output(clean: Tensor) -> Tensor:
        return space.target(clean, (x - alpha * clean) / sigma, alpha, sigma)

    conditional, null = (output(Gaussian(VP()).bind(law(m, s, 3))(x, t)) for m, s in ((1, 0.5), (0, 1)))
    theirs = rescale_noise_cfg(null + 6 * (conditional - null), conditional, 0.7)
    ours = output(Guided(Gaussian(VP()), law(0, 1), 6.0, Rescale(0.7, space)).bind(cond)(x, t))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_rescaling_in_v_is_exact_at_pure_noise() -> None:
    guided = Guided(Gaussian(Flow()), law(0, 1), 6.0, Rescale(1.0, V())).bind(law(2.0, 1, 3))
    assert bool(guided(draw(3, 4), at(1.0)).isfinite().all())
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        Rescale(1.5)


def test_rules_against_diffusers_guiders() -> None:
    """Over a trajectory, so that the momentum is compared too. Their scale counts from the wanted estimate: w - 1."""
    theirs = AdaptiveProjectedGuidance(
        guidance_scale=6.5,
        adaptive_projected_guidance_momentum=-0.4,
        adaptive_projected_guidance_rescale=2.0,
        eta=0.3,
        use_original_formulation=True,
    )
    theirs.set_state(0, 5, at(0.0))
    theirs.prepare_inputs({})
    ours = Projected(parallel=0.3, limit=2.0, momentum=-0.4).start()
    star, their_star = ZeroStar().start(), ClassifierFreeZeroStarGuidance(guidance_scale=4.0, zero_init_steps=0)
    their_star.set_state(0, 5, at(0.0))
    for step in range(5):
        wanted, unwanted = draw(3, 2, 4, 4, seed=step), draw(3, 2, 4, 4, seed=step + 9)
        torch.testing.assert_close(ours(wanted, unwanted, 7.5), theirs.forward(wanted, unwanted).pred)
        # They take the inner products in float32.
        near = their_star.forward(wanted, unwanted).pred
        torch.testing.assert_close(star(wanted, unwanted, 4.0), near, rtol=1e-5, atol=1e-5)


def test_projected_guidance_without_projection_and_momentum_is_the_line() -> None:
    x, t, cond, null = draw(3, 2, 4), at(0.4), law(1, 0.5, 3), law(0, 1)
    plain = Guided(Gaussian(VP()), null, 5.0).bind(cond)(x, t)
    same = Guided(Gaussian(VP()), null, 5.0, Projected(parallel=1.0, momentum=0.0)).bind(cond)(x, t)
    torch.testing.assert_close(same, plain)
    rule = Projected()
    guided = Guided(Gaussian(VP()), null, 5.0, rule).bind(cond)
    wanted = Gaussian(VP()).bind(cond)(x, t)
    across = ((guided(x, t) - wanted) * wanted).flatten(1).sum(1)
    assert across.abs().max() < 1e-12
    # The momentum of one trajectory is not seen by the next.
    first = Guided(Gaussian(VP()), null, 5.0, rule).bind(cond)(x, t)
    assert not torch.equal(guided(x, t), first)


def test_still_does_not_move_a_flow_and_zero_star_starts_with_it() -> None:
    x, noise = draw(3, 2, 4), SamplingRNG(0, range(3))
    bound = ZeroVelocity(Flow()).bind()
    torch.testing.assert_close(run(ddim(bound, x, torch.tensor([1.0, 0.6, 0.2]), noise)), x)
    guided, denoiser = Gaussian(Flow()), law(1, 0.5, 3)
    steps = list(ddim(zero_star(guided, law(0, 1), 4.0).bind(denoiser), x, torch.tensor([1, 0.97, 0.9, 0.5]), noise))
    torch.testing.assert_close(steps[1].x, x)
    assert guided.batches == [6]


def test_plus_plus_is_the_paper_s_loop_under_ddim() -> None:
    times = torch.tensor([1.0, 0.7, 0.3, 0.1, 0.0], dtype=torch.float64)
    x = start = draw(3, 4)
    cond, null, strength = law(1, 0.5, 3), law(0, 1), 0.6
    wanted, unwanted = Gaussian(Flow()).bind(cond), Gaussian(Flow()).bind(law(0, 1, 3))
    for here, there in zip(levels(Flow(), times), levels(Flow(), times)[1:]):
        far = unwanted(x, here.t)
        clean = far + strength * (wanted(x, here.t) - far)
        x = there.alpha * clean + there.sigma * (x - here.alpha * far) / here.sigma
    ours = Guided(Gaussian(Flow()), null, plus_plus(Flow(), times, strength)).bind(cond)
    torch.testing.assert_close(run(ddim(ours, start, times, SamplingRNG(0, range(3)))), x, rtol=1e-10, atol=1e-10)


RULES: list[Rule] = [LinearRule(), Rescale(), Rescale(0.5, V()), Projected(), ZeroStar()]


@pytest.mark.parametrize("shape", [(3, 1), *SHAPES])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_nests_and_samples_in_every_rank(rule: Rule, shape: tuple[int, ...]) -> None:
    """Guided in Threshold in Interval in Autoguided; for samples of one number rescaling has nothing to rescale."""
    base = Gaussian(VP())
    nested: DenoiserLike = X0Transform(Guided(base, law(0, 1), 3.0, rule), DynamicThreshold())
    nested = Autoguided(GuidanceInterval(nested, base, 0.2, 3.0), Guided(base, law(0.1, 1.2), 0.0), 1.5)
    bound = nested.bind(law(0.6, 0.3, shape[0]))
    times = torch.linspace(1, 1e-3, 5, dtype=torch.float64)
    x = run(ddim(bound, draw(*shape), times, SamplingRNG(0, range(shape[0]))))
    assert x.shape == shape and bool(x.isfinite().all())
    single = draw(*shape).float()
    assert nested.bind(law(0.6, 0.3, shape[0]).to(dtype=torch.float32))(single, at(0.5)).dtype == torch.float32


def test_guided_samples_follow_the_tilted_law() -> None:
    """CFG with equal deviations moves the mean to m0 + w (m1 - m0): samples end there."""
    times = torch.cat([torch.linspace(5, -9, 60, dtype=torch.float64).exp(), torch.zeros(1, dtype=torch.float64)])
    guided = Guided(Gaussian(EDM()), law(-0.2, 0.5), 2.0).bind(law(0.5, 0.5, 2000))
    x = run(ddim(guided, math.exp(5) * draw(2000, 1), times, SamplingRNG(0, range(2000))))
    assert abs(float(x.mean()) - 1.2) < 0.06 and abs(float(x.std()) - 0.5) < 0.05


def test_guidance_is_exact_at_pure_noise() -> None:
    """There the branches' x0 are the means 1 and 0, whatever x is."""
    clean = Guided(Gaussian(Flow()), law(0, 1), 3.0).bind(law(1, 0.5, 3))(draw(3, 2), at(1.0))
    torch.testing.assert_close(clean, torch.full_like(clean, 3.0))
