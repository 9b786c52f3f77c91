"""`langevin sample`: sample a model and write the samples with the settings that made them."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.options import Flag, flags_of, read
from core.model import Model, Request
from core.registry import modality_of, newest, open_model, requests

if TYPE_CHECKING:
    from core.model import Modality

ABOUT = """Sample a model: a checkpoint that `langevin train` wrote, the newest in a run's folder, or a published
pipeline (a folder with model_index.json).

Examples:
  langevin sample runs/edm-tiny --count 64 --sampler heun --grid karras --steps 18 --prompt 3
  langevin sample runs/mdm-tiny --prompt "a person waves" --count 1 --out wave.gif
  langevin sample runs/edm-tiny --count 1000 --out samples.npz
  langevin sample stable-diffusion-v1-5 --prompt "a lighthouse at dusk" --steps 20 --out light.png"""
MODEL = ("model", "a .safetensors file, or the folder of a run or of a published pipeline")
OUT = Flag(
    "out",
    Path,
    None,
    "file to write, whose suffix says as what, or a folder, for one file a sample (default: samples, as usual)",
)
AVERAGE = Flag("average", str, None, "which average of the weights: ema, ..., or model for the weights themselves")


def main(words: Sequence[str]) -> None:
    """Sample, write, say what it took."""
    path, modality, request, values = asked("langevin sample", ABOUT, [OUT, AVERAGE], words)
    out = values["out"] or Path(f"samples{modality.suffixes[0]}")
    each = one_file_each(out)
    if not each:
        modality.check_output(out)
    model = open_model(path, values["average"], request)
    request = request.filled(*model.usual)
    warn_of_cuts(model, [request.prompt, request.negative_prompt])
    from core.settings import in_words, settings_of

    started = time.perf_counter()
    objects = model.sample(request)
    seconds = time.perf_counter() - started
    settings = settings_of(model, request)
    if each:
        model.modality.write_each(out, objects, settings)
    else:
        model.modality.write(out, objects, settings)
    print(f"{out}: {len(objects)} samples in {seconds:.1f} s, {in_words(settings)}")


def one_file_each(out: Path) -> bool:
    """Whether a name to write to is a folder's. Raises ValueError where that holds something already."""
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} is a folder with files in it: give the name of a new one, or of a file")
    return out.is_dir() or not out.suffix


def asked(
    program: str, about: str, own: Sequence[Flag], words: Sequence[str]
) -> tuple[Path, Modality[Any], Request, dict[str, Any]]:
    """The model's path, its modality and the request that were typed, and the values of the command's own flags."""
    path = newest(Path(read(program, about, [MODEL], [*own, *all_flags()], words)["model"]))
    modality = modality_of(path)
    flags = flags_of(modality.request)
    values = read(program, about, [MODEL], [*own, *flags], words, of_others(modality))
    return path, modality, modality.request(**{flag.name: values[flag.name] for flag in flags}), values


def all_flags() -> list[Flag]:
    """The flags of every modality's request; those of one alone say whose they are."""
    found = {flag.name: flag for flag in flags_of(Request)}
    for domain, request in requests().items():
        for flag in flags_of(request):
            if flag.name not in found:
                found[flag.name] = flag._replace(group=f"for models of the modality {domain}")
    return list(found.values())


def of_others(modality: Modality[Any]) -> dict[str, str]:
    """The flags that only other modalities' requests have, and whose they are."""
    own = {flag.name for flag in flags_of(modality.request)}
    return {
        f"--{flag.name.replace('_', '-')}": domain
        for domain, request in requests().items()
        for flag in flags_of(request)
        if flag.name not in own
    }


def warn_of_cuts(model: Model, typed: Sequence[str | None]) -> None:
    """Say on stderr which ends of what was typed are longer than the model reads."""
    from core.systems.diffusion import Diffusion
    from core.text.pretrained import PretrainedText

    texts = [text for text in typed if text]
    if texts and isinstance(model.system, Diffusion) and isinstance(model.system.conditioner, PretrainedText):
        for cut in model.system.conditioner.truncated(texts):
            if cut:
                shown = textwrap.shorten(cut, 100, placeholder=" ...")
                print(f"langevin: the prompt is longer than this model reads, without '{shown}'", file=sys.stderr)
