"""Every schedule that is no table, by name."""

from __future__ import annotations

from core.schedule import EDM, VE, VP, Cosine, Flow, Schedule, SubVP, Trigonometric

CONTINUOUS: dict[str, Schedule] = {
    "vp": VP(),
    "sub-vp": SubVP(),
    "ve": VE(),
    "edm": EDM(),
    "flow": Flow(),
    "flow shifted": Flow(shift=3.0),
    "continuous cosine": Cosine(),
    "trigonometric": Trigonometric(),
}
