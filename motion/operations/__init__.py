"""Edits of motions: each a dataclass of flags for ``langevin edit NAME``. Leaves torch alone until one is run."""

from __future__ import annotations

from collections.abc import Mapping

from core.model import Operation
from motion.operations.edits import Extend, InBetween, Regenerate

OPERATIONS: Mapping[str, type[Operation]] = {"in-between": InBetween, "regenerate": Regenerate, "extend": Extend}
