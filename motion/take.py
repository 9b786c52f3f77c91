"""Takes: poses with their frame rate and caption, the objects of this domain."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from motion.features import check
from motion.skeleton import HUMAN


@dataclass(frozen=True)
class Take:
    """Poses (T, 22, 3) in metres, frames a second, and what they show. Raises ValueError if they are none."""

    joints: Tensor
    fps: float = HUMAN.fps
    caption: str = ""

    def __post_init__(self) -> None:
        check(self.joints)
        if not self.fps > 0:
            raise ValueError(f"a frame rate must be positive, not {self.fps}")
