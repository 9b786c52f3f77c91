"""Writing what a model made: the ending of the file's name says as what.

.png          a contact sheet of all clips, with the settings that made them in its metadata
.gif .mp4     a film of all clips, one below the other
.bvh .npz .glb    a file for each clip: NAME-000.bvh, NAME-001.bvh, ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import PngImagePlugin
from torch import Tensor

from core.provenance import KEY, dumps
from motion.drawing import sheet, write_film
from motion.features import decode
from motion.files import Take, write
from motion.skeleton import HUMAN

FILMED = 8  # clips in a film at most


def show(path: Path, features: Tensor, settings: Mapping[str, object], frames: Sequence[int] | None = None) -> None:
    """Write clips of features (N, T, 263), of which the first ``frames`` rows count, told by ``settings["captions"]``.

    Raises ValueError for an ending that is none of those above.
    """
    joints = decode(features.float().cpu())
    count = list(frames) if frames is not None else [joints.shape[1]] * len(joints)
    clips = [clip[:rows] for clip, rows in zip(joints, count, strict=True)]
    given = settings.get("captions")
    captions = [str(words) for words in given] if isinstance(given, Sequence) else [""] * len(clips)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        note = PngImagePlugin.PngInfo()
        note.add_text(KEY, dumps(settings))
        sheet(clips, captions).save(path, pnginfo=note)
    elif path.suffix in (".gif", ".mp4"):
        write_film(path, clips[:FILMED], HUMAN.fps, captions[:FILMED])
    else:
        for number, (clip, caption) in enumerate(zip(clips, captions, strict=True)):
            name = path if len(clips) == 1 else path.with_name(f"{path.stem}-{number:03d}{path.suffix}")
            write(name, Take(clip, HUMAN.fps, caption))
