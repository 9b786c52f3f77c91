"""The code speaks the field's language: docs/vocabulary.md has its words; those of a private dialect are nowhere.

Three rules, for every module of the packages, the examples, the benchmarks and the tests:

* no identifier has a banned word in it (``held_out`` and ``lookup`` are words of the field), nor is it an old name;
* no text that is shown (help, errors, tables) has a banned word in it;
* no docstring, comment or page has one, except those that may mean just what they say (``PLAIN``).
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.source import PACKAGES, ROOT, strings

BANNED = {"told", "said", "heard", "hears", "anew", "worn", "led", "mend", "brief", "held", "way", "look"}
PLAIN = {"held", "way", "look"}
ALLOWED = re.compile(r"\bheld[ _-]?out|held_out|look(ed|s)?[ _-]?up", re.IGNORECASE)
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

# Identifiers that have a word of the field since: the old name, and what it is now.
OLD = {
    "Bindable": "DenoiserLike",
    "mended": "map_x0",
    "mending": "foot_skate_cleanup or default_guidance",
    "Thresholded": "X0Transform",
    "understand": "parse",
    "revise": "edit",
    "begin_with": "from_autoencoder",
    "begin_as": "from_teacher",
    "inherit": "load_partial",
    "Teller": "Monitor",
    "Record": "RunLogger",
    "Arranged": "HasOrder",
    "Drawn": "HasAugmentation",
    "Shares": "BatchSharding",
    "Ordered": "OrderedDataset",
    "Beside": "LatentConfig or UNetExtras",
    "beside": "extras",
    "integrand": "importance_weighted",
    "Within": "Truncated",
    "as_drawn": "independent_coupling",
    "Pairing": "Coupling",
    "Term": "AuxiliaryLoss",
    "Seen": "Evaluation",
    "remember": "extend_history",
    "stir": "add_noise",
    "Still": "ZeroVelocity",
    "together": "batched",
    "strengthened": "partial_grid",
    "Imitation": "GuidanceDistillation",
    "imitating": "embed_guidance",
    "Adapted": "LoRADiffusion",
    "WithControl": "ControlNetDiffusion",
    "weighed": "path_and_weight",
    "Drawing": "Request",
    "Wordless": "CaptionDropout",
    "read_back": "caption_accuracy",
    "judged": "evaluated",
    "told_digits": "digits_recipe",
    "own_captions": "captioned_recipe",
    "planting": "foot_skate_cleanup",
    "steadying": "temporal_smoothing",
    "Closing": "RootCorrection",
    "Joined": "Inertialization",
    "onwards": "extrapolate",
    "bridging": "gap_constraint",
    "Perceptron": "MLP",
    "piecewise": "chunked",
    "doubled": "upsample_conv",
    "Posterior": "DiagonalGaussian or MeasurementPosterior",
    "Interval": "ConfidenceInterval, GuidanceInterval or RestartInterval",
    "tell": "block_inputs or cond_proj",
    "hear": "encode",
    "bring": "project_qkv",
    "think": "mlp",
    "heat": "logit_scale",
    "painter": "output_skip",
}

# A word that a file has for a reason: names in files of formats of before, and this list.
EXCEPTIONS = {
    ("image/aliases.py", "told"): "the name of a tensor in files of format 1",
    ("motion/aliases.py", "told"): "the name of a tensor in files of format 1",
    ("tests/image/nn/test_ncsnpp.py", "told"): "the name of a tensor in files of format 1",
}

FOLDERS = sorted(PACKAGES | {"examples", "benchmarks", "tests"})
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (str(found.relative_to(ROOT)) for found in (ROOT / folder).rglob("*.py"))
    if not path.startswith("tests/files/") and path != "tests/test_vocabulary.py"
)
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md"))
)


def words(text: str) -> set[str]:
    """The words of an identifier (snake_case, CamelCase) or of a sentence, but those of the field."""
    return {word.lower() for word in WORD.findall(ALLOWED.sub(" ", text))}


def identifiers(tree: ast.AST) -> Iterator[str]:
    """All names that a module gives or uses."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.alias(name=name, asname=None):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.keyword(arg=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name
            case ast.alias(name=name, asname=str(other)):
                yield from (name, other)


def remarks(text: str) -> Iterator[str]:
    """The docstrings and comments of a module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


@cache
def found_in(path: str) -> frozenset[str]:
    """The words of a module that it must not have."""
    text = (ROOT / path).read_text()
    tree = ast.parse(text)
    names = set(identifiers(tree))
    found = {word for name in names for word in words(name) & BANNED}
    shown = BANNED
    if path.startswith("tests/"):  # tests quote what people write, and their names are their own
        shown = BANNED - PLAIN
    else:
        found |= names & OLD.keys()
    found |= {word for string in strings(tree) for word in words(string) & shown}
    return frozenset(found | {word for remark in remarks(text) for word in words(remark) & (BANNED - PLAIN)})


@pytest.mark.parametrize("path", FILES)
def test_a_module_has_the_fields_words(path: str) -> None:
    wrong = {word for word in found_in(path) if (path, word) not in EXCEPTIONS}
    hints = [f"{word} (now {OLD[word]})" if word in OLD else word for word in sorted(wrong)]
    assert not wrong, f"{path} has {', '.join(hints)}: docs/vocabulary.md has the field's words"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_the_fields_words(path: str) -> None:
    wrong = words((ROOT / path).read_text()) & (BANNED - PLAIN)
    assert not wrong, f"{path} has {sorted(wrong)}"


def test_the_vocabulary_names_what_exists() -> None:
    page = (ROOT / "docs/vocabulary.md").read_text()
    named = {name for name in re.findall(r"`([A-Za-z_]+)`", page) if "_" in name or name != name.lower()}
    known = {name for path in FILES for name in identifiers(ast.parse((ROOT / path).read_text()))}
    assert len(named) > 5 and named <= known, named - known


def test_every_exception_is_needed() -> None:
    assert {(path, word) for path, word in EXCEPTIONS if word not in found_in(path)} == set()


def test_what_is_searched_is_there() -> None:
    assert {Path(path).parts[0] for path in FILES} == {name for name in FOLDERS if (ROOT / name).is_dir()}
    assert len(FILES) > 300 and len(PAGES) > 10


@pytest.mark.parametrize(
    ("text", "banned"),
    [
        ("told_channels", {"told"}),
        ("ToldApart", {"told"}),
        ("SAID_BY", {"said"}),
        ("_way_down", {"way"}),
        ("held_out_loss", set()),
        ("examples held out, to look up", set()),
        ("lookup_table", set()),
        ("LED", {"led"}),
        ("called", set()),
        ("LoRA files to wear, held in memory", {"held"}),
    ],
)
def test_words_are_found_whole(text: str, banned: set[str]) -> None:
    assert words(text) & BANNED == banned


def test_a_module_is_searched_whole(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '"""What is told."""\n\nclass Teller:\n    anew = 1  # worn\n\n\n'
        'def f(way):\n    raise ValueError(f"{way} held")\n'
    )
    assert found_in(str(path)) == {"told", "Teller", "anew", "worn", "way", "held"}
