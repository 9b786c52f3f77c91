"""`langevin convert`: weights from diffusers' layout to the original and back, or to another precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.options import parse
from core.flags import option
from core.names import look_up

ABOUT = """Convert weights between diffusers' folders and the original single files, or to another precision. Nothing is
lost: a tensor that the layout does not know is refused.

Examples:
  langevin convert sd15.safetensors sd15 --to diffusers
  langevin convert sd15/unet unet.safetensors --to original --dtype float16
  langevin convert runs/lora-tiny style.safetensors"""
DIFFUSERS, ORIGINAL = "diffusers", "original"


@dataclass(frozen=True)
class Options:
    """What `langevin convert` takes."""

    to: str = option(DIFFUSERS, "the layout to write: diffusers (a folder) or original (a .safetensors file)")
    dtype: str | None = option(None, "the precision to write: float16, bfloat16 or float32; as it is, if left out")
    scale: float | None = option(None, "of an original autoencoder's latents, which its file does not say")
    shift: float | None = option(None, "of an original autoencoder's latents, likewise")


def main(words: Sequence[str]) -> None:
    """Read, convert, write whole or not at all."""
    known = [("what", "a .safetensors file or a folder of diffusers"), ("out", "the file or folder to write")]
    options, given = parse(Options, "langevin convert", ABOUT, words, known)
    from app.conversion import PRECISIONS, latents, opened, own_checkpoint, prefixes, write_file, write_folders
    from core.registry import modality_of
    from core.weights.conversion import cast, convert

    if options.to not in (DIFFUSERS, ORIGINAL):
        raise ValueError(f"--to is diffusers or original, not '{options.to}'")
    dtype = None if options.dtype is None else look_up("precision", options.dtype, PRECISIONS, "langevin convert -h")
    path, out = Path(given["what"]), Path(given["out"])
    refuse_existing(out, options.to)
    own = own_checkpoint(path)
    if own is not None:
        if dtype is not None:
            raise ValueError("our own checkpoints are written as they are: convert the folder to another precision")
        print(modality_of(own).export(own, out, options.to))
        return
    sources = opened(path)
    family = next((source.found.family for source in sources.values() if source.found.family), "")
    if family in ("sd3", "flux"):
        sources = {name: part._replace(plain=True) for name, part in sources.items()}
    latent_config = latents(options.to, options.scale, options.shift, family, sources)
    targets = {name: cast(convert(part, options.to, latent_config), dtype) for name, part in sources.items()}
    if options.to == DIFFUSERS:
        write_folders(out, targets)
    else:
        write_file(out, targets, prefixes(sources, family))
    for name, target in targets.items():
        count = sum(value.numel() for value in target.outline.values())
        print(f"{out / name if options.to == DIFFUSERS else out}: {sources[name].found.model}, {count:,} numbers")
    if options.to == DIFFUSERS and len(targets) > 1:
        print("Tokenizers and a scheduler are in no single file: take them from a published folder of the same system.")


def refuse_existing(out: Path, to: str) -> None:
    """Raises ValueError for a place that cannot be written, before anything is read."""
    if to == ORIGINAL and out.suffix != ".safetensors":
        raise ValueError(f"the original layout is one file: call it {out.name}.safetensors")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ValueError(f"{out} exists already: choose another name")
