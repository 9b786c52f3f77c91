"""The names of figures, alike in every domain, so that they can be shown, compared and advised upon.

Under a figure's name with ``REAL`` behind it stands what real data have, with ``CHANCE`` what blind chance has.
"""

REAL, CHANCE = ", real", ", chance"

SAMPLES, HELD_OUT, DIMENSIONS = "samples", "held-out examples", "dimensions of features"
FRECHET, FRECHET_RAW, DETAIL = "Frechet distance", "Frechet distance, uncorrected", "Frechet distance, fine detail"
KERNEL_DISTANCE = "kernel distance"
PRECISION, RECALL, DENSITY, COVERAGE = "precision", "recall", "density", "coverage"
AS_ASKED = "read as the asked class"
SEEN_CAPTION, NEW_CAPTION = "caption found, seen captions", "caption found, held-out captions"
MEMORISED, NEAREST = "memorised", "nearest training example"
LOSS, TRAINING_LOSS = "loss, held-out", "loss, training"
