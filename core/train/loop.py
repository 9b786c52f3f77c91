"""Training: one loop for every system.

    for each step: draw the data, the times and the noise of its positions; loss; gradient; AdamW; averages.

Everything drawn is a function of a sample's position in the run, so a run that is killed and resumed, accumulated over
parts, or spread over other processes, is the same run. ``accelerate`` brings mixed precision, DDP and FSDP2: start a
training command with ``accelerate launch`` or ``torchrun`` to use them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core.cache.latents import Process, encoded_once
from core.data.dataset import Dataset, First
from core.data.order import BatchSharding, OrderedDataset, stream
from core.progress import Progress, StoppedError
from core.random import TrainingRNG, network_seed
from core.recipe import Recipe, Training
from core.systems.diffusion import Diffusion
from core.train.logger import RunLogger
from core.train.monitor import HELD_OUT, Monitor, StepResult, due, on_device
from core.train.pace import Pace, stop_signals
from core.train.precision import Precision, autocast
from core.train.run import Run
from core.train.state import State, gathered, newest, prepare, resume, save, time_spent
from core.train.status import DONE, FAILED, STOPPED

if TYPE_CHECKING:
    from accelerate import Accelerator


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
    began, before = time.monotonic(), time_spent(run.folder)
    data, held_out = recipe.data()
    last = newest(run.folder)
    state = prepare(recipe, accelerator, run if last is None else None)
    if last is not None:
        resume(state, recipe, last)
        if _finished(training, state, Pace(training, state, accelerator, run.deadline)):
            return last
    main = accelerator.is_main_process
    with _logger(run, state, training.steps, main) as logger:
        progress = Progress(run.deadline) if logger is None else Progress(run.deadline, show=logger.show)
        data, held_out = encoded(recipe.training, run, state, accelerator, data, held_out, progress)
        ordered = OrderedDataset(data, training.seed, training.augment)
        with stop_signals() as signals, _threads(training.threads):
            pace = Pace(training, state, accelerator, run.deadline, signals)
            monitor = Monitor(recipe, run, held_out, logger, pace)

            def keep() -> Path:
                state.loop_seconds, state.wall_seconds = pace.spent(), before + time.monotonic() - began
                path = save(state, recipe, run.folder / "checkpoints", run.keep, main)
                accelerator.wait_for_everyone()
                if pace.stopped:
                    message = f"stopped at step {state.step}; the same command goes on from {path}"
                    raise StoppedError(message, pace.stopped)
                return path

            for step in steps(training, state, accelerator, ordered, sharding, run.workers, pace):
                monitor.update(state, step)
                state.progress = pace.progress()
                if state.progress >= 1 or monitor.over:
                    break
                if pace.stopped or monitor.lowest or due(run.save_every, state.step):
                    last = keep()
            if state.step > 0:
                monitor.finish(state)
                pace.ask()
                last = keep()
    if last is None:
        why = "the run has no steps" if run.deadline is None else "there was no time left"
        raise ValueError(f"nothing was trained: {why}")
    return last


def _finished(training: Training, state: State, pace: Pace) -> bool:
    """Whether a run that was resumed is over; what is left of the time after a last sheet is not enough to go on."""
    if state.ended > state.step:
        return True
    late = state.progress >= 1 and pace.spent() > 0.95 * pace.whole() > 0
    over = pace.progress() >= 1 or pace.largest([late])[0] > 0
    # Where it was stopped at its last step, which of its models is the best may not be known yet.
    return over and (training.patience is None or state.best is None or state.ended == state.step)


@contextmanager
def _logger(run: Run, state: State, steps: int, main: bool) -> Iterator[RunLogger | None]:
    """The log of a session in the main process, which says at its end how it ended."""
    if not main:
        yield None
        return
    logger, end = RunLogger(run, state.step, steps, state.progress), FAILED
    try:
        yield logger
        end = DONE
    except KeyboardInterrupt:
        end = STOPPED
        raise
    finally:
        logger.close(end)


def encoded(
    training: Training,
    run: Run,
    state: State,
    accelerator: Accelerator,
    data: Dataset,
    held_out: Dataset | None,
    progress: Progress = Progress(),
) -> tuple[Dataset, Dataset | None]:
    """Both data sets as the model's codec describes them, where it is costly to encode them at each step."""
    if not isinstance(state.system, Diffusion) or not state.system.codec.costly:
        return data, held_out
    process = Process(accelerator.process_index, accelerator.num_processes, accelerator.wait_for_everyone)
    codec, device, folder = state.system.codec, state.skipped.device, run.folder / "latents"
    with gathered(state.system):
        data = encoded_once(data, codec, training.augment, device, folder, run.memory, process, progress)
        if held_out is not None and run.validate_every:
            held_out = encoded_once(
                First(held_out, HELD_OUT), codec, None, device, folder, run.memory, process, progress
            )
    return data, held_out


def steps(
    training: Training,
    state: State,
    accelerator: Accelerator,
    data: OrderedDataset,
    sharding: BatchSharding,
    workers: int = 0,
    pace: Pace | None = None,
) -> Iterator[StepResult]:
    """The loop: makes steps until the run is over, and yields what each has to say."""
    pace = pace or Pace(training, state, accelerator)
    batches = stream(data, sharding, state.step, workers, pin=accelerator.device.type == "cuda")
    while (progress := pace.progress()) < 1:
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
                    state.wrapped(on_device(batch, accelerator.device), TrainingRNG(training.seed, positions)).mean
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


def _seed(device: torch.device, seed: int) -> None:
    """Seed what dropout draws from. ``torch.manual_seed`` would do, at ten times the cost where there is no GPU."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


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
