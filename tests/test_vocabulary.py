"""The code speaks the field's language: words of no one else's are in no identifier and in no help string.

docs/vocabulary.md has the words that are used instead.
"""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.source import PACKAGES, ROOT

BANNED = {"told", "said", "heard", "hears", "anew", "worn", "led", "mend", "brief", "held", "way", "look"}
ALLOWED = re.compile(r"held[_-]?out|look[_-]?up", re.IGNORECASE)  # which are words of the field
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

# Files that still have such words. Nothing may be added, and a file that has none any more is refused here.
NOT_YET = {}


def banned(text: str) -> set[str]:
    """The banned words among the words of an identifier (snake_case, CamelCase) or of a sentence."""
    return {word.lower() for word in WORD.findall(ALLOWED.sub("", text))} & BANNED


def identifiers(tree: ast.AST) -> set[str]:
    """All names that a module gives or uses."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.keyword(arg=str(name)):
                found.add(name)
            case ast.alias(name=name, asname=other):
                found |= {name, other or ""}
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                found.add(name)
    return found


def helps(tree: ast.AST) -> set[str]:
    """The texts that commands show: those given to ``option``, and the constants and functions that describe them."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("option", "argument", "Flag"):
            found |= {
                part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
            }
        if isinstance(node, ast.Assign) and any(
            ast.unparse(target) in ("ABOUT", "EXAMPLES") for target in node.targets
        ):
            found |= {
                part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
            }
    return found


def words_of(path: str) -> set[str]:
    """The banned words of a file."""
    tree = ast.parse((ROOT / path).read_text())
    return {word for text in identifiers(tree) | helps(tree) for word in banned(text)}


FILES = sorted(str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", [path for path in FILES if path not in NOT_YET])
def test_words_are_the_fields(path: str) -> None:
    assert not words_of(path), f"{path} has {sorted(words_of(path))}: docs/vocabulary.md has the field's words"


def test_what_is_not_yet_renamed_shrinks() -> None:
    clean = {path for path in NOT_YET if path not in FILES or not words_of(path)}
    assert not clean, f"take out of NOT_YET: {sorted(clean)}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("told_channels", {"told"}),
        ("ToldApart", {"told"}),
        ("SAID_BY", {"said"}),
        ("_way_down", {"way"}),
        ("held_out_loss", set()),
        ("look_up", set()),
        ("lookup_table", set()),
        ("LED", {"led"}),
        ("called", set()),
        ("mended", set()),
        ("LoRA files to wear, held in memory", {"held"}),
    ],
)
def test_words_are_found_whole(text: str, words: set[str]) -> None:
    assert banned(text) == words
