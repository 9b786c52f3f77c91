"""Takes from and to files of any of the formats that we know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from motion.archive import open_archive
from motion.bvh import from_poses, write_bvh
from motion.bvh_reader import read_bvh
from motion.features import decode
from motion.gltf import write_glb
from motion.gltf_reader import read_glb
from motion.retarget import retarget
from motion.skeleton import HUMAN
from motion.take import Take


def write_npz(path: Path, take: Take) -> None:
    """Write poses, frame rate, caption and the names of the joints."""
    joints = take.joints.float().numpy()
    with open(path, "wb") as file:  # for a name, NumPy adds .npz to other suffixes, .NPZ among them
        np.savez_compressed(file, joints=joints, fps=take.fps, caption=take.caption, names=np.array(HUMAN.names))


def read(path: Path) -> Take:
    """Read .bvh, .glb, .npz, or .npy with poses (T, 22, 3) or features (T, 263). Raises ValueError for what is none."""
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise ValueError(f"{path} is no motion: give a .bvh, .glb, .npz or .npy file")
    return READERS[suffix](path)


def _bvh(path: Path) -> Take:
    bvh = read_bvh(path)
    return Take(retarget(bvh).float(), bvh.fps)


def _glb(path: Path) -> Take:
    found = read_glb(path)
    return Take(retarget(found).float(), found.fps)


def _npz(path: Path) -> Take:
    archive = open_archive(path)
    if len(archive) > 1:
        raise ValueError(
            f"{path.name} holds {len(archive)} clips where one is wanted: write one of them to its own file"
        )
    return archive.take(0)


def _npy(path: Path) -> Take:
    try:
        values = torch.from_numpy(np.load(path, allow_pickle=False)).float()
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise ValueError(f"{path} is not a readable .npy file of numbers") from error
    return Take(decode(values) if values.ndim == 2 else values)


READERS: Mapping[str, Callable[[Path], Take]] = {".bvh": _bvh, ".glb": _glb, ".npz": _npz, ".npy": _npy}


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
