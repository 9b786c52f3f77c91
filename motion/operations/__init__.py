"""Edits of motions: each a dataclass of flags for ``langevin edit NAME``. Leaves torch alone until one is run."""

from __future__ import annotations

from motion.operations.edits import Extend, InBetween, Regenerate

OPERATIONS = {"in-between": InBetween, "regenerate": Regenerate, "extend": Extend}
