"""Tables, texts and folders say what files are, in whatever form people have them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from core.data.dataset import DataError
from core.data.folder import FolderSource, open_folder
from core.data.source import Kind, divided_by, grouped, split_source

SOUNDS = Kind("sound", frozenset({".wav", ".flac"}))
TONES = ("a.wav", "b.wav", "c.wav")


def sounds(folder: Path, *names: str) -> Path:
    for name in names or TONES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def opened(folder: Path, table: str = "", text: str | bytes = "") -> FolderSource:
    if table:
        (folder / table).write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_folder(folder, SOUNDS)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("captions.csv", 'file,caption,more\na.wav,"low, long",x\nb.wav,high,y\nc.wav,noise,z\n'),
        ("labels.csv", "Filename;Description\na.wav;low, long\nb.wav;high\nc.wav;noise\n"),
        ("about.tsv", "path\ttext\nc.wav\tnoise\na.wav\tlow, long\nb.wav\thigh\n"),
        ("results.csv", 'sound_id,prompt\na,"low, long"\nb,high\nc,noise\n'),
        (
            "train.jsonl",
            '{"sound": "x/y/a.wav", "text": "low, long"}\n{"sound": "b.wav", "text": "high"}\n'
            '{"sound": "c.wav", "caption": "noise"}\n',
        ),
        ("captions.json", '{"a.wav": "low, long", "b.wav": "high", "c.wav": "noise"}'),
        (
            "captions.json",
            '[{"file": "a.wav", "text": "low, long"}, {"file": "b.wav", "text": "high"},'
            '{"file": "c.wav", "text": "noise"}]',
        ),
    ],
    ids=["csv", "semicolons", "tsv", "names without endings", "jsonl", "json of names", "json of objects"],
)
def test_any_table_that_names_the_files_has_their_captions(tmp_path: Path, table: str, text: str) -> None:
    for folder in (sounds(tmp_path / "beside"), sounds(tmp_path / "below", *(f"wavs/{name}" for name in TONES))):
        (folder / "config.json").write_text("[1, 2]")
        (folder / "other.csv").write_text("speed,name\n1,x\n")
        source = opened(folder, table, text)
        assert source.captioned and source.left_out == ()
        assert [source.caption(index) for index in range(3)] == ["low, long", "high", "noise"]


def test_columns_say_classes_numbers_groups_and_the_split(tmp_path: Path) -> None:
    text = "file,Category,level,subject_id,split,id,remark\n"
    text += "a.wav,10,0.5,s1,train,1,x\nb.wav,2,1,s2,train,2,\nc.wav,10,2,s1,Test,3,y\n"
    facts = opened(sounds(tmp_path), "data.csv", text).facts
    assert (facts.labels, facts.classes) == ((1, 0, 1), ("2", "10"))
    assert facts.numbers == {"level": (0.5, 1.0, 2.0)}
    assert facts.groups == ("s1", "s2", "s1") and facts.test == {2} and facts.captions is None
    batch = facts.batch([2, 0])
    assert batch["label"].tolist() == [1, 1] and batch["number"].tolist() == [[2.0], [0.5]]


def test_labels_that_are_measurements_or_names_are_no_classes(tmp_path: Path) -> None:
    rows = "".join(f"{number}.wav,{number / 4}\n" for number in range(6))
    facts = opened(sounds(tmp_path, *(f"{number}.wav" for number in range(6))), "a.csv", f"file,target\n{rows}").facts
    assert facts.labels is None and facts.numbers["target"] == (0, 0.25, 0.5, 0.75, 1, 1.25)
    many = sounds(tmp_path / "many", *(f"{number:02d}.wav" for number in range(30)))
    facts = opened(many, "a.csv", "file,label\n" + "".join(f"{n:02d}.wav,name {n}\n" for n in range(30))).facts
    assert facts.labels is None and not facts.numbers


def test_several_captions_of_a_file_are_examples_of_one_group(tmp_path: Path) -> None:
    source = opened(sounds(tmp_path), "a.csv", "file,caption\na.wav,one\na.wav,two\nb.wav,three\nc.wav,four\n")
    assert len(source) == 4 and source.facts.groups is not None
    assert len(set(source.facts.groups)) == 3 and source.facts.groups[0] == source.facts.groups[1]


def test_tables_of_splits_and_of_folders(tmp_path: Path) -> None:
    both = sounds(tmp_path / "both")
    (both / "train.csv").write_text("file,label\na.wav,1\nb.wav,2\n")
    (both / "test.csv").write_text("file,label\nc.wav,2\n")
    facts = opened(both).facts
    assert facts.labels == (0, 1, 1) and facts.test == {2}
    each = sounds(tmp_path / "each", "train/a.wav", "train/b.wav", "test/a.wav")
    (each / "train" / "metadata.csv").write_text("file_name,text\na.wav,one\nb.wav,two\n")
    (each / "test" / "metadata.csv").write_text("file_name,text\na.wav,three\n")
    source = opened(each)
    assert [source.caption(index) for index in range(3)] == ["three", "one", "two"] and source.facts.test == {0}


def test_what_is_missing_is_left_out_and_named(tmp_path: Path) -> None:
    source = opened(sounds(tmp_path), "a.csv", "file,caption\na.wav,one\nb.wav,\ngone.wav,three\n")
    assert len(source) == 1
    reasons = [each.why.rpartition("/")[2] for each in source.left_out]
    assert reasons[0].startswith("a.csv, line 3, has no 'caption' for b.wav")
    assert reasons[1].startswith("a.csv, line 4, is about gone.wav, which is no sound")
    assert reasons[2].startswith("c.wav is not in a.csv")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"a.csv": b"file,caption\na.wav,a tone, low, long\n"}, "line 2, has 4 fields for 2 columns: put quotes"),
        ({"a.csv": b'file,caption\na.wav,"open'}, "is not CSV"),
        ({"a.csv": b"file,caption\na.wav,\xff\n"}, "is not UTF-8"),
        ({"a.csv": b"file\na.wav\n", "b.csv": b"file\na.wav\n"}, "has both a.csv and b.csv"),
        ({"metadata.jsonl": b"[" * 10**5}, "line 1, is not JSON"),
        ({"metadata.csv": b"caption\nlow\n"}, "line 2, has no 'file_name'"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(tmp_path: Path, tables: dict[str, bytes], message: str) -> None:
    sounds(tmp_path)
    for name, content in tables.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


def test_parquet_without_pyarrow_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="pip install pyarrow"):
        opened(sounds(tmp_path), "a.parquet", b"PAR1")


def test_hidden_files_and_texts_of_others_do_not_count(tmp_path: Path) -> None:
    sounds(tmp_path, *TONES, ".cache/d.wav", "__MACOSX/e.wav")
    (tmp_path / "README.txt").write_text("about")
    source = opened(tmp_path)
    assert len(source) == 3 and not source.captioned
    with pytest.raises(DataError, match="has no caption"):
        source.caption(0)


def test_folders_beside_loose_files_are_no_classes(tmp_path: Path) -> None:
    source = opened(sounds(tmp_path, "a.wav", "x/b.wav", "y/c.wav"))
    assert source.facts.labels is None and "no classes" in source.notes[0]


def test_a_test_split_without_classes_is_not_used(tmp_path: Path) -> None:
    source = opened(sounds(tmp_path, "train/x/a.wav", "train/y/b.wav", "test/c.wav", "test/d.wav", "test/e.wav"))
    assert source.facts.classes == ("x", "y") and not source.facts.test and len(source) == 2
    assert source.notes == ("3 files of the test split lie in no class folder, and are not used",)


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    sounds(tmp_path / "elsewhere", "a.wav")
    home = sounds(tmp_path / "home", "x/b.wav")
    (home / "y").symlink_to(tmp_path / "elsewhere")
    (home / "x" / "circle").symlink_to(home)
    assert [path.name for path in opened(home).paths] == ["b.wav", "a.wav"]


def sides(folder: Path, captions: Sequence[str], groups: Sequence[str] | None = None) -> list[set[str]]:
    """What the captions (or groups) of both parts of a folder with a table are."""
    names = [f"{number:03d}.wav" for number in range(len(captions))]
    rows = [{"file": name, "text": text} for name, text in zip(names, captions)]
    for row, group in zip(rows, groups or ()):
        row["speaker"] = group
    sounds(folder, *names)
    (folder / "a.json").write_text(json.dumps(rows))
    parts = split_source(opened(folder))
    values = captions if groups is None else groups
    return [{values[int(Path(part.name(index)).stem)] for index in range(len(part))} for part in parts]


def test_groups_and_equal_captions_lie_on_one_side(tmp_path: Path) -> None:
    train, held_out = sides(tmp_path / "groups", [f"{n}" for n in range(60)], [f"s{n % 12}" for n in range(60)])
    assert len(train) + len(held_out) == 12 and held_out and not train & held_out
    train, held_out = sides(tmp_path / "captions", [f"wolf {n % 2} of {'abcdefghij'[n // 2]}" for n in range(20)])
    assert len(held_out) == 2 and {each[-1] for each in held_out} & {each[-1] for each in train} == set()
    train, held_out = sides(tmp_path / "classes", [("low", "high")[n % 2] for n in range(30)])
    assert train == held_out == {"low", "high"}  # captions that are but classes are in both


def test_one_large_group_does_not_fill_the_held_out_part(tmp_path: Path) -> None:
    groups = ["large"] * 80 + [f"small {number}" for number in range(20)]
    train, held_out = sides(tmp_path, [f"{'abcdefghij'[n // 10]}{'abcdefghij'[n % 10]}" for n in range(100)], groups)
    assert "large" in train and len(held_out) == 10
    with pytest.raises(DataError, match="one group"):
        sides(tmp_path / "one", ["a", "b", "c"], ["s", "s", "s"])


def test_a_given_test_split_is_kept(tmp_path: Path) -> None:
    facts = opened(sounds(tmp_path), "a.csv", "file,split\na.wav,train\nb.wav,test\nc.wav,train\n").facts
    assert divided_by(facts, 3) == ((0, 2), (1,))
    assert divided_by(facts, 3, same=[(1, 2)]) == ((0,), (1,))
    assert grouped(facts, 3) is None and grouped(facts, 3, [(0, 2)]) == [0, 1, 0]
