"""What ``import langevin`` offers; see ``langevin/__init__.py``."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from core.cond import Cond
from core.flags import IN_MEMORY, restored
from core.model import Modality, OnStep, Operation, Request, digest
from core.model import Model as CoreModel
from core.names import look_up
from core.prediction import Prediction
from core.prompts import Conditions, Unconditional
from core.registry import find, modalities, newest, open_model
from core.schedule import Schedule
from core.settings import settings_of
from core.systems.sampling import Sampling

PathLike = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Samples(Sequence[Any]):
    """Objects that a model made: pictures, motions, ... They are saved with the settings that made them."""

    objects: tuple[Any, ...]
    modality: Modality[Any]
    settings: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: Any) -> Any:
        found = self.objects[index]
        return dataclasses.replace(self, objects=found) if isinstance(index, slice) else found

    def __iter__(self) -> Iterator[Any]:
        return iter(self.objects)

    @property
    def tensor(self) -> Tensor:
        """The objects as data (B, ...). Raises ValueError for a modality whose objects are no tensors of one shape."""
        return self.modality.encode(self.objects)

    @property
    def images(self) -> list[Image.Image]:
        """The objects as pictures of PIL. Raises ValueError for a modality that has none."""
        return [self.modality.picture(found) for found in self.objects]

    def save(self, path: PathLike) -> Path:
        """Write a file, whole or not at all; the suffix says as what. Raises ValueError for a suffix that is none."""
        out = Path(path)
        self.modality.check_output(out)
        self.modality.write(out, self.objects, self.settings)
        return out

    def _repr_png_(self) -> bytes:
        """The first of the objects, as notebooks show it."""
        buffer = io.BytesIO()
        self.images[0].save(buffer, format="PNG")
        return buffer.getvalue()


@dataclasses.dataclass(frozen=True)
class Model:
    """A model that was opened, or a network of one's own."""

    model: CoreModel

    def sample(
        self,
        prompt: str | None = None,
        *,
        seeds: Sequence[int] | None = None,
        loras: Mapping[PathLike, float] | Sequence[PathLike] = (),
        on_step: OnStep | None = None,
        **flags: Any,
    ) -> Samples:
        """Sample the model; ``flags`` are those of ``langevin sample``: negative_prompt, count, sampler, steps.

        seeds: one for each sample, in the place of ``count`` and ``seed``; loras: files, with their weights; on_step:
        called with each step of the sampler. Raises ValueError for a flag that the model does not have.
        """
        words = [f"{path}:{weight}" for path, weight in loras.items()] if isinstance(loras, Mapping) else loras
        kind = self.model.modality.request
        request = _filled(kind, {"prompt": prompt, "lora": tuple(map(str, words)), **flags}).filled(1, 16)
        model = self._opened_for(request)
        if seeds is not None and (flags.get("seed") is not None or flags.get("count", len(seeds)) != len(seeds)):
            raise ValueError("seeds names a seed for each sample: leave seed out, and count or give as many")
        objects = model.sample(request, on_step, seeds)
        settings = settings_of(model, request) | ({} if seeds is None else {"seeds": list(seeds)})
        return Samples(tuple(objects), model.modality, settings)

    def edit(self, operation: str, source: Any, **flags: Any) -> Samples:
        """Edit an object, or the file of one; ``flags`` are those of ``langevin edit OPERATION``.

        source: a path, a picture of PIL, or an object of the modality; ``mask`` likewise. Raises ValueError for an
        unknown operation or flag.
        """
        modality = self.model.modality
        kind = look_up("operation", operation, modality.operations, "langevin edit --help")
        asked = _filled(kind, flags)
        model = self._opened_for(asked)
        objects = model.edit(asked, modality.accept(source))
        settings = settings_of(model, asked) | {"edit": operation}
        file = isinstance(source, str | os.PathLike)
        settings |= {"source": os.fspath(source) if file else IN_MEMORY}
        settings |= {"source_sha256": digest(Path(source))} if file else {}
        return Samples(tuple(objects), modality, settings)

    def log_prob(
        self, x: Tensor, conditions: Conditions | None = None, probes: int = 2, bar: float = 0.02, seed: int = 0
    ) -> Any:
        """log p(x) of data (B, ...) in nats, with its error bar: a ``core.likelihood.Likelihood``.

        Exact in few dimensions; beyond, random probes of ``seed`` estimate a trace: ``probes`` at each place of the
        path and then as many as leave a bar of ``bar`` bits per dimension.
        """
        from core.likelihood import EXACT, Hutchinson, log_prob
        from core.random import SamplingRNG

        system = self.model.diffusion
        code = system.codec.encode(x.to(system.like))
        bound = system.denoiser.bind(system.conditioner(conditions or {}).to(system.like.device))
        trace = Hutchinson(SamplingRNG(seed, range(len(code))), bar, probes=probes)
        return log_prob(bound, code, trace=None if code[0].numel() <= EXACT else trace)

    def _opened_for(self, asked: Request | Operation) -> CoreModel:
        """The model, reopened where a published one is needed in another size."""
        model, size = self.model, getattr(asked, "size", None)
        if size is None or not model.published or model.path is None:
            return model
        request = _filled(model.modality.request, {"size": size})
        return open_model(model.path, request=request)


