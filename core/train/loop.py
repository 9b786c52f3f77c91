"""Training: one loop for every system.

    for each step: draw the data, the times and the noise of its positions; loss; gradient; AdamW; averages.

Everything drawn is a function of a sample's position in the run, so a run that is killed and resumed, accumulated over
parts, or spread over other processes, is the same run. ``accelerate`` brings mixed precision, DDP and FSDP2: start a
training command with ``accelerate launch`` or ``torchrun`` to use them.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from core.cache.latents import Process, encoded_once
from core.data.dataset import Dataset, First
from core.data.order import BatchSharding, OrderedDataset, stream
from core.random import SamplingRNG, Stream, TrainingRNG, network_seed
from core.recipe import Recipe, Training
from core.systems.diffusion import Diffusion
from core.train.logger import Figures, RunLogger, peak_memory
from core.train.precision import Precision, autocast
from core.train.state import State, gathered, newest, prepare, resume, save

if TYPE_CHECKING:
    from accelerate import Accelerator

BINS = 8  # of time, for the held-out loss
HELD_OUT = 512  # examples of which it is the mean


class StoppedError(KeyboardInterrupt):
    """The run was asked to stop (Ctrl-C or SIGTERM) and has kept a checkpoint."""


@dataclass(frozen=True)
class Run:
    """Where a run lies and how often it speaks, in steps (0 is never); nothing here changes what is learned."""

    folder: Path
    workers: int = 0  # processes that read data ahead
    log_every: int = 50
    save_every: int = 1000
    validate_every: int = 1000
    sample_every: int = 1000
    sample_count: int = 64  # samples in a sheet
    keep: int | None = 2  # checkpoints; None keeps all, as post-hoc averages need
    tensorboard: bool = True
    cpu: bool = False
    memory: int = 2**32  # bytes of latents that may lie in memory; more lie in the folder


def train(recipe: Recipe, run: Run) -> Path:
    """Train a recipe to its end and return the last checkpoint; goes on with the run that ``run.folder`` holds.

    Raises StoppedError when interrupted, and ValueError, in one sentence, for bad input.
    """
    # Imported here because it takes seconds, which `import core` must not.
    from accelerate import Accelerator

    training = recipe.training
    # accelerate has one precision for all of a process, where an autoencoder may be trained before its model: it is
    # for fp16 only, which needs its scaler.
    # Without a GPU it finds its peers only where cpu is set.
    cpu = run.cpu or not torch.accelerator.is_available()
    accelerator = Accelerator(mixed_precision="fp16" if training.precision is Precision.FP16 else "no", cpu=cpu)
    sharding = BatchSharding(training.batch, accelerator.num_processes, accelerator.process_index, training.parts)
    data, held_out = recipe.data()
    last = newest(run.folder)
    state = prepare(recipe, accelerator, run.folder if last is None else None)
    if last is not None:
        resume(state, recipe, last)
    data, held_out = encoded(recipe.training, run, state, accelerator, data, held_out)
    ordered = OrderedDataset(data, training.seed, training.augment)
    main = accelerator.is_main_process
    logger = RunLogger(run.folder, state.step, training.steps, run.tensorboard) if main else None
    monitor = Monitor(recipe, run, held_out, logger)
    with _stop_signals() as stop, _threads(training.threads):
        for step in steps(training, state, accelerator, ordered, sharding, run.workers):
            done = _progress(training, state, accelerator) >= 1
            monitor.update(state, step, done)
            stopped = not done and _agreed(stop.is_set(), state.step, accelerator)
            if done or stopped or _due(run.save_every, state.step):
                last = save(state, recipe, run.folder / "checkpoints", run.keep, main)
                accelerator.wait_for_everyone()
            if stopped:
                raise StoppedError(f"stopped at step {state.step}; the same command goes on from {last}")
    if logger is not None:
        logger.close()
    if last is None:
        raise ValueError("nothing was trained: the run has no steps")
    return last


def encoded(
    training: Training, run: Run, state: State, accelerator: Accelerator, data: Dataset, held_out: Dataset | None
) -> tuple[Dataset, Dataset | None]:
    """Both data sets as the model's codec describes them, where it is costly to encode them at each step."""
    if not isinstance(state.system, Diffusion) or not state.system.codec.costly:
        return data, held_out
    process = Process(accelerator.process_index, accelerator.num_processes, accelerator.wait_for_everyone)
    codec, device, folder = state.system.codec, state.skipped.device, run.folder / "latents"
    with gathered(state.system):
        data = encoded_once(data, codec, training.augment, device, folder, run.memory, process)
        if held_out is not None and run.validate_every:
            held_out = encoded_once(First(held_out, HELD_OUT), codec, None, device, folder, run.memory, process)
    return data, held_out


