"""log p(x) of data, with an error bar that counts each source of error for what it does to the answer.

Along any path y(a), with the score s = grad log p_a,

    log p_0(y(0)) = log p_T(y(T)) + integral of [div f - s . (y' - f)] da.

So the solver's path need not be exact: where it leaves the ODE, its defect y' - f is known and enters with its sign,
and what remains is of second order. The score is the denoiser's, ``-y - cot(a) f``. The path is solved first, without a
trace; the integral is then a Gauss-Kronrod rule of five nodes on each of its steps. What the model got wrong is in none
of the bars.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor

from core.denoiser import Bound
from core.likelihood.path import Solved, Velocity, against_noise, end_size, ends, first_step, flat, integrate
from core.likelihood.prior import Prior, normal
from core.likelihood.trace import Estimates, ExactTrace, Hutchinson, Trace
from core.random import SamplingRNG

EXACT = 32  # dimensions up to which the trace is exact unless another is asked for


@dataclass(frozen=True)
class Likelihood:
    """log p(x) of each sample in nats with the sources of its error, float64."""

    value: Tensor  # (B,)
    solver: Tensor  # (B,), the error of the path and of the quadrature
    probe: Tensor  # (B,), the standard error of the trace, 0 where it is exact
    freedom: Tensor  # (B,), degrees of freedom of that standard error
    evaluations: int  # of the network, for each sample
    products: int  # backward passes through it, for each sample

    @property
    def error(self) -> Tensor:
        """The 95 % error bar (B,): the solver's error plus Student's quantile of the probes' standard error."""
        quantile = torch.from_numpy(stdtrit(self.freedom.cpu().numpy(), 0.975)).to(self.probe)
        return self.solver + quantile * self.probe


@dataclass(frozen=True)
class Node:
    """A place on the path where the integrand is computed."""

    angle: float
    y: Tensor  # (B, M)
    rate: Tensor | None  # (B, M), the path's derivative; None where the path has no defect
    weight: float
    coarse: float  # the weight in a coarser rule, for the error of this one
    panel: int


@dataclass(frozen=True)
class Begun:
    """Where the path begins, at the first angle."""

    y: Tensor  # (B, ...)
    length: float  # of the straight path from the data, over which the first node's divergence counts
    correct: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # tr J, tr J J^T -> a correction, its error (B,)
    constant: float = 0.0


Start = Callable[[Velocity, Tensor, float], Begun]


