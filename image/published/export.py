"""What `langevin convert` makes of our own checkpoints of pictures: folders of diffusers, or a LoRA's file."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from core.autoencoder import KLAutoencoder
from core.codec import Latents
from core.files import DRAFT
from core.nn.flux import Flux
from core.nn.mmdit import MMDiT
from core.nn.text_unet import TextUNet
from core.recipe import load
from core.systems.diffusion import Diffusion
from core.systems.lora import LoRADiffusion
from core.weights import autoencoder, controlnet, flux, lora, mmdit, text_unet
from core.weights.checkpoint import CheckpointError
from core.weights.conversion import DIFFUSERS
from image.condition.control import ControlPicture
from image.condition.micro import MicroConditioning
from image.controlnet import ControlNetDiffusion


def export(path: Path, out: Path, layout: str) -> str:
    """Write the averaged networks of a checkpoint where other programs read them, and say what was written.

    Raises CheckpointError for networks that published layouts have no words for.
    """
    system = load(path).diffusion
    if isinstance(system, LoRADiffusion):
        if out.suffix != ".safetensors":
            raise ValueError(f"a LoRA is one file: call it {out.name}.safetensors")
        save = lora.save_diffusers if layout == DIFFUSERS else lora.save_kohya
        save(out, system.attached.net, system.lora)
        return f"{out}: the LoRA with the names of {'diffusers' if layout == DIFFUSERS else 'kohya'}"
    if layout != DIFFUSERS:
        raise CheckpointError(f"{path} is a checkpoint of Langevin: convert it to diffusers first, then that folder")
    if isinstance(system, ControlNetDiffusion):
        controlnet.save_diffusers(out, system.control, numbers_of(system))
        return f"{out}: the ControlNet; the model that it belongs to is converted by itself"
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=out.parent, prefix=DRAFT))
    try:
        written = save_parts(draft, system, path)
        draft.chmod(0o755)
        draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return f"{out}: {', '.join(written)}; the text encoder is our own, and stays in the checkpoint"


def save_parts(folder: Path, system: Diffusion, path: Path) -> list[str]:
    """Write the network and the autoencoder of a system; the names of their folders."""
    net, codec, written = system.denoiser.net, system.codec, ["transformer"]
    if isinstance(net, TextUNet):
        written = ["unet"]
        text_unet.save_diffusers(folder / "unet", net, numbers_of(system))
    elif isinstance(net, MMDiT):
        mmdit.save_diffusers(folder / "transformer", net)
    elif isinstance(net, Flux):
        flux.save_diffusers(folder / "transformer", net)
    else:
        raise CheckpointError(f"{path} has a {type(net).__name__}, which diffusers reads no folder of from here")
    if isinstance(codec, Latents) and isinstance(codec.autoencoder, KLAutoencoder):
        # Each channel has a mean and a deviation of its own, where published autoencoders have one scale.
        mean, deviation = tuple(codec.shift.tolist()), tuple((1 / codec.scale).tolist())
        extras = autoencoder.LatentConfig(1.0, 0.0, mean=mean, deviation=deviation)
        autoencoder.save_diffusers(folder / "vae", codec.autoencoder, extras)
        written.append("vae")
    return written


def numbers_of(system: Diffusion) -> text_unet.UNetExtras:
    """What diffusers wants to know beside a U-Net: how wide the sinusoids of the picture's frame are, if it has one."""
    frame = system.conditioner
    frame = frame.inner if isinstance(frame, ControlPicture) else frame
    return text_unet.UNetExtras(sinusoids=frame.width if isinstance(frame, MicroConditioning) else None)