class StepResult(NamedTuple):
    """What a training step has to say, on the device."""

    loss: Tensor  # ()
    gradient_norm: Tensor  # (), before it is clipped


def steps(
    training: Training,
    state: State,
    accelerator: Accelerator,
    data: OrderedDataset,
    sharding: BatchSharding,
    workers: int = 0,
) -> Iterator[StepResult]:
    """The loop: makes steps until the run is over, and yields what each has to say."""
    batches = stream(data, sharding, state.step, workers, pin=accelerator.device.type == "cuda")
    while (progress := _progress(training, state, accelerator)) < 1:
        began = training.clock()
        for group in state.adam.param_groups:
            group["lr"] = training.rate(state.step, progress)
        total = torch.zeros((), device=accelerator.device)
        for part, (positions, batch) in enumerate(zip(sharding.positions(state.step), next(batches))):
            _seed(
                accelerator.device, network_seed(training.seed, state.step * sharding.parts + part + 1, sharding.rank)
            )
            last = part == sharding.parts - 1
            # Gradients are reduced over processes once a step, with the last part.
            with nullcontext() if last else accelerator.no_sync(state.wrapped), _casting(training, accelerator):
                loss = (
                    state.wrapped(_on(batch, accelerator.device), TrainingRNG(training.seed, positions)).mean
                    / sharding.parts
                )
            accelerator.backward(loss)
            total += loss.detach()
        norm = update(state, accelerator, training.clip)
        state.step += 1
        state.seconds += training.clock() - began
        yield StepResult(total, norm)


def update(state: State, accelerator: Accelerator, clip: float | None) -> Tensor:
    """Clip, step and average; the norm of the gradient.

    A gradient that is not finite is skipped and counted, without waiting for the device.
    """
    norm: Any = accelerator.clip_grad_norm_(state.parameters, clip or math.inf)
    sharded = hasattr(norm, "full_tensor")
    norm = norm.full_tensor() if sharded else norm
    bad = (~norm.isfinite()).float()
    state.skipped += bad
    if sharded and bool(bad):
        # The fused kernel takes no flag for tensors spread over processes.
        state.optimizer.zero_grad()
        return norm.detach()
    if accelerator.scaler is None and not sharded:
        # Where the flag is set, the fused kernel leaves weights, moments and its step count alone.
        state.adam.grad_scale, state.adam.found_inf = None, bad
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.ema.update()
    return norm.detach()


