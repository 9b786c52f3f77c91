"""`langevin solvers`: hold every sampler to what it claims, against closed forms in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.options import parse
from core.flags import option
from core.sample import ALIASES, SAMPLERS, SamplerInfo, find_sampler
from core.verify.orders import certify, markdown
from core.verify.weak_orders import certify_weak, weak_markdown
from core.weights.checkpoint import write_whole

ABOUT = """Measure the order of convergence of every deterministic sampler, and mean, covariance and weak order of every
stochastic one, against the exact denoiser of a Gaussian mixture on every kind of schedule. Minutes for all of them.

Examples:
  langevin solvers --list
  langevin solvers --only heun
  langevin solvers --markdown docs/certificates.md"""
MARGIN = 0.2  # between the order that is claimed and the one that is measured


@dataclass(frozen=True)
class Options:
    """What `langevin solvers` takes."""

    list: bool = option(False, "only list the samplers, what they claim and their other names")
    only: str | None = option(None, "measure this sampler only")
    markdown: Path | None = option(None, "write the page of certificates to this file")


def main(words: Sequence[str]) -> None:
    """List, or measure and print; raises ValueError when a claim does not hold."""
    options, _ = parse(Options, "langevin solvers", ABOUT, words)
    chosen = dict(SAMPLERS)
    if options.only is not None:
        name, _ = find_sampler(options.only)
        chosen = {name: SAMPLERS[name]}
    if options.list:
        show(chosen)
        return
    rows, weak = certify(chosen), certify_weak(chosen)
    page = (markdown(rows) if rows else "") + (weak_markdown(weak) if weak else "")
    print(page)
    if options.markdown is not None:
        write_whole(options.markdown, page.encode())
    measured = [(row.sampler, row.schedule, row.claimed, row.measured) for row in rows if row.interior]
    measured += [(row.sampler, row.schedule, row.claimed, row.measured) for row in weak if row.claimed]
    wrong = [f"{name} on {schedule}" for name, schedule, claim, order in measured if not abs(order - claim) <= MARGIN]
    if wrong:
        raise ValueError(f"the measured order is not the claimed one for {', '.join(wrong)}")


def show(chosen: dict[str, SamplerInfo]) -> None:
    """A line for each sampler."""
    others: dict[str, list[str]] = {}
    for alias, (name, _) in ALIASES.items():
        others.setdefault(name, []).append(alias)
    for name, info in chosen.items():
        kind = "stochastic" if info.stochastic else "deterministic"
        order = f"order {info.order}" if info.order else "no order"
        also = f"  also {', '.join(others[name])}" if name in others else ""
        print(f"{name:20} {kind:13} {order:8}  {info.evaluations} evaluation(s) a step{also}")
