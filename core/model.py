"""The seam between domains and commands: Model, Modality, Request, Operation.

A model is a system ready to be sampled. Its modality says what its samples are (pictures, motions, sounds, meshes) and
how files hold them. A request is what a person asks a model for, an operation is an edit: their fields are flags of the
command, keywords in Python and the record from which ``langevin replay`` makes a file again. Commands and the Python
front door know nothing else of a checkpoint, a published folder or a network of one's own.

This module is imported for every ``--help``, so it leaves torch alone until it is used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from core import provenance
from core.data.survey import Survey, Track, plainly
from core.evaluation.options import Evaluate, EvaluationOptions
from core.flags import option
from core.prompts import Conditions, Prompts, Unconditional

if TYPE_CHECKING:
    from torch import Tensor

    from core.data.preparation import Preparation
    from core.random import SamplingRNG
    from core.sample.step import Step
    from core.systems.diffusion import Diffusion
    from core.systems.sampling import Sampling
    from core.systems.system import System

Object = TypeVar("Object")
Metadata = Mapping[str, object]
OnStep = Callable[["Step"], None]  # called after each step of a sampler
Prepare = Callable[[EvaluationOptions], Evaluate]  # trains the judges, if any; lazy, as that takes time


@dataclass(frozen=True)
class Model:
    """A system with all that sampling it needs."""

    system: System
    shape: tuple[int, ...]  # of one x, without the batch
    sampling: Sampling
    modality: Modality[Any]
    prompts: Prompts = Unconditional()
    name: str = "model"  # of its recipe, or the class of the published pipeline
    path: Path | None = None  # the file or folder that it was opened from
    average: str | None = None  # that was asked for
    metadata: Mapping[str, Any] = field(default_factory=dict)  # of a checkpoint: "step", "recipe", "averages" ...
    evaluate: Prepare | None = None
    published: bool = False  # whether it was opened from what others published
    usual: tuple[int, int] = (64, 256)  # samples of a request that names no count, and how many are made at once

    @property
    def diffusion(self) -> Diffusion:
        """The system. Raises ValueError where it is no diffusion model."""
        from core.systems.diffusion import Diffusion

        if not isinstance(self.system, Diffusion):
            what = "is no diffusion model" if self.system.makes_samples else "makes no samples"
            raise ValueError(f"{self.name} {what}: give a checkpoint of a diffusion model")
        return self.system

    def batches(self, request: Request, on_step: OnStep | None = None) -> Iterator[tuple[Tensor, Conditions]]:
        """Decoded samples (B, ...) of a request, on the host, a batch at a time, and their conditions.

        Raises ValueError when sampling diverged.
        """
        import torch

        from core.random import SamplingRNG
        from core.systems.compiled import compile_for_sampling
        from core.systems.lora import with_loras

        request = request.filled(*self.usual)
        model = request.prepared(self)
        numbers = request.samples()
        with torch.no_grad(), with_loras(self.system, request.lora):
            if request.compile:
                compile_for_sampling(model.diffusion)
            size = request.batch or len(numbers)
            for start in range(0, len(numbers), size):
                noise = SamplingRNG(request.seed, numbers[start : start + size])
                x, conditions = request.draw(model, noise, on_step)
                yield model.decoded(x), conditions

    def draw(self, seed: int, samples: Sequence[int], sampling: Sampling | None = None) -> Tensor:
        """Decoded samples (len(samples), ...) for the default conditions, the same in any batch and order."""
        import torch

        from core.random import SamplingRNG
        from core.sample.step import run

        conditions, noise = self.prompts.default(seed, samples), SamplingRNG(seed, samples)
        with torch.no_grad():
            steps = self.diffusion.sample(noise, self.shape, conditions, sampling or self.sampling)
            return self.diffusion.decode(run(steps))

    def decoded(self, x: Tensor) -> Tensor:
        """What was sampled, decoded, on the host. Raises ValueError when it diverged."""
        if x.is_floating_point() and not bool(x.isfinite().all()):
            raise ValueError("sampling diverged (NaN or infinity): take more steps, less guidance or another sampler")
        return self.system.decode(x).cpu()

    def sample(self, request: Request, on_step: OnStep | None = None, seeds: Sequence[int] | None = None) -> list[Any]:
        """The objects of a request; seeds: one for each object, in the place of the request's seed and count."""
        each = [request] if seeds is None else [dataclasses.replace(request, seed=seed, count=1) for seed in seeds]
        found: list[Any] = []
        for one in each:
            for data, conditions in self.batches(one, on_step):
                found += self.modality.decode(data, conditions)
        return found

    def edit(self, operation: Operation, source: Path | object) -> Sequence[Any]:
        """The edited objects, one for each result, of a file or an object of the modality."""
        import torch

        read = self.modality.read(source) if isinstance(source, Path) else source
        with torch.no_grad():
            return operation.run(self, read)


