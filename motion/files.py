"""Takes: poses with their frame rate and caption, from and to files of any of the formats that we know."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from motion.bvh import from_poses, write_bvh
from motion.bvh_reader import read_bvh
from motion.features import check, decode
from motion.gltf import write_glb
from motion.retarget import retarget
from motion.skeleton import HUMAN


@dataclass(frozen=True)
class Take:
    """Poses (T, 22, 3) in metres, frames a second, and what they show. Raises ValueError if they are none."""

    joints: Tensor
    fps: float = HUMAN.fps
    caption: str = ""

    def __post_init__(self) -> None:
        check(self.joints)
        if not self.fps > 0:
            raise ValueError(f"a frame rate must be positive, not {self.fps}")


def write_npz(path: Path, take: Take) -> None:
    """Write poses, frame rate, caption and the names of the joints."""
    joints = take.joints.float().numpy()
    with open(path, "wb") as file:  # for a name, NumPy adds .npz to other suffixes, .NPZ among them
        np.savez_compressed(file, joints=joints, fps=take.fps, caption=take.caption, names=np.array(HUMAN.names))


def read_npz(path: Path) -> Take:
    """Read what ``write_npz`` wrote. Raises ValueError for anything else."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("joints", "fps", "caption")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a motion written as .npz with joints, fps and caption") from error
    return Take(torch.from_numpy(arrays["joints"]), float(arrays["fps"]), str(arrays["caption"]))


def read(path: Path) -> Take:
    """Read .bvh, .npz, or .npy with poses (T, 22, 3) or features (T, 263). Raises ValueError for what is none."""
    suffix = path.suffix.lower()
    if suffix == ".bvh":
        bvh = read_bvh(path)
        return Take(retarget(bvh).float(), bvh.fps)
    if suffix == ".npz":
        return read_npz(path)
    if suffix == ".npy":
        try:
            values = torch.from_numpy(np.load(path, allow_pickle=False)).float()
        except (OSError, ValueError, EOFError, TypeError) as error:
            raise ValueError(f"{path} is not a readable .npy file of numbers") from error
        return Take(decode(values) if values.ndim == 2 else values)
    raise ValueError(f"{path} is no motion: give a .bvh, .npz or .npy file")


def write(path: Path, take: Take) -> None:
    """Write .bvh (centimetres), .npz or .glb, by the ending of the name. Raises ValueError for another ending."""
    suffix = path.suffix.lower()
    if suffix == ".bvh":
        write_bvh(path, from_poses(take.joints, take.fps))
    elif suffix == ".npz":
        write_npz(path, take)
    elif suffix == ".glb":
        write_glb(path, take.joints, take.fps)
    else:
        raise ValueError(f"motions are written as .bvh, .npz or .glb, not '{path.suffix}'")
