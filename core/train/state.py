"""The state of a run: weights, averages, optimizer moments and counters. All of it fits in one checkpoint.

Nothing else is needed to go on: data order, times and noise are functions of the position, which is step x batch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core.aliases import known
from core.random import network_seed
from core.recipe import Recipe, domains, read_header
from core.systems.system import System
from core.train.early_stopping import Best, from_metadata
from core.train.ema import EMA
from core.train.run import Run
from core.weights.checkpoint import CheckpointError, read, read_metadata, remove_drafts, write

if TYPE_CHECKING:
    from accelerate import Accelerator

# model/NAME, ema/PROFILE/NAME or optimizer/NAME/KIND, where NAME is the system's own and may hold a "/", as in a LoRA.
NAMED = re.compile(r"(?P<before>(?P<adam>optimizer/)|model/|ema/[^/]+/)(?P<own>.+?)(?P<after>(?(adam)/[^/]+))")


@dataclass
class State:
    """What changes while training."""

    wrapped: Any  # the system as ``accelerate`` prepared it, to be called
    system: System  # the same inside its distributed wrapper
    optimizer: Any  # ``accelerate``'s wrapper of the optimizer
    adam: Any  # the AdamW inside
    ema: EMA
    parameters: list[torch.nn.Parameter]  # those that are trained
    step: int = 0  # steps done
    seconds: float = 0.0  # of training spent, on the clock of the recipe's training
    loop_seconds: float = 0.0  # of wall clock since the first step, over all sessions of the run
    wall_seconds: float = 0.0  # of wall clock that the run took, with all that came before the first step
    progress: float = 0.0  # the share of the run that is over
    best: Best | None = None  # the lowest held-out loss yet, where training may stop early
    ended: int = 0  # the step at which such a run ended; above ``step`` where its model is an earlier one
    skipped: Tensor = field(default_factory=lambda: torch.zeros(()))  # steps whose gradient was not finite


def prepare(recipe: Recipe, accelerator: Accelerator, begin: Run | None = None) -> State:
    """Build system, optimizer and averages on the accelerator's device, distributed as it says.

    ``begin`` is a run that begins now, so that weights from elsewhere have to be fetched.
    """
    from accelerate.utils import extract_model_from_parallel

    training = recipe.training
    torch.manual_seed(network_seed(training.seed, 0))
    system = recipe.system()
    if recipe.initialize is not None and begin is not None:
        recipe.initialize(system, begin)
    system = system.to(accelerator.device).train()
    adam = torch.optim.AdamW(
        [parameter for parameter in system.parameters() if parameter.requires_grad],
        lr=training.lr,
        betas=training.betas,
        eps=training.epsilon,
        weight_decay=training.weight_decay,
        fused=True,
    )
    wrapped, optimizer = accelerator.prepare(system, adam)
    system = extract_model_from_parallel(wrapped)
    parameters = [parameter for parameter in system.parameters() if parameter.requires_grad]
    for parameter in parameters:
        adam.state[parameter] = {
            # What AdamW makes at its first step, made now, so that a state always has the same names.
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format).detach(),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format).detach(),
        }
    skipped = torch.zeros((), device=accelerator.device)
    return State(wrapped, system, optimizer, adam, EMA(system, training.ema), parameters, skipped=skipped)


def save(state: State, recipe: Recipe, folder: Path, keep: int | None, main: bool) -> Path:
    """Write the state atomically as the newest checkpoint of ``folder``; of those before, delete all but ``keep`` - 1.

    The best stays too; where a run ended with it as its model, those after it go.
    Every process calls it, because sharded tensors are gathered; the main one writes.
    """
    path = checkpoint_path(folder, state.step)
    tensors = {name: _whole(value) for name, value in _tensors(state)}
    metadata = {
        "recipe": recipe.name,
        "arguments": dict(recipe.arguments),
        "averages": {name: repr(profile) for name, profile in recipe.training.ema.items()},
        "step": state.step,
        "samples": state.step * recipe.training.batch,
        "batch": recipe.training.batch,
        "seed": recipe.training.seed,
        "seconds": state.seconds,
        "loop_seconds": state.loop_seconds,
        "wall_seconds": state.wall_seconds,
        "progress": state.progress,
        "source": recipe.source,
    }
    if state.best is not None:
        metadata |= {"best": state.best.metadata(), "ended": state.ended}
    if main:
        write(path, tensors, metadata)
        every = sorted(folder.glob("step-*.safetensors"))
        best = None if state.best is None else checkpoint_path(folder, state.best.step)
        later = every[every.index(path) + 1 :] if state.ended > state.step else []
        earlier = every[: len(every) - len(later)][: -keep if keep else 0]
        for old in [each for each in [*earlier, *later] if each != best]:
            old.unlink()
    return path


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies in a folder of checkpoints."""
    return folder / f"step-{step:08d}.safetensors"


