"""Guidance distillation: the target in closed form, what is trained and saved, and a student that gets there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from toy.modality import PointModality

from core.cond import Cond
from core.condition import Conditioner
from core.data.order import BatchSharding, OrderedDataset
from core.denoiser import Denoiser, DenoiserLike
from core.distill import GuidanceDistillation, Teacher, embed_guidance, load_partial
from core.grid import trailing
from core.guidance import Guided
from core.objective import flow
from core.prediction import X0, Epsilon, FlowVelocity, Prediction
from core.prompts import Classes
from core.random import TrainingRNG
from core.recipe import Recipe, Sampling, Training
from core.sample.euler import euler
from core.schedule import VP, Flow, Schedule
from core.systems.diffusion import Diffusion
from core.train.ema import Constant
from core.train.loop import steps
from core.train.state import State, prepare, resume, save
from core.verify.mixture import Exact, Mixture
from core.weights.checkpoint import CheckpointError, read

MIXTURE = Mixture(torch.tensor([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]]), torch.full((3, 2), 0.04))
EVERY = Cond(vector=torch.ones(1, 3, dtype=torch.float64))


class Labels(Conditioner):
    """One component of the mixture, or any of them."""

    def forward(self, batch: object) -> Cond:
        assert isinstance(batch, dict)
        return Cond(vector=F.one_hot(batch["label"], 3).float())

    def null(self, count: int) -> Cond:
        return Cond(vector=torch.ones(count, 3))


class Student(nn.Module):
    """An MLP with a guidance embedding; ``guided=False`` is a teacher's, which has none."""

    def __init__(self, width: int = 64, guided: bool = True) -> None:
        super().__init__()
        self.enter = nn.Linear(2 + 3 + 3, width)
        self.guidance = nn.Linear(1, width) if guided else None
        self.middle, self.leave = nn.Linear(width, width), nn.Linear(width, 2)
        if self.guidance is not None:
            nn.init.zeros_(self.guidance.weight)
            nn.init.zeros_(self.guidance.bias)

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        assert cond.vector is not None
        place = torch.stack([time, (3 * time).sin(), (3 * time).cos()], dim=1).to(x)
        hidden = self.enter(torch.cat([x, cond.vector.to(x), place], dim=1))
        if self.guidance is not None:
            assert cond.guidance is not None
            hidden = hidden + self.guidance(cond.guidance[:, None].to(x))
        else:
            assert cond.guidance is None
        out: Tensor = self.leave(F.silu(self.middle(F.silu(hidden))))
        return out


class Points:
    """Points of the mixture with the component each comes from."""

    def __init__(self, count: int = 512) -> None:
        self.label = torch.arange(count) % 3
        self.x = (MIXTURE.means[self.label] + 0.2 * torch.randn(count, 2)).float()

    def __len__(self) -> int:
        return len(self.x)

    def get(self, indices: Sequence[int]) -> dict[str, Tensor]:
        rows = torch.as_tensor(indices)
        return {"x": self.x[rows], "label": self.label[rows]}


def exact() -> DenoiserLike:
    return Exact(MIXTURE, Flow())


def imitation(fetch: Callable[[], DenoiserLike], scales: tuple[float, float] = (1.0, 4.0)) -> GuidanceDistillation:
    return GuidanceDistillation(Teacher(fetch), Labels().null, scales, weight=flow)


def recipe(fetch: Callable[[], DenoiserLike], batch: int = 16, count: int = 40, width: int = 64) -> Recipe:
    def system() -> Diffusion:
        return Diffusion(Denoiser(Student(width), Flow(), FlowVelocity()), Labels(), objective=imitation(fetch))

    def parts() -> tuple[Points, None]:
        return Points(), None

    training = Training(batch, count, 5e-3, decay=lambda share: 1 - share, ema={"ema": Constant(0.99)})
    sampling = Sampling(euler, trailing, 8, guidance=3.0, guide=embed_guidance)
    return Recipe(system, (2,), sampling, training, parts, PointModality(), Classes(3))


def started(made: Recipe, folder: Path | None = None) -> State:
    return prepare(made, Accelerator(cpu=True), folder)


