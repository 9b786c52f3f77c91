"""What figures say of a model in words: what to do next. Each rule reads the figures it needs, and is silent without.

A rule compares ends of intervals, not values, so that chance alone gives no advice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from core.evaluation.interval import ConfidenceInterval
from core.evaluation.names import (
    AS_ASKED,
    CHANCE,
    COVERAGE,
    DETAIL,
    FRECHET,
    FRECHET_RAW,
    LOSS,
    MEMORISED,
    NEW_CAPTION,
    PRECISION,
    REAL,
    RECALL,
    SAMPLES,
    SEEN_CAPTION,
    TRAINING_LOSS,
)

Figures = Mapping[str, object]
Rule = Callable[[Figures], Iterator[str]]
FEW = 256  # samples
SHARES = (AS_ASKED, PRECISION, RECALL, COVERAGE)  # of which real data have the most


def advice(figures: Figures) -> list[str]:
    """Sentences on what to do next, the most pressing first; one at least."""
    found = [sentence for rule in RULES for sentence in rule(figures)]
    behind = [name for name in SHARES if _high(figures, name) < _low(figures, name + REAL)]
    if not found and behind:
        return [f"Nearly as real data, but not in: {', '.join(behind)}. More time may close the gap."]
    return found or ["Every figure is as that of real data, as far as so many samples tell: nothing is left to do."]


def _memorised(figures: Figures) -> Iterator[str]:
    if _low(figures, MEMORISED) > 2 * _value(figures, MEMORISED + REAL):
        yield (
            f"Memorising: {_value(figures, MEMORISED):.0%} of the samples are as near to a training example as "
            f"{_value(figures, MEMORISED + REAL):.0%} of real ones are. More data, augmentation or dropout, a smaller "
            "network or a shorter training make it less."
        )


def _overfitting(figures: Figures) -> Iterator[str]:
    held_out, training = _value(figures, LOSS), _value(figures, TRAINING_LOSS)
    if _low(figures, LOSS) > _high(figures, TRAINING_LOSS) and held_out > 1.05 * training:
        yield (
            f"Overfitting: the loss of held-out examples is {held_out / training - 1:.0%} above that of training "
            "examples. More data, augmentation or dropout help, and more time does not."
        )


def _collapse(figures: Figures) -> Iterator[str]:
    few = [name for name in (RECALL, COVERAGE) if _high(figures, name) < 0.7 * _value(figures, name + REAL)]
    if few and _high(figures, PRECISION) >= 0.9 * _value(figures, PRECISION + REAL):
        yield (
            f"Little variety: the {' and '.join(few)} of the samples "
            f"{'are' if len(few) > 1 else 'is'} below 70 % of real data's, and each sample is good: lower the "
            "guidance, or train for longer."
        )


def _quality(figures: Figures) -> Iterator[str]:
    times = _value(figures, FRECHET_RAW) / max(_value(figures, FRECHET_RAW + REAL), 1e-12)
    far = _low(figures, FRECHET) > max(_high(figures, FRECHET + REAL), 0) and times > 1.5
    poor = _high(figures, PRECISION) < 0.8 * _value(figures, PRECISION + REAL)
    if not (far or poor):
        return
    distance = f"the Frechet distance is {times:.3g} times that of real data"
    what = distance if far else "many samples lie where nothing real lies"
    if any(True for rule in (_memorised, _overfitting) for _ in rule(figures)):
        yield f"Not there yet: {what}; the training data are used up, so more data is what helps."
    else:
        yield f"Not there yet: {what}, and nothing is overfitted: more time (or a larger network in more time) helps."


def _detail(figures: Figures) -> Iterator[str]:
    if _low(figures, DETAIL) > max(0.05, 2 * _high(figures, DETAIL + REAL)):
        yield (
            "The finest detail differs from real data's: samples are blurred or noisy. More steps or another sampler "
            "may do; otherwise more time."
        )


def _classes(figures: Figures) -> Iterator[str]:
    if _high(figures, AS_ASKED) < 0.94 * _value(figures, AS_ASKED + REAL):
        yield (
            f"{_value(figures, AS_ASKED):.0%} of the samples are read as the class asked for, and "
            f"{_value(figures, AS_ASKED + REAL):.0%} of real examples: more guidance (--guidance 2) or more time."
        )


def _captions(figures: Figures) -> Iterator[str]:
    real, seen = _value(figures, SEEN_CAPTION + REAL), _value(figures, SEEN_CAPTION)
    learnt = not seen < 0.8 * real
    if not learnt:
        yield (
            f"Captions seen in training are found again in {seen:.0%} of the samples, and in {real:.0%} of real "
            "examples: more guidance or more time."
        )
    blind = _value(figures, NEW_CAPTION + CHANCE)
    if _value(figures, NEW_CAPTION + REAL) < 2 * blind:
        yield (
            "The judge hardly reads captions that it has not seen, even of real examples, so that figure says little: "
            "give --features a folder of CLIP."
        )
    elif learnt and _value(figures, NEW_CAPTION) < 0.5 * _value(figures, NEW_CAPTION + REAL):
        yield (
            f"Captions that training never had are found in {_value(figures, NEW_CAPTION):.0%} of the samples "
            f"(chance is {blind:.0%}), and seen ones are: more captioned data, of more words, is what helps."
        )


def _few(figures: Figures) -> Iterator[str]:
    if _value(figures, SAMPLES) < FEW:
        yield f"{_value(figures, SAMPLES):.0f} samples tell little: --count 1000 makes the intervals narrow."


RULES: Sequence[Rule] = (_memorised, _overfitting, _collapse, _quality, _detail, _classes, _captions, _few)


def _value(figures: Figures, name: str) -> float:
    """A figure's value; not a number where there is none, which no comparison holds for."""
    found = figures.get(name)
    if isinstance(found, ConfidenceInterval):
        return found.value
    return float(found) if isinstance(found, int | float) else float("nan")


def _low(figures: Figures, name: str) -> float:
    found = figures.get(name)
    return found.low if isinstance(found, ConfidenceInterval) else _value(figures, name)


def _high(figures: Figures, name: str) -> float:
    found = figures.get(name)
    return found.high if isinstance(found, ConfidenceInterval) else _value(figures, name)