def return_to_best(state: State, recipe: Recipe, folder: Path) -> None:
    """Make the best state of a run that is over its last; ``folder`` has its checkpoint."""
    assert state.best is not None
    ended, seconds = state.step, state.seconds
    resume(state, recipe, checkpoint_path(folder, state.best.step))
    state.ended, state.seconds, state.progress = ended, seconds, 1.0


def newest(folder: Path) -> Path | None:
    """The newest checkpoint of a run's folder, or None."""
    found = sorted((folder / "checkpoints").glob("step-*.safetensors"))
    return found[-1] if found else None


def time_spent(folder: Path) -> float:
    """The seconds of wall clock that a run has taken, its stages included, as its newest checkpoint says."""
    last = newest(folder)
    if last is not None:
        return float(read_metadata(last).get("wall_seconds", 0.0))
    return sum(time_spent(stage.parent) for stage in folder.glob("*/checkpoints"))


def resume(state: State, recipe: Recipe, path: Path) -> None:
    """Go on from a checkpoint. Raises CheckpointError when it is of another run or another model."""
    metadata = read_header(path)
    ours = {
        "recipe": recipe.name,
        "arguments": dict(recipe.arguments),
        "batch": recipe.training.batch,
        "seed": recipe.training.seed,
        "source": recipe.source,
    }
    for name, value in ours.items():
        if metadata.get(name) != value:
            raise CheckpointError(
                f"{path} is of a run with {name} {metadata.get(name)!r}, not {value!r}: "
                "repeat its settings to go on with it, or choose another folder"
            )
    stored, own = _renamed(read(path), state.system, metadata["format"]), dict(_tensors(state))
    if own.keys() != stored.keys():
        name = min(own.keys() ^ stored.keys())
        raise CheckpointError(
            f"{path} does not fit the model: {len(own.keys() ^ stored.keys())} names differ, as {name}"
        )
    with torch.no_grad():
        for name, value in own.items():
            if value.shape != stored[name].shape:
                raise CheckpointError(f"{path} does not fit the model: {name} has another shape")
            value.copy_(_alike(value, stored[name]))
    state.ema.step = int(stored["ema/step"])
    state.step = int(metadata["step"])
    state.seconds = float(metadata["seconds"])
    # Checkpoints of before have no times of the wall clock.
    state.loop_seconds, state.wall_seconds, state.progress = (
        float(metadata.get(name, 0.0)) for name in ("loop_seconds", "wall_seconds", "progress")
    )
    state.best, state.ended = from_metadata(metadata.get("best")), int(metadata.get("ended", 0))
    remove_drafts(path.parent)


def _tensors(state: State) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the state with its name in a checkpoint."""
    yield from ((f"model/{name}", value) for name, value in state.system.state_dict(keep_vars=True).items())
    yield from ((f"ema/{name}", value) for name, value in state.ema.state_dict().items())
    yield "skipped", state.skipped
    for name, parameter in state.system.named_parameters():
        if parameter.requires_grad:
            yield from ((f"optimizer/{name}/{kind}", value) for kind, value in state.adam.state[parameter].items())


def _renamed(stored: Mapping[str, Tensor], system: System, written: int) -> dict[str, Tensor]:
    """The tensors of a checkpoint of format ``written`` by their names of today."""
    aliases, found = known(domains()), {}
    for name, value in stored.items():
        match = NAMED.fullmatch(name)
        if match is not None:
            name = match["before"] + aliases.tensor(system, match["own"], written) + match["after"]
        found[name] = value
    return found


@contextmanager
def gathered(system: System) -> Iterator[System]:
    """The system with whole weights inside the with block, for calls that are not its forward, such as sampling."""
    # Sharded modules gather their weights in their own forward only.
    sharded: list[Any] = [module for module in system.modules() if hasattr(module, "unshard")]
    for module in sharded:
        module.unshard()
    try:
        yield system
    finally:
        for module in sharded:
            module.reshard()


def _whole(value: Any) -> Tensor:
    """A tensor on the host, gathered if it is spread over processes."""
    full: Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return full.detach().cpu()


def _alike(value: Any, full: Tensor) -> Tensor:
    """A whole tensor on the device of ``value``, spread over processes as that is."""
    if not hasattr(value, "full_tensor"):
        return full.to(value.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(full.to(value.device), value.device_mesh, value.placements)
