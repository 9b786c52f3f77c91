"""What was renamed in files of pictures' models; see ``core.aliases``."""

from __future__ import annotations

from core.aliases import Aliases, TensorAlias

ALIASES = Aliases(
    tensors=(
        TensorAlias(2, "image.nn.ncsnpp.Encoder", "told", "progressive_input"),
        TensorAlias(2, "image.nn.ncsnpp.Decoder", "painter", "output_skip"),
    )
)
