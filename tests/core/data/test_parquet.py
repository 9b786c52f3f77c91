"""Tables in parquet that hold files: bytes, captions, classes by name, and the splits of their names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.data.dataset import DataError
from core.data.parquet import open_parquet, parquet_files
from core.data.source import Kind

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
SOUNDS = Kind("sound", frozenset({".wav"}))


def write(path: Path, content: list[object], **columns: list[object]) -> None:
    table = pa.table({"audio": content, **columns})
    about = {"info": {"features": {"label": {"names": ["low", "high"], "_type": "ClassLabel"}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), path)


def test_rows_are_files_with_facts(tmp_path: Path) -> None:
    content = [{"bytes": bytes([number]), "path": f"{number}.wav"} for number in range(4)]
    write(tmp_path / "train-00000-of-00001.parquet", content, label=[0, 1, 1, 0], text=["a", "b", "", "d"])
    write(tmp_path / "test-00000-of-00001.parquet", [b"\7", b"\x08"], label=[1, 0], text=["e", "f"])
    source = open_parquet(parquet_files(tmp_path, SOUNDS), SOUNDS)
    assert [source.open(index).read() for index in range(5)] == [b"\7", b"\x08", b"\0", b"\1", b"\3"]
    assert [source.caption(index) for index in range(5)] == ["e", "f", "a", "b", "d"]
    assert source.facts.classes == ("high", "low") and source.facts.labels == (0, 1, 1, 0, 1)
    assert source.facts.test == {0, 1}
    assert "row 2, has no 'text'" in source.left_out[0].why and source.name(4).startswith("row 3 of")


def test_what_holds_no_files_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"name": ["a"], "size": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column of sounds: it has name, size"):
        open_parquet([tmp_path / "a.parquet"], SOUNDS)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        open_parquet([tmp_path / "b.parquet"], SOUNDS)
    (tmp_path / "a.wav").write_bytes(b"x")
    assert parquet_files(tmp_path, SOUNDS) == []  # a table beside files is about them
