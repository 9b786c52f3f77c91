"""In-betweening, regenerating a part of the body, and extending: inpainting over frames and features (2209.14916)."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.flags import option
from core.model import Model, Operation

if TYPE_CHECKING:
    from motion.changing import Spans
    from motion.files import Take


@dataclass(frozen=True)
class MotionOperation(Operation):
    """An edit of a motion: some frames, or some of the body in all frames, are generated and the rest is kept."""

    def run(self, model: Model, source: Take) -> list[Take]:
        """The edited motions, one for each result. Raises ValueError where the clip cannot be edited so."""
        from core.random import SamplingRNG
        from motion.changing import FPS, clips_of, edit_mask, regenerate
        from motion.features import canonical, encode
        from motion.kinematics import resample

        clips, sampling, prompt = clips_of(model), self.sampling(model.sampling), self.prompt or ""
        if not prompt:
            sampling = dataclasses.replace(sampling, guidance=1.0)
        normal = clips.normal()
        features = normal.apply(encode(canonical(resample(source.joints, source.fps, FPS))).float())
        known, mask = edit_mask(features, self.kept, self.body_part, self.length)
        known, noise = known.expand(self.count, -1, -1), SamplingRNG(self.seed, self.samples())
        x = regenerate(model.diffusion, prompt, known, mask, noise, sampling, normal, clips.frames)
        return list(clips.decode(model.decoded(x), {"caption": [prompt] * self.count}))

    @property
    def kept(self) -> Spans | None:
        """The frames that are kept whole; None for the operation's usual ones."""
        return None

    @property
    def body_part(self) -> str | None:
        """The part of the body that is generated where frames are not kept whole; None for all of it."""
        return None

    @property
    def length(self) -> float | None:
        """Seconds of the result; None for the length of the source."""
        return None


@dataclass(frozen=True)
class InBetween(MotionOperation):
    """Generate the frames between kept ones."""

    keep: str = option("", "frames to keep, such as 0:20,60: for all but 20 to 59, at 20 a second (required)", "SPANS")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.keep:
            raise ValueError("in-betweening needs --keep: write 0:20,60: to generate frames 20 to 59")
        spans(self.keep)

    @property
    def kept(self) -> Spans:
        return spans(self.keep)


@dataclass(frozen=True)
class Regenerate(MotionOperation):
    """Generate a part of the body and keep the rest."""

    part: str = option("upper", "body part to regenerate: upper, lower, left-arm, right-arm")
    keep: str = option("", "frames in which the part is kept too, such as 0:20 (default: none)", "SPANS")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep:
            spans(self.keep)

    @property
    def kept(self) -> Spans | None:
        return spans(self.keep) if self.keep else None

    @property
    def body_part(self) -> str:
        return self.part


@dataclass(frozen=True)
class Extend(MotionOperation):
    """Keep the motion and generate what follows."""

    seconds: float = option(0.0, "length of the result in seconds, the source included (required)", "SECONDS")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.seconds < float("inf"):
            raise ValueError("extending needs --seconds: the length of the result, the source included")

    @property
    def length(self) -> float:
        return self.seconds


def spans(typed: str) -> Spans:
    """ "0:20,60:" as ((0, 20), (60, None)). Raises ValueError for what is no list of spans."""
    found = [re.fullmatch(r"\s*(\d*):(\d*)\s*", word) for word in typed.split(",")]
    if not all(found):
        raise ValueError(
            f"'{typed}' does not say which frames are kept: write 0:20,60:80 for the first 20 and 60 to 79"
        )
    return tuple((int(match[1] or 0), int(match[2]) if match[2] else None) for match in found if match)