def walk(made: Recipe, state: State, count: int) -> None:
    shares = BatchSharding(made.training.batch)
    found = steps(made.training, state, Accelerator(cpu=True), OrderedDataset(made.data()[0], 0), shares)
    for _ in range(count):
        next(found)


def guided(x: Tensor, t: Tensor, cond: Cond, scale: Tensor) -> Tensor:
    """Classifier-free guidance of the exact denoiser, written out."""
    alpha, sigma = Flow()(t.double())
    wanted = MIXTURE.clean(x, alpha, sigma, cond.vector)
    unwanted = MIXTURE.clean(x, alpha, sigma)
    return unwanted + scale[:, None].to(x) * (wanted - unwanted)


@dataclass(frozen=True)
class Oracle:
    """A network that says, in some prediction's words, what guidance makes of the exact denoiser."""

    prediction: Prediction
    shift: float = 0.0

    def __call__(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        assert cond.guidance is not None
        alpha, sigma = (value[:, None] for value in Flow()(time.double()))
        clean = guided(x, time, cond, cond.guidance) + self.shift
        if isinstance(self.prediction, X0):
            return clean
        return self.prediction.target(clean, (x - alpha * clean) / sigma, alpha, sigma)


class Speaking(nn.Module):
    """A function as a network."""

    def __init__(self, say: Callable[[Tensor, Tensor, Cond], Tensor]) -> None:
        super().__init__()
        self.say = say

    def forward(self, x: Tensor, time: Tensor, cond: Cond = Cond()) -> Tensor:
        return self.say(x, time, cond)


@pytest.mark.parametrize("prediction", [X0(), Epsilon(), FlowVelocity()])
def test_the_loss_is_the_distance_to_the_guided_teacher(prediction: Prediction) -> None:
    """Nothing for a student that says just that; 0.01 times the weight for one whose x0 is 0.1 off."""
    x, cond = torch.randn(64, 2).double(), Labels()({"label": torch.arange(64) % 3})
    for shift, expected in ((0.0, 0.0), (0.1, 0.01)):
        student = Denoiser(Speaking(Oracle(prediction, shift)), Flow(), prediction)
        losses = GuidanceDistillation(Teacher(exact), Labels().null)(student, x, cond, TrainingRNG(0, range(64)))
        torch.testing.assert_close(losses.each, torch.full((64,), expected, dtype=torch.float64), rtol=1e-4, atol=1e-9)
        assert torch.equal(losses.mean, losses.each.mean())


@pytest.mark.parametrize("schedule", [Flow(), VP()])
def test_a_student_of_guidance_1_begins_without_a_loss(schedule: Schedule) -> None:
    """Its teacher's weights, and a guidance embedding of zero; at another scale, there is much to learn."""
    teacher = Denoiser(Student(guided=False), schedule, Epsilon())
    student = Denoiser(Student(), schedule, Epsilon())
    load_partial(student, teacher.state_dict())
    x, cond = torch.randn(32, 2), Labels()({"label": torch.arange(32) % 3})
    at_one = GuidanceDistillation(Teacher(lambda: teacher), Labels().null, (1.0, 1.0))(
        student, x, cond, TrainingRNG(0, range(32))
    )
    assert at_one.mean < 1e-12
    beyond = GuidanceDistillation(Teacher(lambda: teacher), Labels().null, (3.0, 3.0))(
        student, x, cond, TrainingRNG(0, range(32))
    )
    assert beyond.mean > 1e-3


def test_a_teacher_on_another_path_is_read_on_the_students() -> None:
    x, cond = torch.randn(32, 2).double(), Labels()({"label": torch.arange(32) % 3})
    student = Denoiser(Speaking(Oracle(X0())), Flow(), X0())
    other = GuidanceDistillation(Teacher(lambda: Exact(MIXTURE, VP())), Labels().null)
    assert other(student, x, cond, TrainingRNG(0, range(32))).mean < 1e-8


def test_guidance_is_drawn_for_each_sample_of_the_run() -> None:
    made = imitation(exact, (2.0, 5.0))
    whole = made.guidance_scales(TrainingRNG(3, range(4000)))
    assert torch.equal(whole[100:200], made.guidance_scales(TrainingRNG(3, range(100, 200))))
    assert 2.0 <= whole.min() < 2.01 and 4.99 < whole.max() < 5.0 and abs(float(whole.mean()) - 3.5) < 0.05
    places = made.quantiles(TrainingRNG(3, range(4000)))
    assert abs(float(torch.corrcoef(torch.stack([whole, places]))[0, 1])) < 0.05


def test_no_gradient_reaches_the_teacher_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    teacher = Denoiser(Student(guided=False), Flow(), FlowVelocity())
    made = recipe(lambda: teacher)
    state = started(made)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    walk(made, state, 3)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    own = {f"denoiser.net.{name}" for name in Student().state_dict()}
    assert set(state.system.state_dict()) == own
    stored = read(save(state, made, tmp_path, None, True))
    assert {name.removeprefix("ema/ema/") for name in stored if name.startswith("ema/ema/")} == own
    assert {name.removeprefix("model/") for name in stored if name.startswith("model/")} == own


def test_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    made = recipe(exact)
    whole = started(made)
    walk(made, whole, 8)
    half = started(made)
    walk(made, half, 4)
    path = save(half, made, tmp_path, None, True)
    torch.manual_seed(99)
    again = started(made)
    resume(again, made, path)
    walk(made, again, 4)
    for name, value in whole.system.state_dict().items():
        assert torch.equal(again.system.state_dict()[name], value), name


def test_a_finished_student_needs_no_teacher() -> None:
    def gone() -> DenoiserLike:
        raise CheckpointError("the teacher is gone")

    made = recipe(gone)
    system = made.system()
    assert isinstance(system, Diffusion)
    assert made.model(system).draw(0, range(6)).shape == (6, 2)
    with pytest.raises(ValueError, match="gone"):
        system.loss(Points().get(range(4)), TrainingRNG(0, range(4)))


def test_a_student_converges_to_its_guided_teacher() -> None:
    """Over all guidance, times and classes, its distance to the teacher's is a small part of what guidance changes."""
    made = recipe(exact, batch=128, count=700, width=96)
    state = started(made)
    walk(made, state, 700)
    system = state.system
    assert isinstance(system, Diffusion)
    data = Points(512)
    cond = Labels()({"label": data.label})
    missed = changed = 0.0
    with state.ema.swapped(), torch.no_grad():
        for t in (0.25, 0.5, 0.75, 0.95):
            x = (1 - t) * data.x + t * torch.randn_like(data.x)
            plain = guided(x, torch.tensor(t), cond, torch.ones(512))
            for scale in (1.5, 2.5, 3.5):
                wanted = Guided(exact(), EVERY, scale).bind(dataclasses.replace(cond, vector=cond.vector.double()))
                output = system.guided(scale, embed_guidance).bind(cond)(x, torch.tensor(t))
                missed += float((output - wanted(x, torch.tensor(t))).square().mean())
                changed += float((plain - wanted(x, torch.tensor(t))).square().mean())
    assert missed < 0.05 * changed, f"{missed / changed:.3f} of what guidance changes is missed"


def test_plain_guidance_1_leaves_the_denoiser_and_a_student_gets_it() -> None:
    system = recipe(exact).system()
    assert isinstance(system, Diffusion)
    assert system.guided(1.0) is system.denoiser
    scales_seen: list[Tensor | None] = []
    system.denoiser.net.register_forward_pre_hook(lambda net, given: scales_seen.append(given[2].guidance))
    system.guided(1.0, embed_guidance).bind(Labels()({"label": torch.tensor([0, 1])}))(
        torch.randn(2, 2), torch.tensor(0.5)
    )
    assert scales_seen[0] is not None and torch.equal(scales_seen[0], torch.ones(2))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no range"):
        imitation(exact, (4.0, 1.0))
    with pytest.raises(ValueError, match="no range"):
        imitation(exact, (1.0, float("nan")))
    with pytest.raises(ValueError, match="same sizes"):
        load_partial(Student(32), Student(64, guided=False).state_dict())
    with pytest.raises(ValueError, match="nothing to imitate"):
        embed_guidance(Denoiser(Student(), Flow(), X0()), Cond(), 2.0).bind(Cond())