class Monitor:
    """What a run says of itself: the loss, the held-out loss by noise level, and sheets of samples."""

    def __init__(self, recipe: Recipe, run: Run, held_out: Dataset | None, logger: RunLogger | None) -> None:
        """logger: None in all processes but the main one."""
        self.recipe = recipe
        self.run = run
        self.held_out = held_out
        self.logger = logger
        self.steps: list[StepResult] = []
        self.since = time.monotonic()

    def update(self, state: State, step: StepResult, done: bool) -> None:
        """Each in its own rhythm, and all of them at the end."""
        self.steps.append(step)
        if done or _due(self.run.log_every, state.step):
            self._log(state)
        began = time.monotonic()
        self._measure(state, done)
        self.since += time.monotonic() - began  # the log counts the time of training only

    def _measure(self, state: State, done: bool) -> None:
        if (
            self.held_out is not None
            and self.run.validate_every
            and (done or _due(self.run.validate_every, state.step))
        ):
            bins = held_out_loss(state, self.held_out, self.recipe.training)
            if self.logger is not None:
                by_bin = {f"held_out/{index}": value for index, value in enumerate(bins)}
                self.logger.write(state.step, {"held_out": sum(bins) / len(bins), **by_bin})
        if state.system.makes_samples and self.run.sample_every and (done or _due(self.run.sample_every, state.step)):
            self._show(state)

    def _log(self, state: State) -> None:
        if self.logger is not None:
            losses, norms = (torch.stack(each) for each in zip(*self.steps))
            training = self.recipe.training
            seconds = max(time.monotonic() - self.since, 1e-9) / len(self.steps)
            figures = Figures(
                float(losses.nanmean()), float(norms.nanmean()), training.batch / seconds, seconds, peak_memory()
            )
            event = {
                "loss": figures.loss,
                "gradient_norm": figures.gradient_norm,
                "lr": state.adam.param_groups[0]["lr"],
                "samples": state.step * training.batch,
                "samples_per_second": figures.samples_per_second,
                "seconds_per_step": figures.seconds_per_step,
                "peak_memory_gib": figures.peak_memory / 2**30,
                "skipped": int(state.skipped),
            }
            self.logger.write(state.step, event)
            self.logger.progress(state.step, figures)
        self.steps.clear()
        self.since = time.monotonic()

    def _show(self, state: State) -> None:
        recipe, seed = self.recipe, self.recipe.training.seed
        request = recipe.modality.request(count=self.run.sample_count, batch=self.run.sample_count, seed=seed)
        state.system.eval()
        with state.ema.swapped(), gathered(state.system) as system:
            model = recipe.model(system)
            with torch.no_grad():
                x, conditions = request.draw(model, SamplingRNG(seed, request.samples()))
                data = system.decode(x).cpu()
        state.system.train()
        if self.logger is None:
            return
        if not bool(data.isfinite().all()):
            self.logger.write(state.step, {"samples_diverged": True})  # no reason to stop: training may still recover
        else:
            objects = recipe.modality.decode(data, conditions)
            path = self.run.folder / "samples" / f"step-{state.step:08d}{recipe.modality.preview_suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            recipe.modality.preview(path, objects, {"recipe": recipe.name, "step": state.step, "seed": seed})


@torch.no_grad()
def held_out_loss(state: State, data: Dataset, training: Training, limit: int = HELD_OUT) -> list[float]:
    """The averaged model's weighted error on held-out data in BINS equal shares of the training density, clean first.

    Times and noise are fixed: the same at every step of every run, so that figures can be compared.
    """
    total, count = torch.zeros(BINS, dtype=torch.float64), torch.zeros(BINS, dtype=torch.float64)
    state.system.eval()
    with state.ema.swapped():
        for first in range(0, min(limit, len(data)), training.batch):
            rows = range(first, min(first + training.batch, limit, len(data)))
            fixed = TrainingRNG(_HELD_OUT, rows)
            quantiles = fixed.low_discrepancy(Stream.TIME)
            each = state.system(_on(data.get(rows), state.skipped.device), fixed, quantiles).each.double().cpu()
            bin_index = (quantiles * BINS).long()
            total.index_add_(0, bin_index, each)
            count.index_add_(0, bin_index, torch.ones_like(each))
    state.system.train()
    means: list[float] = (total / count.clamp(min=1)).tolist()
    return means


_HELD_OUT = 2**63  # a seed that no run has


def _progress(training: Training, state: State, accelerator: Accelerator) -> float:
    """The share of the run that is over: of its steps or, if that is more, of its seconds."""
    progress = state.step / training.steps
    if training.seconds is None:
        return progress
    spent = max(progress, state.seconds / training.seconds)
    if accelerator.num_processes == 1:
        return spent
    from accelerate.utils import broadcast

    # Every process must stop at the same step, with the same learning rate.
    return float(broadcast(torch.tensor(spent, dtype=torch.float64, device=accelerator.device)))


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _seed(device: torch.device, seed: int) -> None:
    """Seed what dropout draws from. ``torch.manual_seed`` would do, at ten times the cost where there is no GPU."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def _on(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def _agreed(stop: bool, step: int, accelerator: Accelerator) -> bool:
    """Whether any process was asked to stop; several processes only talk about it every tenth step."""
    if accelerator.num_processes == 1:
        return stop
    if step % 10:
        return False
    flag = torch.tensor(float(stop), device=accelerator.device)
    return float(accelerator.reduce(flag, "sum")) > 0


def _casting(training: Training, accelerator: Accelerator) -> AbstractContextManager[Any]:
    context: AbstractContextManager[Any] = accelerator.autocast()
    return context if training.precision is Precision.FP16 else autocast(training.precision, accelerator.device)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """So many threads for each operation inside the with block."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set inside the with block; a second Ctrl-C interrupts at once."""
    event = threading.Event()
    previous: dict[int, Any] = {}

    def ask(number: int, frame: object) -> None:
        event.set()
        signal.signal(number, previous[number])

    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
