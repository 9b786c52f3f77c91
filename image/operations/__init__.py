"""Edits of pictures: each a dataclass of flags for ``langevin edit NAME``. Leaves torch alone until one is run."""

from __future__ import annotations

from collections.abc import Mapping

from core.model import Operation
from image.operations.image_to_image import ImageToImage
from image.operations.inpaint import Inpaint
from image.operations.invert import Invert
from image.operations.restore import Restore

OPERATIONS: Mapping[str, type[Operation]] = {
    "image-to-image": ImageToImage,
    "inpaint": Inpaint,
    "invert": Invert,
    "restore": Restore,
}
