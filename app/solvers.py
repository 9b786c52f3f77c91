"""`langevin solvers`: hold every sampler to what it claims, against closed forms in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.options import option, parse
from app.way import find_sampler
from core.certificate import certify, markdown
from core.sample import SAMPLERS

ABOUT = """Measure the order of convergence of every deterministic sampler, and mean, covariance and weak order of every
stochastic one, against the exact denoiser of a Gaussian mixture on every kind of schedule. Minutes for all of them.
Examples: langevin solvers --list;  langevin solvers --only heun;  langevin solvers --markdown docs/certificates.md"""


@dataclass(frozen=True)
class Options:
    """What `langevin solvers` takes."""

    list: bool = option(False, "only list the samplers and what they claim")
    only: str | None = option(None, "measure this sampler only")
    markdown: Path | None = option(None, "write the page of certificates to this file")
