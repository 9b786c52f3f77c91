"""What the parameters of recipes mean: the help of ``langevin train``. Domains add theirs in ``parameters.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class About(NamedTuple):
    """A parameter's help text and the word that stands for its value."""

    text: str
    metavar: str | None = None


PARAMETERS: Mapping[str, About] = {
    "data": About("the data: a folder, tar shards or an .npz file", "PATH"),
    "size": About("side of the data, in pixels", "PIXELS"),
    "channels": About("channels of the data: 1 for grey, 3 for colour"),
    "classes": About("number of classes; 0 is an unconditional model"),
    "count": About("how many samples of the built-in data are generated to train on", "SAMPLES"),
    "width": About("channels of the network, at its first level", "CHANNELS"),
    "depth": About("blocks of the network", "BLOCKS"),
    "heads": About("attention heads"),
    "fold": About("side of the squares of pixels that become channels; 0 chooses it", "PIXELS"),
    "deviation": About("standard deviation of the data", "DEVIATION"),
    "patch": About("side of a patch that becomes one token", "CELLS"),
    "doubles": About("blocks in which text and image are two streams", "BLOCKS"),
    "singles": About("blocks in which text and image are one stream", "BLOCKS"),
    "text_width": About("channels of the text encoder", "CHANNELS"),
    "length": About("tokens of a caption that are read", "TOKENS"),
    "dropout": About("share of activations that training leaves out", "SHARE"),
    "steps": About("training steps", "STEPS"),
    "batch": About("samples of a step", "SAMPLES"),
    "lr": About("learning rate, after the warm-up", "RATE"),
    "seconds": About("processor time after which training ends", "SECONDS"),
    "autoencoder": About("a trained autoencoder, checkpoint or run's folder; without one, it is trained first", "PATH"),
    "latent": About("channels of the latents", "CHANNELS"),
    "latent_width": About("channels of the autoencoder, at its first level", "CHANNELS"),
    "entries": About("entries of the codebook", "ENTRIES"),
    "features": About("weights of the network in whose features pictures are compared", "FILE"),
    "model": About("the trained model to start from, a checkpoint or a run's folder (required)", "PATH"),
    "teacher": About("the trained model to distil, a checkpoint or a run's folder", "PATH"),
    "base": About("the recipe and the arguments of the model, as JSON; --from fills it in", "JSON"),
    "warmup": About("steps over which the learning rate rises from 0; in fine-tuning, samples", "COUNT"),
    "rank": About("rank of the LoRA's matrices", "RANK"),
    "alpha": About("alpha of the LoRA: its weight is alpha / rank", "ALPHA"),
    "targets": About("ends of the names of the layers that the LoRA adapts", "NAME"),
    "mirror": About("also learn from pictures mirrored left to right"),
    "deep": About("twice as many blocks at each level"),
    "v": About("predict v in the place of the noise"),
}
