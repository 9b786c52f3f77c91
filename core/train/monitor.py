"""What a run says of itself: the loss, the held-out loss by noise level, and sheets of samples."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.data.dataset import Dataset
from core.progress import DeadlineError, StoppedError
from core.random import SamplingRNG, Stream, TrainingRNG
from core.recipe import Recipe, Training
from core.sample.step import Step
from core.train.early_stopping import Best, has_risen, is_lower
from core.train.logger import RunLogger, peak_memory
from core.train.pace import Pace
from core.train.run import Run
from core.train.state import State, gathered, return_to_best

BINS = 8  # of time, for the held-out loss
HELD_OUT = 512  # examples of which it is the mean
EARLY = 0.05  # the share of a run with a deadline after which each is made once, so that its cost is known
TRIAL = 0.03  # the share of such a run that the first may take
MOST = 0.1  # the share of such a run that all of them may take
LATE = 1.0  # seconds after the deadline that the last may take, where it takes longer than the ones before
FEW = 4  # samples of the smallest sheet, and examples of the least held-out loss


class StepResult(NamedTuple):
    """What a training step has to say, on the device."""

    loss: Tensor  # ()
    gradient_norm: Tensor  # (), before it is clipped


class Measurement:
    """Something that a run does every so many steps, and what it costs."""

    def __init__(self, every: int, count: int, make: Callable[[State, int, Callable[[], None]], None]) -> None:
        """every: 0 is never; count: of samples or examples; make: takes the state, the count and what it has to call
        often, which raises where it must end.
        """
        self.every = every
        self.count = count
        self.make = make
        self.seconds = 0.0  # that it took the last time
        self.step = -1  # at which it was made the last time; -1 if it was not yet


class Monitor:
    """Logs a run, measures its held-out loss and makes its sheets."""

    def __init__(
        self, recipe: Recipe, run: Run, held_out: Dataset | None, logger: RunLogger | None, pace: Pace
    ) -> None:
        """logger: None in all processes but the main one."""
        self.recipe = recipe
        self.run = run
        self.held_out = held_out
        self.logger = logger
        self.pace = pace
        self.steps: list[StepResult] = []
        self.since = time.monotonic()
        self.spent = 0.0  # seconds of all measurements
        self.lowest = False  # whether the held-out loss is the lowest yet at this step, where training may stop early
        self.risen = False  # whether it is above the lowest by more than noise
        self.over = False  # whether that has lasted
        validated = held_out is not None and len(held_out) > 0
        self.held_out_loss = Measurement(run.validate_every if validated else 0, HELD_OUT, self._measure)
        self.sheet = Measurement(run.sample_every, run.sample_count, self._show)
        self.measurements = (self.held_out_loss, self.sheet)

    def update(self, state: State, step: StepResult) -> None:
        """Each in its own rhythm."""
        self.steps.append(step)
        self.lowest = self.risen = False
        self.pace.progress()  # on which all processes agree here, before the main one logs it
        if due(self.run.log_every, state.step):
            self._log(state)
        began = time.monotonic()
        for measurement in self.measurements:
            if measurement.every and self._due(measurement, state.step):
                share = TRIAL if measurement.step < 0 else MOST
                deadline = time.monotonic() + share * self.pace.whole()
                self._make(measurement, state, None if self.pace.deadline is None else deadline)
        self.since += time.monotonic() - began  # the log counts the time of training only

    def finish(self, state: State) -> None:
        """What has not been made at this step, which is the last; with a deadline, what there is time for.

        Where training may stop early and the held-out loss has risen, the state becomes the best one.
        """
        if self.steps:
            self._log(state)
        if self._made(self.held_out_loss, state) and state.best is not None:
            state.ended = state.step
            if self.risen:
                return_to_best(state, self.recipe, self.run.folder / "checkpoints")
                if self.logger is not None:
                    self.logger.write(state.ended, {"kept_step": state.step, "kept_held_out": state.best.loss})
        self._made(self.sheet, state)

    def _made(self, measurement: Measurement, state: State) -> bool:
        """Make what has not been made at this step; whether that was not interrupted."""
        if not measurement.every or measurement.step == state.step:
            return True
        return self._make(measurement, state, None if self.pace.deadline is None else self.pace.deadline + LATE)

    def _due(self, measurement: Measurement, step: int) -> bool:
        """Whether it is time; with a deadline, early once, and then not while they have taken much of it."""
        if self.pace.deadline is None:
            return due(measurement.every, step)
        if measurement.step < 0:
            return due(measurement.every, step) or self.pace.progress() >= EARLY
        if not due(measurement.every, step):
            return False
        much = self.spent + measurement.seconds > MOST * self.pace.spent()
        return not self.pace.largest([much])[0]

    def _make(self, measurement: Measurement, state: State, deadline: float | None) -> bool:
        """Whether it was not interrupted."""
        began, first, finished = time.monotonic(), measurement.step < 0, True
        measurement.step = state.step
        try:
            measurement.make(state, measurement.count, lambda: self.pace.check(deadline))
        except DeadlineError:
            if first and measurement.count > FEW:
                measurement.count, measurement.step = max(FEW, measurement.count // 4), -1  # and tried again
            elif first:
                measurement.every = 0
        except StoppedError:
            finished, measurement.step = False, -1  # the loop keeps a checkpoint
        measurement.seconds = time.monotonic() - began
        self.spent += measurement.seconds
        self.pace.reserve = 1.2 * sum(each.seconds for each in self.measurements if each.every)
        return finished

    def _at_once(self) -> AbstractContextManager[None]:
        """Alone, a process need not wait for the next check; several go on together."""
        return self.pace.signals.at_once(self.pace.accelerator.num_processes == 1)

    def _log(self, state: State) -> None:
        if self.logger is not None:
            losses, norms = (torch.stack(each) for each in zip(*self.steps))
            training = self.recipe.training
            seconds = max(time.monotonic() - self.since, 1e-9) / len(self.steps)
            event = {
                "loss": float(losses.nanmean()),
                "gradient_norm": float(norms.nanmean()),
                "lr": state.adam.param_groups[0]["lr"],
                "samples": state.step * training.batch,
                "samples_per_second": training.batch / seconds,
                "seconds_per_step": seconds,
                "peak_memory_gib": peak_memory() / 2**30,
                "skipped": int(state.skipped),
                "progress": self.pace.progress(),
            }
            self.logger.write(state.step, event)
        self.steps.clear()
        self.since = time.monotonic()

    def _measure(self, state: State, count: int, check: Callable[[], None]) -> None:
        assert self.held_out is not None
        training = self.recipe.training
        found = held_out_loss(state, self.held_out, training, count, check, self._at_once())
        if self.logger is not None:
            by_bin = {f"held_out/{index}": value for index, value in enumerate(found.bins)}
            self.logger.write(state.step, {"held_out": statistics.fmean(found.losses), **by_bin})
        if training.patience is not None:
            self._compare(state, found.losses, training.patience)

    def _compare(self, state: State, losses: Sequence[float], patience: float) -> None:
        """Whether a held-out loss is the lowest, and whether it has been above that for too long."""
        best, progress = state.best, self.pace.progress()
        risen = has_risen(losses, best)
        over = best is not None and risen and progress - best.progress > patience - 1e-9
        flags = [is_lower(losses, best), risen, over] if self.pace.accelerator.is_main_process else [False] * 3
        self.lowest, self.risen, self.over = map(bool, self.pace.largest(flags))
        if self.lowest:
            state.best = Best(state.step, progress, tuple(losses))

    def _show(self, state: State, count: int, check: Callable[[], None]) -> None:
        recipe, seed = self.recipe, self.recipe.training.seed
        request = recipe.modality.request(count=count, batch=count, seed=seed)

        def on_step(step: Step) -> None:
            check()

        with evaluating(state), state.ema.swapped(), gathered(state.system) as system, torch.no_grad():
            model = recipe.model(system)
            with self._at_once():
                x, conditions = request.draw(model, SamplingRNG(seed, request.samples()), on_step)
                data = system.decode(x).cpu()
        if self.logger is None:
            return
        if not bool(data.isfinite().all()):
            self.logger.write(state.step, {"samples_diverged": True})  # no reason to stop: training may still recover
            return
        path = self.run.folder / "samples" / f"step-{state.step:08d}{recipe.modality.preview_suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.pace.signals.at_once():
            objects = recipe.modality.decode(data, conditions)
            recipe.modality.preview(path, objects, {"recipe": recipe.name, "step": state.step, "seed": seed})
        self.logger.write(state.step, {"sheet": str(path.relative_to(self.run.folder))})


class HeldOut(NamedTuple):
    """The averaged model's weighted error on held-out data."""

    losses: list[float]  # of each example
    bins: list[float]  # in BINS equal shares of the training density, clean first


