"""`langevin edit`: change an object of a file (a picture, a motion, ...) with a model, by one of its operations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.options import Flag, flags_of, read
from app.sampling import AVERAGE, MODEL, warn_of_cuts
from core.flags import record, restored
from core.model import Modality, Operation, Request
from core.names import look_up
from core.registry import modality_of, newest, open_model, operations

ABOUT = """Edit a file with a model: a checkpoint, the newest in a run's folder, or a published pipeline. Each operation
has flags of its own: `langevin edit OPERATION --help`.

Examples:
  langevin edit image-to-image runs/ldm-tiny photo.png --prompt "a red 7 on white" --strength 0.6 --out edited.png
  langevin edit inpaint runs/ldm-tiny photo.png --mask mask.png --prompt "a red 7 on white" --out edited.png
  langevin edit in-between runs/mdm-tiny clip.bvh --keep 0:20,60: --prompt "a person waves" --out between.gif"""
FILE = ("file", "the picture, motion or other object to edit")
OUT = Flag("out", Path, None, "file to write; the suffix says as what (default: edited in the model's usual format)")


def main(words: Sequence[str]) -> None:
    """Edit, write, say what it took."""
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return
    name, words = words[0], words[1:]
    kind = operation_of(name)
    program = f"langevin edit {name}"
    flags = flags_of(kind)
    values = read(program, (kind.__doc__ or "").split("\n")[0], [MODEL, FILE], [OUT, AVERAGE, *flags], words)
    operation = kind(**{flag.name: values[flag.name] for flag in flags})
    path, file = newest(Path(values["model"])), Path(values["file"])
    modality = modality_of(path)
    if name not in modality.operations:
        known = ", ".join(modality.operations) or "nothing"
        raise ValueError(f"{path} makes objects of the modality {modality.name}, which has no {name}: it has {known}")
    out = values["out"] or Path(f"edited{modality.suffixes[0]}")
    modality.check_output(out)
    source = modality.read(file)
    model = open_model(path, values["average"], opened_for(modality, operation))
    from core.model import digest
    from core.settings import in_words, settings_of

    warn_of_cuts(model, [getattr(operation, field, None) for field in ("prompt", "negative_prompt", "source_prompt")])
    started = time.perf_counter()
    made = model.edit(operation, source)
    edited = {"edit": name, "source": str(file), "source_sha256": digest(file)}
    settings = settings_of(model, operation) | edited
    model.modality.write(out, made, settings)
    took = f"{time.perf_counter() - started:.1f} s"
    print(f"{out}: {file.name}, {name}, in {took}, {in_words(settings)}")


def opened_for(modality: Modality[Any], operation: Operation) -> Request:
    """What a model is opened for: of what an operation says, all that a request says too, such as a size."""
    return restored(modality.request, {name: value for name, value in record(operation).items() if name == "size"})


def operation_of(name: str) -> type[Operation]:
    """The operation of a name, of any modality. Raises UnknownNameError with the nearest name."""
    table = {known: kind for own in operations().values() for known, kind in own.items()}
    return look_up("operation", name, table, "langevin edit --help")


def overview() -> str:
    """The operations of every modality."""
    lines = ["usage: langevin edit OPERATION MODEL FILE [options]", "", ABOUT, ""]
    for domain, own in operations().items():
        lines.append(f"{domain}:")
        lines += [f"  {name:16} {(kind.__doc__ or '').splitlines()[0]}" for name, kind in own.items()]
    return "\n".join(lines)
