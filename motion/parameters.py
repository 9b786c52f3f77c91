"""What the parameters of the recipes of motions mean, beside those of ``core/parameters.py``."""

from __future__ import annotations

from core.parameters import About

PARAMETERS = {
    "geometry": About("weight of the losses of positions, velocities and feet, in square metres", "WEIGHT"),
    "frames": About("rows of a window of the recordings, 20 a second: what the model makes at once", "ROWS"),
}
