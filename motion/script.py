"""Scripts: the actions of a clip and their caption. Both come from one draw, so every caption is true.

A script is one or two acts in a row, perhaps with a hand that waves meanwhile. Its caption has some of the words that
people use; its acts hold the numbers.

    "a person walks slowly forward in a curve to the left, then kicks with the right foot"
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto

import numpy as np

Draw = np.random.Generator

SUBJECTS = ("a person", "someone", "the figure")
SIDES = ("left", "right")
DIRECTIONS = {"forward": 0.0, "backward": math.pi, "to the left": math.pi / 2, "to the right": -math.pi / 2}
SIDEWAYS, BACKWARD = (0.38, 0.5), (0.5, 0.85)  # metres a second
SPEEDS = {"backward": BACKWARD, "to the left": SIDEWAYS, "to the right": SIDEWAYS}  # forward there are paces
PACES = {"slowly": (0.5, 0.7), "": (0.95, 1.2), "quickly": (1.5, 1.75)}  # metres a second
LEGS = {"left": ("left foot", "left leg"), "right": ("right foot", "right leg")}
HANDS = {"left": ("left hand", "left arm"), "right": ("right hand", "right arm")}


class Kind(Enum):
    """The actions that there are."""

    WALK = auto()
    RUN = auto()
    JUMP = auto()
    WAVE = auto()
    SIT = auto()
    KICK = auto()
    BOW = auto()
    TURN = auto()


@dataclass(frozen=True)
class Act:
    """One action. Numbers that do not belong to its kind are 0, words empty."""

    kind: Kind
    side: str = ""  # of a wave or a kick: left or right
    direction: str = ""  # of a walk, a key of DIRECTIONS
    pace: str = ""  # of a walk, a key of PACES
    speed: float = 0.0  # metres a second
    turn: float = 0.0  # radians to the left in all
    height: float = 0.0  # metres that a jump rises, a foot is kicked, or a seat is below standing
    distance: float = 0.0  # metres that a jump covers forward
    depth: float = 0.0  # radians of a bow
    rise: bool = False  # whether who sits stands up again
    seconds: float = 0.0
    meanwhile: bool = False  # whether it is done during the other act


@dataclass(frozen=True)
class Script:
    """Acts in the order in which they begin, and the sentence that describes them."""

    acts: tuple[Act, ...]
    caption: str

    @property
    def held_out(self) -> bool:
        """Whether this caption is kept from training."""
        return zlib.crc32(self.caption.encode()) % 10 == 0


def script(seed: int, index: int, held_out: bool) -> tuple[Script, Draw]:
    """Script ``index`` of the training or the held-out part, and the generator for all that it leaves open."""
    draw = np.random.Generator(np.random.Philox(key=[seed, index]))
    while True:
        found = _compose(draw)
        if found.held_out == held_out:
            return found, draw


def _compose(draw: Draw) -> Script:
    kind = draw.uniform()
    subject = _pick(draw, SUBJECTS)
    if kind < 0.45:
        act = _act(draw)
        return Script((act,), f"{subject} {_phrase(draw, act)}")
    if kind < 0.8:
        first, second = _act(draw, short=True), _act(draw, short=True)
        while second.kind is first.kind:
            second = _act(draw, short=True)
        if first.kind is Kind.SIT:
            first = replace(first, rise=True)
        link = _pick(draw, (", then ", " and then ", " and "))
        return Script((first, second), f"{subject} {_phrase(draw, first)}{link}{_phrase(draw, second)}")
    moving = _walk(draw) if draw.uniform() < 0.75 else _run(draw)
    waving = replace(_wave(draw), meanwhile=True)
    hand = _pick(draw, HANDS[waving.side])
    link = _pick(draw, (f"while waving with the {hand}", f"waving the {hand}"))
    return Script((moving, waving), f"{subject} {_phrase(draw, moving)} {link}")


def _pick(draw: Draw, options: tuple[str, ...]) -> str:
    return options[int(draw.integers(len(options)))]


def _act(draw: Draw, short: bool = False) -> Act:
    """Any act; a short one leaves time for another."""
    makers: tuple[Callable[[Draw], Act], ...] = (_walk, _run, _jump, _wave, _sit, _kick, _bow, _turn)
    place = int(draw.choice(len(makers), p=[0.28, 0.1, 0.12, 0.16, 0.08, 0.1, 0.07, 0.09]))
    act = makers[place](draw)
    return replace(act, seconds=0.6 * act.seconds) if short else act


def _walk(draw: Draw) -> Act:
    direction = str(draw.choice(list(DIRECTIONS), p=[0.6, 0.16, 0.12, 0.12]))
    seconds = draw.uniform(2.6, 4.2)
    if direction in SPEEDS:
        return Act(Kind.WALK, "", direction, "", draw.uniform(*SPEEDS[direction]), seconds=seconds)
    pace = str(draw.choice(list(PACES), p=[0.25, 0.5, 0.25]))
    bent = draw.uniform() < 0.35
    turn = float(draw.choice([-1, 1])) * draw.uniform(1.1, 2.2) if bent else 0.0
    return Act(Kind.WALK, "", direction, pace, draw.uniform(*PACES[pace]), turn, seconds=seconds)


def _run(draw: Draw) -> Act:
    turn = float(draw.choice([-1, 1])) * draw.uniform(1.1, 2.2) if draw.uniform() < 0.3 else 0.0
    return Act(Kind.RUN, "", "forward", "", draw.uniform(2.3, 3.0), turn, seconds=draw.uniform(2.4, 3.6))


def _jump(draw: Draw) -> Act:
    if draw.uniform() < 0.35:
        return Act(Kind.JUMP, height=draw.uniform(0.18, 0.3), distance=draw.uniform(0.5, 1.1))
    high = draw.uniform() < 0.5
    return Act(Kind.JUMP, height=draw.uniform(0.36, 0.52) if high else draw.uniform(0.1, 0.18))


def _wave(draw: Draw) -> Act:
    return Act(Kind.WAVE, SIDES[int(draw.integers(2))], seconds=draw.uniform(2.4, 4.5))


def _sit(draw: Draw) -> Act:
    again = draw.uniform() < 0.4
    return Act(Kind.SIT, height=draw.uniform(0.36, 0.46), rise=bool(again), seconds=draw.uniform(0.6, 1.4))


def _kick(draw: Draw) -> Act:
    return Act(Kind.KICK, SIDES[int(draw.integers(2))], height=draw.uniform(0.5, 0.95))


def _bow(draw: Draw) -> Act:
    deep = draw.uniform() < 0.5
    return Act(Kind.BOW, depth=draw.uniform(1.15, 1.5) if deep else draw.uniform(0.6, 0.85))


def _turn(draw: Draw) -> Act:
    sign = float(draw.choice([-1, 1]))
    return Act(Kind.TURN, turn=sign * (draw.uniform(2.95, 3.3) if draw.uniform() < 0.45 else draw.uniform(1.35, 1.75)))


def _phrase(draw: Draw, act: Act) -> str:
    """An act in words: "kicks with the left foot"."""
    return PHRASES[act.kind](draw, act)


def _turn_side(act: Act) -> str:
    return "left" if act.turn > 0 else "right"


def _phrase_walk(draw: Draw, act: Act) -> str:
    if act.direction in WALKS:
        return _pick(draw, WALKS[act.direction])
    phrase = _pick(draw, ("walks {} forward", "walks forward {}")).format(act.pace)
    if act.turn:
        phrase += " " + _pick(draw, (f"in a curve to the {_turn_side(act)}", f"and curves to the {_turn_side(act)}"))
    return " ".join(phrase.split())


def _phrase_run(draw: Draw, act: Act) -> str:
    phrase = _pick(draw, ("runs forward", "runs", "jogs forward"))
    return f"{phrase} in a curve to the {_turn_side(act)}" if act.turn else phrase


def _phrase_jump(draw: Draw, act: Act) -> str:
    if act.distance:
        return _pick(draw, ("jumps forward", "leaps forward", "makes a jump forward"))
    if act.height > 0.25:
        return _pick(draw, ("jumps high", "jumps up high", "makes a high jump"))
    return _pick(draw, ("makes a small jump", "hops a little", "does a small jump on the spot"))


def _phrase_wave(draw: Draw, act: Act) -> str:
    hand = _pick(draw, HANDS[act.side])
    return _pick(draw, (f"waves with the {hand}", f"waves the {hand}", f"raises the {hand} and waves"))


def _phrase_sit(draw: Draw, act: Act) -> str:
    down = _pick(draw, ("sits down", "takes a seat"))
    return f"{down} and {_pick(draw, ('stands up again', 'gets up again'))}" if act.rise else down


def _phrase_kick(draw: Draw, act: Act) -> str:
    leg = _pick(draw, LEGS[act.side])
    return _pick(draw, (f"kicks with the {leg}", f"kicks forward with the {leg}", f"does a kick with the {leg}"))


def _phrase_bow(draw: Draw, act: Act) -> str:
    if act.depth > 1:
        return _pick(draw, ("bows deeply", "makes a deep bow"))
    return _pick(draw, ("bows slightly", "makes a small bow"))


def _phrase_turn(draw: Draw, act: Act) -> str:
    if abs(act.turn) > 2.5:
        return _pick(draw, (f"turns around to the {_turn_side(act)}", f"makes a half turn to the {_turn_side(act)}"))
    return _pick(
        draw,
        (
            f"turns to the {_turn_side(act)}",
            f"makes a quarter turn to the {_turn_side(act)}",
            f"turns {_turn_side(act)}",
        ),
    )


# How a walk that is not forward is put into words.
WALKS: dict[str, tuple[str, ...]] = {
    "backward": ("walks backward", "walks backwards", "steps backward"),
    **{
        side: (f"sidesteps {side}", f"steps sideways {side}", f"walks {side}")
        for side in ("to the left", "to the right")
    },
}
PHRASES: dict[Kind, Callable[[Draw, Act], str]] = {
    Kind.WALK: _phrase_walk,
    Kind.RUN: _phrase_run,
    Kind.JUMP: _phrase_jump,
    Kind.WAVE: _phrase_wave,
    Kind.SIT: _phrase_sit,
    Kind.KICK: _phrase_kick,
    Kind.BOW: _phrase_bow,
    Kind.TURN: _phrase_turn,
}