def digest(path: Path) -> str:
    """The SHA-256 of a file; of a folder, that of the names and contents of its tables and weights."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in (".json", ".safetensors"))
        names = [f"{file.relative_to(path)} {digest(file)}" for file in files]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class SamplingFlags:
    """How to sample; what is left out is the model's own choice. From Python, sampler and grid may be functions."""

    sampler: str | Callable[..., Any] | None = option(
        None, "sampler, see `langevin solvers --list`; names of diffusers and ComfyUI work too (default: the model's)"
    )
    grid: str | Callable[..., Any] | None = option(
        None, "grid of times: trailing, karras, linspace, ... (default: the model's)"
    )
    steps: int | None = option(None, "number of steps (default: the model's)")
    guidance: float | None = option(None, "guidance scale; 1 is none (default: the model's)")
    seed: int = option(0, "seed; sample i of a seed is always the same")

    def sampling(self, default: Sampling) -> Sampling:
        """The default with these choices in place. Raises ValueError, the nearest name offered."""
        from core.grid import GRIDS
        from core.names import look_up
        from core.sample import SAMPLERS, find_sampler

        chosen = default
        if callable(self.sampler):
            chosen = dataclasses.replace(chosen, sampler=self.sampler)
        elif self.sampler is not None:
            name, grid = find_sampler(self.sampler)
            chosen = dataclasses.replace(chosen, sampler=SAMPLERS[name].sampler)
            if grid is not None and self.grid is None:
                chosen = dataclasses.replace(chosen, grid=GRIDS[grid])
        if self.grid is not None:
            known = self.grid if callable(self.grid) else look_up("grid", self.grid, GRIDS, "langevin sample --help")
            chosen = dataclasses.replace(chosen, grid=known)
        if self.steps is not None:
            chosen = dataclasses.replace(chosen, steps=self.steps)
        if self.guidance is not None:
            if not math.isfinite(self.guidance):
                raise ValueError(f"the guidance scale must be a finite number, not {self.guidance}")
            chosen = dataclasses.replace(chosen, guidance=self.guidance)
        return chosen


@dataclass(frozen=True)
class Request(SamplingFlags):
    """What to sample."""

    prompt: str | None = option(
        None, "a class by name or number, several in turn (0,1), or a caption; `;` separates several", "TEXT"
    )
    negative_prompt: str | None = option(None, "negative prompt: what guidance moves away from", "TEXT")
    count: int | None = option(None, "number of samples (default: 64, or 1 of a published pipeline)")
    first: int = option(0, "number of the first sample")
    batch: int | None = option(None, "samples at once; changes speed and memory, not the samples (default: 256, or 1)")
    lora: tuple[str, ...] = option(
        (), "LoRA files to apply, each with an optional weight: style.safetensors:0.8", "FILE[:WEIGHT]"
    )
    compile: bool = option(False, "compile the network first: worth it for many steps, or many batches of one size")

    def __post_init__(self) -> None:
        """Raises ValueError for numbers out of range."""
        if (self.count is not None and self.count < 1) or (self.batch is not None and self.batch < 1) or self.first < 0:
            raise ValueError("--count and --batch must be at least 1, and --first at least 0")

    def filled(self, count: int, batch: int) -> Request:
        """The same request with numbers where none were given."""
        return dataclasses.replace(
            self, count=count if self.count is None else self.count, batch=batch if self.batch is None else self.batch
        )

    def samples(self) -> range:
        """The numbers of the samples."""
        return range(self.first, self.first + (self.count or 1))

    def prepared(self, model: Model) -> Model:
        """The model with what the request adds to it, such as a ControlNet."""
        return model

    def conditions(self, model: Model, samples: Sequence[int]) -> Mapping[str, Any]:
        """The conditions of these samples, batched: what was typed, or the model's own."""
        if self.prompt is None:
            return model.prompts.default(self.seed, samples)
        return model.prompts.parse(self.prompt, len(samples))

    def draw(self, model: Model, noise: SamplingRNG, on_step: OnStep | None = None) -> tuple[Tensor, Mapping[str, Any]]:
        """Finished x (B, ...) of the samples of ``noise``, before decoding, and the conditions it was made under."""
        from core.sample.step import run

        system = model.diffusion
        asked = self.conditions(model, noise.samples)
        negative = None
        if self.negative_prompt is not None:
            negative = model.prompts.parse(self.negative_prompt, len(noise.samples))
        steps = system.sample(noise, model.shape, asked, self.sampling(model.sampling), negative)
        return run(steps, on_step), asked

    def check_measurable(self) -> None:
        """Raises ValueError for a request whose samples an evaluation cannot measure."""

    def files(self) -> list[Path]:
        """The files and folders that the result depends on besides the model: their hashes go into the record."""
        from core.weights.lora import path_and_weight

        return [path_and_weight(word)[0] for word in self.lora]


@dataclass(frozen=True)
class Operation(SamplingFlags, ABC):
    """An edit of an object: flags of ``langevin edit NAME MODEL FILE``, keywords of ``model.edit``, the record."""

    prompt: str | None = option(None, "what to make of it: a class or a caption; unconditional if left out", "TEXT")
    count: int = option(1, "number of results")
    first: int = option(0, "number of the first result")

    def __post_init__(self) -> None:
        """Raises ValueError for numbers out of range."""
        if self.count < 1 or self.first < 0:
            raise ValueError("--count must be at least 1, and --first at least 0")

    def samples(self) -> range:
        """The numbers of the results."""
        return range(self.first, self.first + self.count)

    @abstractmethod
    def run(self, model: Model, source: Any) -> Sequence[Any]:
        """The edited objects, one for each of ``samples()``, of an object of the model's modality."""

    def files(self) -> list[Path]:
        """The files that the result depends on besides the model and the source."""
        return []


