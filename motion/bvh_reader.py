"""Reading BVH files, word by word; an error is one sentence with the number of the line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch

from motion.bvh import POSITIONS, ROTATIONS, Bvh, BvhError

CHANNELS = {name.lower(): name for name in (*POSITIONS, *ROTATIONS)}


def read_bvh(path: Path) -> Bvh:
    """Read a file. Raises BvhError, with the line, for whatever is no BVH or holds no frames."""
    try:
        text = path.read_text(encoding="latin-1")
    except OSError as error:
        raise BvhError(f"{path} cannot be read: check the path") from error
    return _Reader(path.name, text).read()


class _Reader:
    """The words of a file with their lines, and the joints found so far."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.lines = text.splitlines()
        self.line = 0  # of the word that was read last, counted from 1
        self.words = self._words()
        self.names: list[str] = []
        self.parents: list[int] = []
        self.offsets: list[tuple[float, ...]] = []
        self.channels: list[tuple[str, ...]] = []
        self.ends: dict[int, tuple[float, ...]] = {}

    def _words(self) -> Iterator[str]:
        for number, line in enumerate(self.lines, start=1):
            for word in line.split():
                self.line = number
                yield word
        self.line = len(self.lines)

    def wrong(self, what: str) -> BvhError:
        return BvhError(f"{self.name}, line {self.line}: {what}")

    def word(self, wanted: str) -> str:
        """The next word; ``wanted`` names it for the message if the file has ended."""
        found = next(self.words, None)
        if found is None:
            raise self.wrong(f"the file ends where {wanted} should be: it is cut off")
        return found

    def expect(self, *keywords: str) -> str:
        """The next word, which must be one of some keywords, in any case of letters."""
        found = self.word(" or ".join(keywords))
        if found.lower() not in {keyword.lower() for keyword in keywords}:
            raise self.wrong(f"'{found}' stands where {' or '.join(keywords)} should be")
        return found.lower()

    def number(self, wanted: str) -> float:
        """The next word as a finite number."""
        found = self.word(wanted)
        try:
            value = float(found)
        except ValueError:
            raise self.wrong(f"'{found}' stands where {wanted} should be") from None
        if not math.isfinite(value):
            raise self.wrong(f"{wanted} is '{found}', which is no finite number: repair or cut this frame")
        return value

    def read(self) -> Bvh:
        self.expect("HIERARCHY")
        self.expect("ROOT")
        self.joint(-1)
        if self.expect("MOTION", "ROOT") == "root":
            raise self.wrong("a second ROOT begins here: keep one skeleton a file")
        self.expect("Frames:")
        frames = self.number("the number of frames")
        if frames < 1 or frames != int(frames):
            raise self.wrong(f"the file announces {frames:g} frames: it must hold at least one")
        self.expect("Frame")
        self.expect("Time:")
        seconds = self.number("the time of a frame")
        if seconds <= 0:
            raise self.wrong(f"the time of a frame must be positive, not {seconds:g}")
        values = self.motion(int(frames))
        offsets = torch.tensor(self.offsets, dtype=torch.float64)
        return Bvh(tuple(self.names), tuple(self.parents), offsets, tuple(self.channels), self.ends, values, seconds)

    def joint(self, parent: int) -> None:
        """A joint and all below it, its keyword having been read; the name may have several words."""
        words = [self.word("the name of a joint")]
        while (next_word := self.word("{")) != "{":
            words.append(next_word)
        index = len(self.names)
        self.names.append(" ".join(words))
        self.parents.append(parent)
        self.expect("OFFSET")
        self.offsets.append(tuple(self.number("an offset") for _ in range(3)))
        self.channels.append(())
        while (keyword := self.expect("CHANNELS", "JOINT", "End", "}")) != "}":
            if keyword == "channels":
                self.channels[index] = self.channel_names()
            elif keyword == "joint":
                self.joint(index)
            else:
                self.expect("Site")
                self.expect("{")
                self.expect("OFFSET")
                self.ends[index] = tuple(self.number("an offset") for _ in range(3))
                self.expect("}")

    def channel_names(self) -> tuple[str, ...]:
        count = self.number("the number of channels")
        names = []
        for _ in range(int(count)):
            found = self.word("a channel")
            if found.lower() not in CHANNELS:
                raise self.wrong(f"'{found}' is no channel: there are {', '.join(CHANNELS.values())}")
            names.append(CHANNELS[found.lower()])
        if len(set(names)) < len(names):
            raise self.wrong("a joint has the same channel twice")
        return tuple(names)

    def motion(self, frames: int) -> torch.Tensor:
        """The numbers of all frames (T, C); a frame is a line."""
        columns = sum(len(channels) for channels in self.channels)
        rows: list[list[float]] = []
        for number, line in enumerate(self.lines[self.line :], start=self.line + 1):
            words = line.split()
            if not words:
                continue
            self.line = number
            if len(rows) == frames:
                raise self.wrong(f"there are more than the {frames} frames that the file announces")
            if len(words) != columns:
                raise self.wrong(f"the frame has {len(words)} numbers, but the joints have {columns} channels")
            try:
                row = [float(word) for word in words]
            except ValueError:
                bad = next(word for word in words if not _is_number(word))
                raise self.wrong(f"'{bad}' stands where a number should be") from None
            if not all(map(math.isfinite, row)):
                place = next(place for place, value in enumerate(row, start=1) if not math.isfinite(value))
                raise self.wrong(f"channel {place} is not a finite number: repair or cut this frame")
            rows.append(row)
        if len(rows) < frames:
            raise self.wrong(f"the file ends after {len(rows)} of {frames} frames: it is cut off")
        return torch.tensor(rows, dtype=torch.float64).view(frames, columns)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