def open(path: PathLike, average: str | None = None) -> Model:  # noqa: A001
    """Open a checkpoint, the newest of a run's folder, or a published pipeline. Raises ValueError for anything else."""
    return Model(open_model(newest(Path(path)), average))


def wrap(
    network: Callable[..., Tensor] | nn.Module,
    shape: Sequence[int],
    schedule: Schedule,
    prediction: Prediction,
    *,
    classes: int = 0,
    sampling: Sampling | None = None,
    modality: str = "image",
    clock: Callable[[Tensor], Tensor] | None = None,
) -> Model:
    """A network of one's own as a model: ``network(x, time)``, or ``network(x, time, labels)`` of so many classes.

    shape: of one x; schedule, prediction: the path it was trained on, and what its output means; classes: labels (B,)
    are 0 to classes - 1, and ``classes`` itself is no class, from which guidance moves away; clock: from the
    schedule's time to what the network embeds.
    """
    from core.condition import Labels
    from core.denoiser import Denoiser, identity
    from core.grid import trailing
    from core.prompts import Classes
    from core.sample.heun import heun
    from core.systems.diffusion import Diffusion

    denoiser = Denoiser(_Foreign(network, classes > 0), schedule, prediction, clock or identity)
    system = Diffusion(denoiser, Labels(classes) if classes else None).eval()
    usual = sampling or Sampling(heun, trailing, steps=20)
    prompts = Classes(classes) if classes else Unconditional()
    return Model(CoreModel(system, tuple(shape), usual, modalities()[modality], prompts, "network"))


def train(
    recipe: str | None,
    folder: PathLike,
    preset: str | None = None,
    *,
    start: PathLike | None = None,
    lora: int | None = None,
    **arguments: Any,
) -> Model:
    """Train a preset of a recipe, by default ``tiny``, or go on with the run in ``folder``, and open it.

    start: a trained model to fine-tune, as ``--from``: a checkpoint, a run's folder or a published one, whose recipe it
    is where ``recipe`` is None; lora: train a LoRA of this rank on it; arguments: of the recipe, as ``langevin train
    RECIPE --preset PRESET --help`` lists them. Raises ValueError for what does not go together.
    """
    from core.finetune import beginning
    from core.recipe import build
    from core.train.loop import train as run
    from core.train.run import Run

    given = {name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in arguments.items()}
    if start is not None:
        made = beginning(Path(start), recipe, preset, lora, "data" in given).recipe(given)
    elif recipe is None or lora is not None:
        raise ValueError("name a recipe to train, or give the trained model to start from: start")
    else:
        made = build(find(recipe, preset or "tiny")[0], given)
    return open(run(made, Run(Path(folder), tensorboard=False)))


class _Foreign(nn.Module):
    """A network that knows nothing of ``Cond``: it takes labels, or nothing beside x and the time."""

    def __init__(self, network: Callable[..., Tensor], labelled: bool) -> None:
        super().__init__()
        self.network = network
        self.labelled = labelled

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        return self.network(x, time, cond.label) if self.labelled else self.network(x, time)


def _filled(kind: type[Any], flags: Mapping[str, Any]) -> Any:
    """A dataclass of flags. Raises ValueError, the nearest name offered, for one that it does not have."""
    known = {field.name: field for field in dataclasses.fields(kind)}
    for name in flags:
        look_up("option", name, known, "the help of `langevin sample` or `langevin edit`")
    return restored(kind, {name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in flags.items()})
