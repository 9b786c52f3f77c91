"""What the presets ``own`` of captioned pictures share: an autoencoder, and a network for its code that reads text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache

from torch import nn

from core.autoencoder import KLAutoencoder, Plan
from core.codec import Latents
from core.data.dataset import DataError, Dataset
from core.denoiser import Denoiser, thousandths
from core.grid import trailing
from core.media.picture import Size
from core.nn import text_unet_plan as text_plan
from core.nn.folded import Folded
from core.nn.text_unet import TextUNet
from core.objective import LogitNormal, Objective, flow
from core.prediction import FlowVelocity
from core.prompts import Captions, Conditions
from core.recipe import Recipe, Sampling, Training, build
from core.sample.dpm import dpmpp_2m
from core.schedule import Flow
from core.sizes import Before, Sizes
from core.systems.diffusion import Diffusion
from core.text.words import Words
from image.captioned import SEMANTIC_LOGIT
from image.evaluation import evaluator
from image.latent import OWN_AUTOENCODER, from_autoencoder
from image.modality import MODALITY
from image.own import LAW, Shape, dropout, own_pictures, rate_from


def divided_size(size: Sequence[int], factor: int) -> Size:
    """Height and width, less what does not divide by an autoencoder's factor. Raises ValueError for too small ones."""
    height, width = (side // factor * factor for side in Shape(tuple(size), 1, ()).sides)
    if min(height, width) < factor:
        raise ValueError(f"pictures of {tuple(size)} are too small for latents, a side of {factor} to one: use edm")
    return (height, width)


def own_plan(channels: int, size: Sequence[int], fold: int, width: int, latent: int) -> Plan:
    """An autoencoder that makes each side a quarter as long, or an eighth where they are longer than 96."""
    factor = 4 if max(size, default=0) <= 96 else 8
    fold = fold or factor // 2
    widths = [width]
    while fold * 2 ** (len(widths) - 1) < factor:
        widths.append(2 * width)
    return Plan(channels, latent, tuple(widths), 1, groups=8, middle_attention=False, fold=fold)


def text_unet(channels: int, size: Size, width: int, depth: int, text_width: int, dropout: float) -> Folded:
    """A U-Net for latents (C, H, W) that reads text on all grids but its finest, if that is large."""
    grid, levels = max(size), 1
    while grid > 4 and levels < 4:
        grid, levels = -(-grid // 2), levels + 1
    depths = [0 if max(size) >> level > 8 else 1 for level in range(levels)]
    widths = tuple(width * (level + 1) for level in range(levels))
    head = 32 if width % 32 == 0 else 16 if width % 16 == 0 else 8
    plan = text_plan.Plan(
        channels, channels, widths, tuple(depths), text_width, blocks=depth, head_width=head, groups=8, dropout=dropout
    )
    return Folded(TextUNet(plan), 1, 2 ** (levels - 1))


@dataclass(frozen=True)
class OwnLatents:
    """Captioned pictures of one's own in the code of an autoencoder: what the arguments of a recipe say of both."""

    data: str
    size: tuple[int, ...]
    channels: int
    mirror: bool
    fold: int
    width: int  # of the autoencoder
    latent: int

    @property
    def plan(self) -> Plan:
        """Of the autoencoder."""
        return own_plan(self.channels, self.size, self.fold, self.width, self.latent)

    @property
    def grid(self) -> Size:
        """Height and width of the latents."""
        factor = self.plan.factor
        height, width = divided_size(self.size, factor)
        return (height // factor, width // factor)

    def system(self, net: nn.Module, words: Words) -> Diffusion:
        """A network that reads captions, on a rectified flow."""
        denoiser = Denoiser(net, Flow(), FlowVelocity(), thousandths)
        codec = Latents(KLAutoencoder(self.plan))
        return Diffusion(denoiser, words, codec, Objective(LogitNormal(SEMANTIC_LOGIT), flow, drop=0.1))

    def recipe(self, system: Callable[[], Diffusion], autoencoder: str, training: Training, sizes: Sizes) -> Recipe:
        """A recipe that is asked for the captions that are held out; its autoencoder is a file's, or trained first."""
        pictures = own_pictures(self.data, divided_size(self.size, self.plan.factor), self.channels, self.mirror)
        first = build(OWN_AUTOENCODER, asdict(self))

        @cache
        def parts() -> tuple[Dataset, Dataset]:
            train, held_out = pictures()
            if "caption" not in train.get([0]):
                raise DataError(
                    f"{self.data} has no captions: add a table such as captions.csv, or train edm, which needs none"
                )
            return train, held_out

        def validation(seed: int, samples: Sequence[int]) -> Conditions:
            held_out = parts()[1]
            captions: list[str] = held_out.get([number % len(held_out) for number in samples])["caption"]
            return {"caption": captions}

        return Recipe(
            system,
            (self.plan.code, *self.grid),
            Sampling(dpmpp_2m, trailing, steps=20, guidance=3.0),
            training,
            parts,
            MODALITY,
            Captions(validation),
            evaluate=evaluator(parts),
            initialize=from_autoencoder(autoencoder, first),
            sizes=sizes,
        )


AUTOENCODER_SIZES = Sizes(
    [{"width": width} for width in (16, 24, 32, 48, 64, 96, 128)], LAW, rate_from(32, 2e-3), dropout
)
AUTOENCODER_FIRST = Before(
    "autoencoder",
    OWN_AUTOENCODER,
    "autoencoder",
    0.35,
    ("data", "size", "channels", "mirror", "fold", "latent"),
    {"latent_width": "width"},
    3_000,
)
TEXT_UNET_SIZES = Sizes(
    [{"width": width, "depth": 1} for width in (16, 24, 32, 48, 64, 96)]
    + [{"width": width, "depth": 2} for width in (96, 128, 192, 256)],
    LAW,
    rate_from(32, 2e-3),
    dropout,
    AUTOENCODER_FIRST,
)
MMDIT_SIZES = Sizes(
    [{"heads": heads, "depth": depth} for heads, depth in ((2, 4), (3, 5), (4, 6), (6, 8), (8, 10), (12, 12))],
    LAW,
    rate_from(4, 1e-3, "heads"),
    dropout,
    AUTOENCODER_FIRST,
)
FLUX_SIZES = Sizes(
    [
        {"heads": heads, "doubles": doubles, "singles": singles}
        for heads, doubles, singles in ((2, 1, 3), (3, 2, 3), (4, 2, 4), (6, 3, 5), (8, 4, 6), (12, 4, 8))
    ],
    LAW,
    rate_from(4, 1e-3, "heads"),
    dropout,
    AUTOENCODER_FIRST,
)
