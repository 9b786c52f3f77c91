"""Pictures prepared once: decoded, upright, on white, resized, as PNG files with one table of all that is known."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.data.preparation import Preparation
from core.data.survey import LeftOut, Track
from core.files import whole
from core.flags import option

if TYPE_CHECKING:
    from PIL import Image

    from core.data.source import Source

SETTINGS = "prepared.json"
FOLDER = 1000  # pictures in each folder


@dataclass(frozen=True)
class PicturePreparation(Preparation):
    """Pictures of a folder or of tar shards as PNG files, with a table metadata.csv."""

    size: int = option(0, "shorter side, to which larger pictures are made smaller; 0 leaves them", "PIXELS")
    channels: int = option(3, "channels: 1 for grey, 3 for colour")

    def __post_init__(self) -> None:
        if self.size < 0 or self.channels not in (1, 3):
            raise ValueError("--size must not be negative, and --channels must be 1 or 3")

    def run(self, source: Path, out: Path, track: Track) -> Sequence[LeftOut]:
        """Write pictures to out/000/000000.png and so on, those that are there already are kept, then the table."""
        from core.data.dataset import DataError
        from core.data.source import check_left_out
        from image.folder import arrays_at, open_files
        from image.source import decode

        if (file := arrays_at(source)) is not None:
            raise DataError(f"{file} is an .npz file, which needs no preparation: train on it")
        if out.resolve() == source.resolve() or source.resolve() in out.resolve().parents:
            raise DataError(f"{out} lies in the data themselves: give a folder elsewhere")
        opened = open_files(source, track)
        self._claim(source, out)
        rows: list[tuple[int, str]] = []
        broken: list[LeftOut] = list(opened.left_out)
        for index in track(range(len(opened.source)), "preparing pictures"):
            name = f"{index // FOLDER:03d}/{index:06d}.png"
            if not (out / name).is_file():
                try:
                    picture = self.resized(decode(opened.source, index, self.channels))
                except DataError as error:
                    broken.append(LeftOut(opened.source.name(index), str(error)))
                    continue
                with whole(out / name) as draft:
                    picture.save(draft, format="PNG")
            rows.append((index, name))
        check_left_out(broken, len(rows))
        with whole(out / "metadata.csv") as draft:
            draft.write_text(table(opened.source, rows), encoding="utf-8")
        return broken

    def resized(self, picture: Image.Image) -> Image.Image:
        """A picture whose shorter side is ``size`` at most."""
        from PIL import Image

        shorter = min(picture.size)
        if not self.size or shorter <= self.size:
            return picture
        width, height = (max(self.size, round(side * self.size / shorter)) for side in picture.size)
        return picture.resize((width, height), Image.Resampling.LANCZOS)

    def _claim(self, source: Path, out: Path) -> None:
        """Write down what ``out`` is made of. Raises DataError where it is made of something else already."""
        settings = {"source": str(source.resolve()), **asdict(self)}
        written = out / SETTINGS
        if written.is_file():
            try:
                found = json.loads(written.read_text())
            except ValueError:
                found = None
            if found != settings:
                raise ValueError(f"{out} was prepared from something else, or otherwise: give another folder")
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"{out} is there already and was not prepared here: give a new folder")
        with whole(written) as draft:
            draft.write_text(json.dumps(settings))


def table(source: Source, rows: Sequence[tuple[int, str]]) -> str:
    """The table of some pictures of a source and their names: captions, classes, groups, the split and numbers."""
    facts = source.facts
    columns = ["file_name"]
    columns += ["text"] if source.captioned else []
    columns += ["label"] if facts.labels is not None else []
    columns += ["group"] if facts.groups is not None else []
    columns += ["split"] if facts.test else []
    text = io.StringIO()
    pen = csv.writer(text, lineterminator="\n")
    pen.writerow([*columns, *facts.numbers])
    for index, name in rows:
        row: list[object] = [name]
        row += [source.caption(index)] if source.captioned else []
        row += [facts.classes[facts.labels[index]]] if facts.labels is not None else []
        row += [facts.groups[index]] if facts.groups is not None else []
        row += ["test" if index in facts.test else "train"] if facts.test else []
        pen.writerow([*row, *(values[index] for values in facts.numbers.values())])
    return text.getvalue()


PREPARATION = PicturePreparation