def clean_data(velocity: Velocity, x: Tensor, first: float) -> Begun:
    """x is data without noise, of whose density the model knows what the cleanest time shows.

    Below the cleanest time f is taken as proportional to a, right to second order in ``E = a J``, the change of J over
    the way. The rest is that of a Gaussian whose E is ``e = tr E^2 / tr E`` in every direction that changes. The error
    bar is half of the second order and all of the higher ones: a density of data that are thinner than the cleanest
    noise is not in the model.
    """
    y = first_step(velocity, x, first, 1e-3 * math.sin(first))
    with torch.enable_grad():
        leaf = y.detach().requires_grad_()
        rate = velocity(first, leaf)
        turned = torch.autograd.grad(rate, leaf, rate.detach())[0]
    rate = rate.detach()
    bend = (score(first, y, rate) * turned).flatten(1).sum(1) * first**2 / 8

    def correct(trace: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
        ratio = (first * square / trace.abs()).clamp(1e-6, 1 - 1e-6)
        volume = first**2 / 4 * square
        more_volume = volume * (-(-ratio).log1p() - ratio) * 2 / ratio**2 - volume
        more_bend = bend * ratio / (1 - ratio)
        second = volume + bend
        return second + more_volume + more_bend, second.abs() / 2 + more_volume + more_bend.abs()

    return Begun(y, first / 2, correct)


def cleanest_time(velocity: Velocity, x: Tensor, first: float) -> Begun:
    """x is x_t / alpha at the schedule's cleanest time, where the model ends: no limit to clean data is taken."""
    nothing = torch.zeros(len(x)).to(x)
    return Begun(x * math.cos(first), 0.0, lambda *_: (nothing, nothing), x[0].numel() * math.log(math.cos(first)))


def score(angle: float, y: Tensor, rate: Tensor) -> Tensor:
    """The gradient of log p_a(y), from f."""
    return -y - rate / math.tan(angle)


# Gauss's rule of two nodes within Kronrod's of five, on [-1, 1].
_KRONROD = (
    (-0.9258200997725514, 0.19797979797979798, 0.0),
    (-0.5773502691896257, 0.4909090909090909, 1.0),
    (0.0, 0.6222222222222222, 0.0),
    (0.5773502691896257, 0.4909090909090909, 1.0),
    (0.9258200997725514, 0.19797979797979798, 0.0),
)


def _nodes(step: Solved, panel: int) -> list[Node]:
    half = (step.angle - step.start) / 2
    placed = []
    for place, weight, coarse in _KRONROD:
        y, rate = step.at((1 + place) / 2)
        placed.append(Node(step.start + (1 + place) * half, y, rate, weight * half, coarse * half, panel))
    return placed


def default_trace(x: Tensor) -> Trace:
    """Exact up to ``EXACT`` dimensions of x (B, ...), and by probes beyond."""
    return ExactTrace() if x[0].numel() <= EXACT else Hutchinson(SamplingRNG(0, range(len(x))))


def log_prob(
    denoise: Bound,
    x: Tensor,
    prior: Prior | None = None,
    trace: Trace | None = None,
    tolerance: float = 1e-3,
    start: Start = clean_data,
) -> Likelihood:
    """log p(x) of data x (B, ...) in nats (2011.13456, equation 39), in float64 whatever the denoiser computes in.

    prior: the law at the noisiest time, by default the ``normal`` that samplers start from. trace: by default what
    ``default_trace`` says. tolerance: of a solver's step, as a part of the noise's deviation; a step that cannot reach
    it raises ValueError. start: whether x is data without noise, or what the model ends with.
    """
    size = x[0].numel()
    trace = trace or default_trace(x)
    first, last = ends(denoise)
    velocity = Velocity(denoise, x.dtype)
    with torch.no_grad():
        begun = start(velocity, x.double(), first)
        steps = list(integrate(flat(velocity, x.shape), begun.y.flatten(1), first, last, against_noise(tolerance)))
    nodes = [Node(first, begun.y.flatten(1), None, begun.length, begun.length, 0)]
    nodes += [node for panel, step in enumerate(steps, 1) for node in _nodes(step, panel)]
    nodes = [node for node in nodes if node.weight]
    integral = _integrate(velocity, nodes, x.shape, trace)
    scale = end_size(denoise)
    end = torch.tensor(denoise.schedule.noisiest, dtype=torch.float64)
    with torch.no_grad():
        ending = (prior or normal(denoise))((steps[-1].state * scale).view(x.shape).to(x.dtype), end).double()
    bend, unsure = begun.correct(integral.first.trace.mean(1), integral.first.square.mean(1))
    value = ending + size * math.log(scale) + begun.constant + integral.value + bend
    solver = integral.error + unsure
    return Likelihood(value, solver, integral.deviation, integral.freedom, velocity.calls, integral.products)


@dataclass(frozen=True)
class _Integral:
    value: Tensor  # (B,)
    error: Tensor  # (B,), of the path and the quadrature
    deviation: Tensor  # (B,), of the probes
    freedom: Tensor  # (B,)
    first: Estimates  # at the first node
    products: int


def _integrate(velocity: Velocity, nodes: Sequence[Node], shape: torch.Size, trace: Trace) -> _Integral:
    """The integral of div f - score . (y' - f) over the nodes."""
    found = [_Found() for _ in nodes]
    for index, node in enumerate(nodes):
        found[index].add(*_visit(velocity, node, shape, trace, index, range(trace.probes)))
    weight = torch.tensor([node.weight for node in nodes]).double().to(found[0].trace.device)[:, None]
    coarse = torch.tensor([node.coarse for node in nodes]).double().to(weight)[:, None]
    panels = torch.tensor([node.panel for node in nodes])
    spread = torch.stack([one.variance for one in found])  # (N, B), of one estimate
    even = torch.stack([spread[panels == panel].mean(0) for panel in panels.tolist()])
    for index, count in enumerate(trace.more(even.sqrt() * weight, math.prod(shape[1:])).tolist()):
        if count:
            probes = range(trace.probes, trace.probes + count)
            found[index].add(*_visit(velocity, nodes[index], shape, trace, index, probes))
    divergence = torch.stack([one.trace.mean(1) for one in found])  # (N, B)
    defect = torch.stack([one.defect for one in found])
    count = torch.tensor([one.trace.shape[1] for one in found]).double().to(weight)[:, None]
    variance = torch.stack([one.variance for one in found]) / count
    part = weight**2 * variance
    freedom = part.sum(0) ** 2 / (part**2 / (count - 1).clamp(min=1)).sum(0).clamp(min=1e-300)
    path = weight * defect
    rules = ((weight - coarse) * (divergence - defect)).sum(0)
    # The difference of the two rules, less what the probes alone would make of it.
    rough = (rules**2 - ((weight - coarse) ** 2 * variance).sum(0)).clamp(min=0).sqrt()
    return _Integral(
        (weight * divergence - path).sum(0),
        path.sum(0).abs() + path.square().sum(0).sqrt() + rough,
        part.sum(0).sqrt(),
        freedom.clamp(min=1),
        Estimates(found[0].trace, found[0].square),
        sum(one.trace.shape[1] for one in found),
    )


class _Found:
    """What was found at a node so far."""

    def __init__(self) -> None:
        self.trace = self.square = self.defect = torch.zeros(())

    def add(self, trace: Tensor, square: Tensor, defect: Tensor) -> None:
        """trace, square: (B, K); defect: (B,)."""
        self.trace = torch.cat([self.trace, trace], 1) if self.trace.ndim else trace
        self.square = torch.cat([self.square, square], 1) if self.square.ndim else square
        self.defect = defect

    @property
    def variance(self) -> Tensor:
        """Of one estimate, (B,); 0 from one estimate alone, which is exact."""
        return self.trace.var(1) if self.trace.shape[1] > 1 else torch.zeros_like(self.defect)


def _visit(
    velocity: Velocity, node: Node, shape: torch.Size, trace: Trace, index: int, probes: range
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.enable_grad():
        y = node.y.view(shape).detach().requires_grad_()
        rate = velocity(node.angle, y)
        found = trace(rate, y, index, probes)
    rate = rate.detach().flatten(1)
    defect = torch.zeros(len(rate)).to(rate)
    if node.rate is not None:
        defect = (score(node.angle, node.y, rate) * (node.rate - rate)).sum(1)
    return found.trace, found.square, defect
