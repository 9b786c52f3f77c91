"""NPZ files of positions: one clip, or many behind one another, of any skeleton whose joints go by known names.

positions     (N, J, 3) with lengths, or (clips, T, J, 3), or (T, J, 3) of one clip; "joints" and "poses" mean the same
lengths       (clips,) frames of each
fps           frames a second: one number, or one for each clip
joint_names   (J,) names of the joints; without them there are 22, in the order of HumanML3D and in metres
parents       (J,) the joint above each, -1 at the root: says which joints are the spine
names         (clips,) names of the clips; captions (clips,) what they show; groups (clips,) what is never split
labels        (clips,) names or numbers of classes; "content", "classes" and "actions" mean the same;
              class_names (classes,) names of the numbers
split         (clips,) "train" or "test"
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from motion.retarget import Performance, retarget
from motion.skeleton import HUMAN
from motion.take import Take

POSITIONS = ("positions", "joints", "poses")
LABELS = ("labels", "label", "content", "classes", "actions")
GROUPS = ("groups", "group", "subjects")
TESTS = ("test", "val", "valid", "validation", "held_out", "eval")


@dataclass(frozen=True)
class Archive:
    """The arrays of a file, small ones read at once and positions when they are asked for."""

    path: Path
    small: Mapping[str, NDArray[Any]]
    key: str  # of the positions
    shape: tuple[int, ...]

    @cached_property
    def positions(self) -> NDArray[Any]:
        """All positions as they are in the file."""
        with np.load(self.path, allow_pickle=False) as file:
            return np.asarray(file[self.key])

    @cached_property
    def lengths(self) -> list[int]:
        """Frames of each clip."""
        if "lengths" in self.small:
            return [int(count) for count in self.small["lengths"].reshape(-1)]
        return [self.shape[1]] * self.shape[0] if len(self.shape) == 4 else [self.shape[0]]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the joints, empty without."""
        return tuple(str(name) for name in self.small.get("joint_names", ()))

    def texts(self, *keys: str) -> list[str]:
        """The words of each clip under the first of some keys, empty without."""
        for key in keys:
            values = self.small.get(key)
            if values is not None:
                values = values.reshape(-1)
                if len(values) != len(self):
                    raise ValueError(f"'{key}' of {self.path.name} has {len(values)} rows for {len(self)} clips")
                names = self.small.get("class_names")
                if values.dtype.kind in "iu" and key in LABELS and names is not None:
                    return [str(names[int(value)]) for value in values]
                return [str(value).strip() for value in values]
        return [""] * len(self)

    def tests(self) -> list[bool | None]:
        """Whether each clip is of a given test split; None where none is given."""
        return [None if not word else word.lower() in TESTS for word in self.texts("split", "part")]

    def clip_names(self) -> list[str]:
        """A name for each clip."""
        return [name or f"{number:04d}" for number, name in enumerate(self.texts("names"))]

    def rate(self, clip: int) -> float:
        """Frames a second of a clip."""
        rates = self.small["fps"].reshape(-1)
        return float(rates[clip if len(rates) > 1 else 0])

    def rows(self, clip: int) -> NDArray[Any]:
        """The positions (T, J, 3) of a clip."""
        if len(self.shape) == 4:
            return np.asarray(self.positions[clip, : self.lengths[clip]])
        start = sum(self.lengths[:clip])
        return np.asarray(self.positions[start : start + self.lengths[clip]])

    def digest(self, clip: int) -> str:
        """A hash of a clip's content."""
        found = hashlib.sha256(np.ascontiguousarray(self.rows(clip)).tobytes())
        found.update(f"{self.rate(clip)} {self.joint_names}".encode())
        return found.hexdigest()

    def take(self, clip: int) -> Take:
        """A clip as 22 joints. Raises ValueError where it is none."""
        positions = torch.from_numpy(self.rows(clip).astype(np.float64))
        if not bool(positions.isfinite().all()):
            raise ValueError("the positions contain NaN or infinity: repair or cut those frames")
        caption, names = self.texts("captions", "caption")[clip], self.joint_names
        if not names or names == HUMAN.names:
            return Take(positions.float(), self.rate(clip), caption)
        theirs = {name: positions[:, joint] for joint, name in enumerate(names)}
        rest = {name: place.mean(0, keepdim=True) for name, place in theirs.items()}
        parents = tuple(int(parent) for parent in self.small["parents"]) if "parents" in self.small else ()
        source = Performance(names, parents, theirs, rest, self.rate(clip))
        return Take(retarget(source, unit=self._unit(positions, names, parents)).float(), self.rate(clip), caption)

    def _unit(self, positions: torch.Tensor, names: Sequence[str], parents: Sequence[int]) -> float:
        """Metres a unit: the legs, whose length in each frame is that of their bones, are scaled to those of HUMAN."""
        source = Performance(
            tuple(names),
            tuple(parents),
            {name: positions[:, joint] for joint, name in enumerate(names)},
            {name: positions[:1, joint] for joint, name in enumerate(names)},
            1.0,
        )
        lengths = HUMAN.lengths(retarget(source, unit=1.0))[:, [3, 4, 6, 7]].mean()
        return float(HUMAN.offsets(torch.float64)[[4, 5, 7, 8]].norm(dim=-1).mean() / lengths)


def open_archive(path: Path) -> Archive:
    """The clips of a file. Raises ValueError, in one sentence, for what has no positions or does not fit together."""
    try:
        with np.load(path, allow_pickle=False) as file:
            key = next((key for key in POSITIONS if key in file.files), None)
            small = {name: np.asarray(file[name]) for name in file.files if name not in POSITIONS}
            shape = () if key is None else _shape(file, key)
    except (OSError, EOFError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{path.name} is no readable .npz file of arrays: write it again with numpy.savez") from error
    if key is None:
        raise ValueError(f"{path.name} is no motion: it has none of {', '.join(POSITIONS)}")
    if "joint_names" not in small and small.get("names", np.empty(0)).shape == shape[-2:-1]:
        small["joint_names"] = small.pop("names")  # as our own files of one clip have them
    found = Archive(path, small, key, shape)
    if len(shape) not in (3, 4) or shape[-1] != 3:
        raise ValueError(f"'{key}' of {path.name} has the shape {shape}: positions are (frames, joints, 3)")
    if "fps" not in small or not (small["fps"] > 0).all():
        raise ValueError(f"{path.name} does not say its frame rate: add 'fps'")
    total = shape[0] if len(shape) == 3 else shape[1]
    if (sum(found.lengths) if len(shape) == 3 else max(found.lengths, default=0)) > total or min(found.lengths) < 1:
        raise ValueError(f"'lengths' of {path.name} ask for more frames than there are, or for none")
    if found.joint_names and len(found.joint_names) != shape[-2]:
        raise ValueError(f"{path.name} names {len(found.joint_names)} joints and has {shape[-2]}")
    if not found.joint_names and shape[-2] != HUMAN.joints:
        raise ValueError(f"{path.name} has {shape[-2]} joints without names: add 'joint_names'")
    return found


def _shape(file: Any, key: str) -> tuple[int, ...]:
    """The shape of an array, from its header alone."""
    with file.zip.open(f"{key}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return tuple(int(side) for side in read(member)[0])