@torch.no_grad()
def held_out_loss(
    state: State,
    data: Dataset,
    training: Training,
    limit: int = HELD_OUT,
    check: Callable[[], None] = lambda: None,
    inside: AbstractContextManager[None] = nullcontext(),
) -> HeldOut:
    """The averaged model's weighted error on at most ``limit`` held-out examples.

    Times and noise are fixed: the same at every step of every run, so that figures can be compared. Where training may
    stop early, few examples are measured ``limit`` times in all, so that less hangs on the noise. ``check`` is called
    before each batch, and may raise; so may ``inside``, anywhere while the average is in place.
    """
    total, count = torch.zeros(BINS, dtype=torch.float64), torch.zeros(BINS, dtype=torch.float64)
    examples = min(limit, len(data))
    times = 1 if training.patience is None else limit // examples
    losses = torch.zeros(examples, dtype=torch.float64)
    with evaluating(state), state.ema.swapped(), inside:
        for first in range(0, times * examples, training.batch):
            check()
            places = range(first, min(first + training.batch, times * examples))
            rows = [place % examples for place in places]
            fixed = TrainingRNG(_HELD_OUT, places)
            quantiles = fixed.low_discrepancy(Stream.TIME)
            each = state.system(on_device(data.get(rows), state.skipped.device), fixed, quantiles).each.double().cpu()
            losses.index_add_(0, torch.tensor(rows), each / times)
            bin_index = (quantiles * BINS).long()
            total.index_add_(0, bin_index, each)
            count.index_add_(0, bin_index, torch.ones_like(each))
    return HeldOut(losses.tolist(), (total / count.clamp(min=1)).tolist())


_HELD_OUT = 2**63  # a seed that no run has


@contextmanager
def evaluating(state: State) -> Iterator[None]:
    """The system without dropout inside the with block."""
    state.system.eval()
    try:
        yield
    finally:
        state.system.train()


def due(every: int, step: int) -> bool:
    """Whether something that happens every so many steps happens at this one; 0 is never."""
    return every > 0 and step % every == 0


def on_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch with its tensors on a device."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }
