"""Fine-tuning: a run that begins with the weights of a trained model, on other data.

It is another run of the model's own recipe: the arguments of the network are those in the checkpoint, those of the data
and of the run are given. So its checkpoints open by themselves, and can be fine-tuned in turn. A published folder, and
a model of built-in data that is to learn from other data, are trained by the recipe ``finetune`` of their domain, and a
LoRA by its recipe ``lora``.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.condition import ClassLabel
from core.data.dataset import Dataset
from core.prompts import Classes, Prompts
from core.recipe import Recipe, build, load, read_header
from core.registry import find_in, modality_of, newest
from core.systems.diffusion import Diffusion
from core.systems.system import System
from core.train.run import Run
from core.weights.checkpoint import CheckpointError

Say = Callable[[str], None]
# Arguments that belong to a run, not to the model that it makes: they are not taken over.
OF_A_RUN = frozenset({"steps", "batch", "lr", "warmup", "seconds"})
BROUGHT = frozenset({"autoencoder"})  # arguments that name what comes with the model's weights
CONDITIONS = ("label", "caption", "number")  # of a batch
RATE = 0.3  # of the learning rate of a training from nothing
WARMUP, SHARE = 100, 0.1  # steps in which the moments of the gradient are gathered, or so much of a short run


@dataclass(frozen=True)
class Beginning:
    """Which recipe fine-tunes a model, and with which arguments where no others are given."""

    path: Path  # of the model
    name: str  # of the recipe, dotted
    function: Callable[..., object]
    arguments: Mapping[str, Any]
    copies: bool  # whether the weights are copied; else the recipe opens the model itself

    @property
    def label(self) -> str:
        """What its run is called, unless otherwise: ``edm-tiny-finetuned``, ``ldm-tiny-lora``."""
        run = self.path.resolve().parents[1] if self.path.is_file() else self.path.resolve()
        return f"{run.name}-{'finetuned' if self.copies else self.name.split('.')[-2]}"

    def recipe(self, given: Mapping[str, Any], say: Say = print) -> Recipe:
        """The recipe with some arguments given; ``say`` gets a sentence for each thing that is lost or new.

        Raises ValueError for what the model brings along, and for arguments that the recipe does not have.
        """
        for name in sorted(BROUGHT & given.keys()):
            raise ValueError(f"the model brings its {name} along: leave --{name} out")
        made = build(self.name, {**self.arguments, **given})
        return _begun(made, self.path, given, say) if self.copies else made


def beginning(
    path: Path, recipe: str | None = None, preset: str | None = None, rank: int | None = None, other_data: bool = False
) -> Beginning:
    """How to fine-tune what lies at ``path``: a checkpoint, a run's folder or a published one.

    recipe, preset: named by the person: the model's own, or one that takes a trained model, such as ``controlnet``;
    rank: of the LoRA to train; other_data: whether other data are given than the model's. Raises ValueError, in one
    sentence, for what does not go together.
    """
    found = newest(path)
    domain, opens = modality_of(found).name, {"model": str(path)}
    if rank is not None:
        if recipe is not None:
            raise ValueError(f"--lora says what is trained: leave the recipe {recipe} out")
        return Beginning(path, *find_in(domain, "lora", preset), opens | {"rank": rank}, False)
    header = {} if found.is_dir() else read_header(found)
    _, _, own, function = header.get("recipe", f"{domain}.recipes.finetune.own").split(".")
    named = own if recipe is None else recipe.split(".")[-1]
    if named != own:
        other = Beginning(path, *find_in(domain, named, preset), opens, False)
        if "model" not in inspect.signature(other.function).parameters:
            raise ValueError(f"{path} is a model of {own}, not of {recipe}: leave the recipe out")
        return other
    if preset not in (None, function):
        raise ValueError(f"{path} is of the preset {function}, not of {preset}: leave --preset out")
    made = find_in(domain, own, function)
    if not header:
        return Beginning(path, *made, opens, False)
    if other_data and "data" not in inspect.signature(made[1]).parameters:
        base = json.dumps({"recipe": header["recipe"], "arguments": header["arguments"]})
        return Beginning(path, *find_in(domain, "finetune", None), {"base": base}, True)
    kept = {name: value for name, value in header["arguments"].items() if name not in OF_A_RUN}
    rate = inspect.signature(made[1]).parameters.get("lr")
    if rate is not None and rate.default:
        kept["lr"] = RATE * rate.default
    return Beginning(path, *made, kept, True)


def _begun(recipe: Recipe, path: Path, given: Mapping[str, Any], say: Say) -> Recipe:
    """The recipe, begun with the averaged weights of a checkpoint, at a lower rate and with a short warm-up."""
    training, data = recipe.training, functools.cache(recipe.data)
    if not recipe.arguments.get("lr"):
        training = dataclasses.replace(training, lr=RATE * training.lr)
    if "warmup" not in given:
        samples = int(min(WARMUP, SHARE * training.steps) * training.batch)
        training = dataclasses.replace(training, warmup=samples)

    def initialize(system: System, run: Run) -> None:
        source = newest(path)
        header = read_header(source)
        kept = Kept.of(build(header["recipe"], header["arguments"]).prompts, recipe.prompts)
        for sentence in [*kept.sentences(), *unread(system, data()[0])]:
            say(sentence)
        copy_weights(system, load(source).system, kept.rows, source)

    return dataclasses.replace(recipe, training=training, data=data, initialize=initialize, source=str(path))


@dataclass(frozen=True)
class Kept:
    """The classes that a new model has in common with an old one: by name, or by number where a side has no names."""

    rows: Mapping[int, int]  # label -> the old label
    lost: Sequence[str] = ()  # that only the old one has
    new: Sequence[str] = ()

    @classmethod
    def of(cls, old: Prompts, new: Prompts) -> Kept:
        """Of what both may be asked for."""
        before = old.count if isinstance(old, Classes) else 0
        after = new.count if isinstance(new, Classes) else 0
        names, others = _names(old), _names(new)
        if not (names and others):
            names, others = [str(label) for label in range(before)], [str(label) for label in range(after)]
        rows = {label: names.index(name) for label, name in enumerate(others) if name in names}
        return cls(rows, [name for name in names if name not in others], [name for name in others if name not in names])

    def sentences(self) -> list[str]:
        """What a person should know of them."""
        found = []
        if self.lost:
            found.append(f"Classes of the model that the data do not have, which it forgets: {_listed(self.lost)}.")
        if self.new:
            found.append(f"Classes that are new to the model: {_listed(self.new)}.")
        return found


def _names(prompts: Prompts) -> list[str]:
    return [name.casefold() for name in prompts.names] if isinstance(prompts, Classes) else []


def _listed(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@torch.no_grad()
def unread(system: System, data: Dataset) -> list[str]:
    """A sentence for each condition in the data that the system does not read.

    Raises ValueError where the data do not give what it must read.
    """
    if not isinstance(system, Diffusion):
        return []
    batch = data.get([0])
    try:
        system.conditioner(batch)
    except ValueError as error:
        raise ValueError(f"the data lack what the model is conditioned on: {error}") from error
    found = []
    for name in CONDITIONS:
        if name in batch:
            try:
                system.conditioner({key: value for key, value in batch.items() if key != name})
            except ValueError:
                continue
            found.append(f"The data have a {name} for each example, which this model does not read.")
    return found


@torch.no_grad()
def copy_weights(system: System, found: System, rows: Mapping[int, int], path: Path) -> None:
    """Give a system the weights of another of its kind.

    Classes have the rows that ``rows`` (label -> old label) names; a new class begins as none. What is computed of the
    size of the data, such as a table of positions, stays. Raises CheckpointError where the networks differ.
    """
    own, theirs = system.state_dict(keep_vars=True), found.state_dict()
    for name, table in _class_tables(system).items():
        old = theirs.pop(name, None)
        new = own.pop(name)
        if old is None or old.shape[1:] != new.shape[1:]:
            new.zero_()  # a vector of zeros leaves an unconditional network as it is
            continue
        picked = [rows.get(label, len(old) - 1) for label in range(table.classes)]
        new.copy_(old[[*picked, len(old) - 1]])
    for name in _class_tables(found):
        theirs.pop(name, None)
    wrong = [f"{name} is missing" for name in own if name not in theirs]
    wrong += [f"{name} is unknown" for name in theirs if name not in own]
    for name, value in own.items():
        if name not in theirs or value.shape == theirs[name].shape:
            continue
        if isinstance(value, nn.Parameter):
            wrong.append(f"{name} is {tuple(theirs[name].shape)} there and {tuple(value.shape)} here")
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise CheckpointError(
            f"{path} does not fit the run's network ({wrong[0]}{more}): leave the options of the network, and its size "
            "where it has layers of a size, as they are"
        )
    for name, value in own.items():
        if value.shape == theirs[name].shape:
            value.copy_(theirs[name])


def _class_tables(system: nn.Module) -> dict[str, ClassLabel]:
    """The tables of classes in a system, by their name in its state."""
    modules = system.named_modules()
    return {f"{name}.table.weight": part for name, part in modules if isinstance(part, ClassLabel)}
