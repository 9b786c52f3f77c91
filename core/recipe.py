"""Recipe: a system with its data and its defaults. A recipe is a function; its signature is its schema.

    def tiny(width: int = 32) -> Recipe: ...

Its dotted name and its arguments are all that a checkpoint needs to open itself. Only functions that return a
``Recipe`` in a ``recipes`` module of this repository's packages can be named so: a file cannot run anything else.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from core.aliases import known
from core.data.dataset import Augment, Dataset
from core.model import Modality, Model, Prepare
from core.prompts import Prompts, Unconditional
from core.sizes import Sizes
from core.systems.sampling import Sampling
from core.systems.system import System
from core.train.ema import Constant, Power, Profile
from core.train.precision import Precision
from core.train.run import Run
from core.weights.checkpoint import FORMAT, CheckpointError, fill, read, read_metadata

S = TypeVar("S", bound=System)
Initialize = Callable[[System, Run], None]  # a system with new weights, the run that begins -> weights from elsewhere
Decay = Callable[[float], float]  # the share [0, 1] of the run that is over -> a factor of the learning rate


def domains() -> list[str]:
    """The packages beside core that have recipes, by name."""
    return sorted(path.parents[1].name for path in Path(__file__).parents[1].glob("*/recipes/__init__.py"))


def constant(progress: float) -> float:
    """A learning rate that stays."""
    return 1.0


def linear(progress: float) -> float:
    """A learning rate that falls in a straight line to 0."""
    return 1 - progress


def cosine(progress: float) -> float:
    """A learning rate that falls along half a cosine to 0 (1608.03983, equation 5)."""
    return (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class InverseRoot:
    """A learning rate that stays until a share ``start`` of the run, then falls with the square root (2312.02696)."""

    start: float = 0.1

    def __call__(self, progress: float) -> float:
        return max(progress / self.start, 1.0) ** -0.5


@dataclass(frozen=True)
class Cooldown:
    """A learning rate that stays until a share ``start`` of the run, then falls linearly to 0 (2405.18392)."""

    start: float = 0.8

    def __call__(self, progress: float) -> float:
        return min(1.0, (1 - progress) / (1 - self.start))


@dataclass(frozen=True)
class Training:
    """How a model is trained. Everything here changes the result; what only changes the logs is in ``train.Run``."""

    batch: int = 64  # samples a step, over all processes
    steps: int = 100_000
    lr: float = 1e-4
    warmup: int = 0  # samples over which the learning rate rises linearly from 0
    decay: Decay = constant
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip: float | None = 1.0  # the largest norm of the gradient
    parts: int = 1  # accumulate the gradient over so many equal parts of the batch
    precision: Precision = Precision.NO
    threads: int | None = None  # of the processor; tiny networks are fastest on one. None leaves it to torch
    processes: int = 1  # that share each batch on a machine with as many cores, unless the command says otherwise
    seconds: float | None = None  # end after so many seconds of training, if that is before ``steps``
    clock: Callable[[], float] = time.process_time  # which seconds: of the processor, or ``time.monotonic``
    ema: Mapping[str, Profile] = field(default_factory=lambda: {"ema": Constant(0.9999)})  # the first is sampled
    augment: Augment | None = None
    patience: float | None = None  # the share of the run after which it ends where the held-out loss has risen
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.steps < 1 or self.parts < 1:
            raise ValueError("training needs a batch, a number of steps and a number of parts of at least 1")
        if not self.lr > 0:
            raise ValueError(f"the learning rate must be positive, not {self.lr}")
        if self.patience is not None and not 0 < self.patience <= 1:
            raise ValueError(f"patience is a share of the run, above 0 and at most 1, not {self.patience}")

    def rate(self, step: int, progress: float) -> float:
        """The learning rate of step 0, 1, ... when a share ``progress`` of the run is over."""
        risen = min(1.0, (step + 1) * self.batch / self.warmup) if self.warmup else 1.0
        return self.lr * risen * self.decay(progress)


def tiny_training(batch: int, steps: int, lr: float, warmup: int = 200) -> Training:
    """How tiny transformers and U-Nets train on two cores: a large rate that rises for some steps and falls to 0."""
    return Training(
        batch,
        steps,
        lr,
        warmup * batch,
        linear,
        (0.9, 0.99),
        precision=Precision.AUTO,
        threads=1,
        processes=2,
        ema={"ema": Power(0.06)},
    )


@dataclass(frozen=True)
class Recipe:
    """A whole system, its data and its defaults."""

    system: Callable[[], System]  # lazy, so that it can be built without memory and then loaded
    shape: tuple[int, ...]  # of one x as it is diffused, without the batch
    sampling: Sampling
    training: Training
    data: Callable[[], tuple[Dataset, Dataset | None]]  # the training data, and held-out data if there are any
    modality: Modality[Any]
    prompts: Prompts = Unconditional()
    evaluate: Prepare | None = None
    initialize: Initialize | None = None  # gives a new run the weights that it does not learn itself
    sizes: Sizes | None = None  # what a fit to data, machine and time chooses from, where it can
    source: str | None = None  # the trained model whose weights a run begins with
    name: str = ""  # the dotted name and arguments of the function that made it; ``build`` fills them in
    arguments: Mapping[str, object] = field(default_factory=dict)

    def model(self, system: System) -> Model:
        """A system of this recipe, ready to be sampled."""
        return Model(system, self.shape, self.sampling, self.modality, self.prompts, self.name, evaluate=self.evaluate)


def build(name: str, arguments: Mapping[str, object] | None = None, packages: Sequence[str] | None = None) -> Recipe:
    """The recipe of a dotted name such as ``image.recipes.ddpm.tiny``, called with some of its arguments.

    Raises ValueError if the name is not that of a recipe, or an argument is none of its parameters or not plain data.
    """
    function = _find(name, domains() if packages is None else packages)
    signature = inspect.signature(function)
    for given in arguments or {}:
        if given not in signature.parameters:
            near = difflib.get_close_matches(given, signature.parameters, n=1, cutoff=0.5)
            offer = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(signature.parameters) or 'none'}."
            raise ValueError(f"{name} has no option '{given}': {offer}")
    bound = signature.bind(**(arguments or {}))
    bound.apply_defaults()
    try:
        plain = json.loads(json.dumps(bound.arguments))
    except TypeError as error:
        raise ValueError(
            f"the arguments of {name} must be numbers, words or lists, to fit into a checkpoint"
        ) from error
    return dataclasses.replace(function(**bound.arguments), name=name, arguments=plain)


def _find(name: str, packages: Sequence[str]) -> Callable[..., Recipe]:
    match = re.fullmatch(r"(\w+)\.recipes((?:\.[A-Za-z]\w*)+)\.([A-Za-z]\w*)", name)
    if match is None or match[1] not in packages:
        raise ValueError(f"'{name}' is not the name of a recipe: a name is such as image.recipes.ddpm.tiny")
    try:
        module = importlib.import_module(f"{match[1]}.recipes{match[2]}")
    except ModuleNotFoundError as error:
        raise ValueError(f"there is no recipe module {match[1]}.recipes{match[2]} here") from error
    function = vars(module).get(match[3])
    if not inspect.isfunction(function) or function.__annotations__.get("return") not in ("Recipe", Recipe):
        raise ValueError(f"{match[1]}.recipes{match[2]} has no recipe called '{match[3]}'")
    return function


def load(path: Path, average: str | None = None, packages: Sequence[str] | None = None) -> Model:
    """Open a checkpoint with the weights of an average: by name, by default its first; "model" is the raw weights.

    Raises CheckpointError, in one sentence, for whatever is not a checkpoint of this repository or does not fit.
    """
    metadata = read_header(path, packages)
    names = [*metadata["averages"], "model"]
    chosen = average or names[0]
    if chosen not in names:
        raise CheckpointError(f"{path} has no average called '{chosen}': it has {', '.join(names)}")
    try:
        recipe = build(metadata["recipe"], metadata["arguments"], packages)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be opened: {error}") from error
    prefix = f"{chosen}/" if chosen in names[-1:] else f"ema/{chosen}/"
    system = restore(recipe.system, read(path, prefix), path, metadata["format"], packages)
    return dataclasses.replace(recipe.model(system), path=path, average=average, metadata=metadata)


def read_header(path: Path, packages: Sequence[str] | None = None) -> dict[str, Any]:
    """What a checkpoint says about itself, its recipe and arguments by their names of today; "format" is the file's.

    Raises CheckpointError for what is no checkpoint, and for one of a newer format.
    """
    metadata = read_metadata(path)
    aliases, written = known(domains() if packages is None else packages), metadata["format"]
    recipe = aliases.recipe(metadata["recipe"], written)
    return {**metadata, "recipe": recipe, "arguments": aliases.adapt(recipe, metadata["arguments"], written)}


def restore(
    make: Callable[[], S],
    state: Mapping[str, Tensor],
    path: Path,
    written: int = FORMAT,
    packages: Sequence[str] | None = None,
) -> S:
    """A system with the weights ``state`` of a file of format ``written``, built without initialising its own.

    Raises CheckpointError on a misfit.
    """
    with torch.device("meta"):
        system = make()
    aliases = known(domains() if packages is None else packages)
    state = {aliases.tensor(system, name, written): value for name, value in state.items()}
    fill(system, state, path)
    if any(value.is_meta for value in [*system.parameters(), *system.buffers()]):
        # Tables that no state holds (positions, frequencies) exist only in a system that was really built.
        system = make()
        fill(system, state, path)
    return system.eval()
