"""Sources hold files of any kind: captions beside sounds and films are found as those beside pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.data.dataset import DataError
from core.data.folder import open_folder
from core.data.shards import open_shards
from core.data.source import Kind, divided, fingerprint, split_source
from tests.core.data.test_shards import tar

SOUNDS = Kind("sound", frozenset({".wav", ".flac"}))


def test_captions_beside_files_of_any_kind(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.wav").write_bytes(bytes([number]))
        (tmp_path / f"{number}.txt").write_text(f"tone {number}")
    (tmp_path / "cover.png").write_bytes(b"no sound")
    source = open_folder(tmp_path, SOUNDS)
    assert source.captioned
    train, held_out = split_source(source, 0.25)
    assert sorted(part.caption(i) for part in (train, held_out) for i in range(len(part))) == [
        f"tone {number}" for number in range(4)
    ]
    with source.open(2) as file:
        assert file.read() == b"\2"
    assert len({fingerprint(source, index, "16 kHz") for index in range(4)} | {fingerprint(source, 0, "8 kHz")}) == 5
    with pytest.raises(DataError, match=r"holds no films: put \.mp4 files"):
        open_folder(tmp_path, Kind("film", frozenset({".mp4"})))


def test_shards_hold_files_of_any_kind(tmp_path: Path) -> None:
    shard = tar(tmp_path / "a.tar", {"a.flac": b"tone", "a.txt": b"a tone", "b.wav": b"noise", "b.txt": b"noise"})
    source = open_shards(shard, SOUNDS)
    assert [source.caption(index) for index in range(2)] == ["a tone", "noise"]
    with source.open(1) as file:
        assert file.read() == b"noise"
    with pytest.raises(DataError, match="holds 0 films for 'a'"):
        open_shards(shard, Kind("film", frozenset({".mp4"})))


def test_splits_share_nothing_and_leave_nothing_out() -> None:
    train, held_out = divided(20, 0.1)
    assert len(held_out) == 2 and sorted(train + held_out) == list(range(20)) and divided(20, 0.1) == (train, held_out)
    with pytest.raises(DataError, match="at least two"):
        divided(1)