class Modality(ABC, Generic[Object]):
    """A domain as the commands see it. What a domain cannot do is left as it stands here, and refused in a sentence."""

    name: ClassVar[str]
    suffixes: ClassVar[Sequence[str]]  # of the files that it writes, the usual one first
    request: ClassVar[type[Request]] = Request
    operations: ClassVar[Mapping[str, type[Operation]]] = {}
    preparation: ClassVar[type[Preparation] | None] = None  # of data; None where there is nothing to prepare

    @abstractmethod
    def decode(self, data: Tensor, conditions: Conditions) -> Sequence[Object]:
        """The objects of decoded samples (B, ...), made under these conditions."""

    @abstractmethod
    def write(self, path: Path, objects: Sequence[Object], metadata: Metadata) -> None:
        """Write objects with the settings that made them, whole or not at all; the suffix was checked before."""

    def write_each(self, folder: Path, objects: Sequence[Object], metadata: Metadata) -> list[Path]:
        """Write each object to a file of its own in a folder, in the usual format; the files."""
        paths = [folder / f"{number:05d}{self.suffixes[0]}" for number in range(len(objects))]
        for number, (path, thing) in enumerate(zip(paths, objects, strict=True)):
            self.write(path, [thing], {**metadata, "item": number})
        return paths

    def encode(self, objects: Sequence[Object]) -> Tensor:
        """Objects -> the data (B, ...) that a codec encodes."""
        raise ValueError(f"the modality {self.name} does not encode files: its samples cannot be edited")

    def read(self, path: Path) -> Object:
        """The object in a file. Raises ValueError for what is none."""
        raise ValueError(f"the modality {self.name} reads no files: its samples cannot be edited")

    def files_of(self, path: Path, count: int) -> list[Path]:
        """The files that ``write`` makes of so many objects under a name."""
        return [path]

    def same(self, old: Path, new: Path, settings: Metadata) -> bool:
        """Whether two files hold the same objects, the old one written with ``settings``."""
        return old.read_bytes() == new.read_bytes()

    def accept(self, source: Any) -> Object:
        """An object of whatever a person has: a path, or an object already."""
        return self.read(Path(source)) if isinstance(source, str | Path) else source

    def picture(self, thing: Object) -> Any:
        """An object as a picture of PIL. Raises ValueError where it has none."""
        raise ValueError(f"objects of the modality {self.name} are no pictures: save them to a file")

    def read_metadata(self, path: Path) -> dict[str, Any] | None:
        """The settings in a file that ``write`` wrote, with today's keys; None for a file of another kind."""
        return provenance.read_sidecar(path) if path.suffix.lower() in self.suffixes else None

    def count_data(self, path: Path) -> int:
        """How many files, or arrays, of a folder or file of data are of this modality, from their names alone."""
        return 0

    def survey(self, path: Path, track: Track = plainly, thorough: bool = True) -> Survey:
        """What a folder or file of data is.

        thorough: whether everything is decoded, so that duplicates and damaged files are found; else headers are read.
        """
        raise ValueError(f"the modality {self.name} surveys no data")

    def examples(self, path: Path, count: int) -> Sequence[Object]:
        """At most so many objects of a folder or file of data, from all over it, for a contact sheet."""
        raise ValueError(f"the modality {self.name} shows no data")

    def preview(self, path: Path, objects: Sequence[Object], metadata: Metadata) -> None:
        """Write a sheet for a person who follows a run; ``path`` ends in ``preview_suffix``."""
        self.write(path, objects, metadata)

    @property
    def preview_suffix(self) -> str:
        """Of the sheets of a run."""
        return self.suffixes[0]

    def check_output(self, path: Path) -> None:
        """Raises ValueError for a file that ``write`` would refuse, before anything is sampled."""
        if path.suffix.lower() not in self.suffixes:
            raise ValueError(f"{path} cannot be written: give a name that ends in {', '.join(self.suffixes)}")
        if path.is_dir():
            raise ValueError(f"{path} is a folder: give the name of a file")

    def own_arguments(self, data: Path) -> Mapping[str, Any]:
        """What data decide of the arguments of a preset ``own``, such as a size, by name."""
        return {}

    def opens(self, path: Path) -> bool:
        """Whether a folder is a published model of this modality."""
        return False

    def open_published(self, path: Path, request: Request | None) -> Model:
        """The model of a folder that others published, opened for a request. Raises ValueError where it cannot be."""
        raise ValueError(f"the modality {self.name} opens no published models")

    def export(self, path: Path, out: Path, layout: str) -> str:
        """Write a checkpoint of ours where other programs read it, in a layout of theirs, and say what was written.

        Raises ValueError where they have none.
        """
        raise ValueError(f"{path} is of the modality {self.name}, whose checkpoints are converted to no other layout")
