"""Settings in files carry their format: older keys are brought up to today's, newer formats refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core import provenance
from core.provenance import FORMAT, KeyAlias, dumps, loads

HERE = Path("picture.png")


def test_what_is_written_is_read() -> None:
    settings = {"seed": 3, "prompt": "é", "size": [1, 2]}
    assert loads(dumps(settings), HERE) == {**settings, "format": FORMAT}
    assert loads(dumps({**settings, "format": 0}), HERE)["format"] == FORMAT


def test_older_keys_are_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    table = (KeyAlias(1, "avoid", "negative_prompt"), KeyAlias(2, "b", "c"), KeyAlias(1, "a", "b"))
    monkeypatch.setattr(provenance, "ALIASES", table)
    old = json.dumps({"avoid": "blur", "a": 1, "seed": 0})
    assert loads(old, HERE) == {"negative_prompt": "blur", "c": 1, "seed": 0, "format": 0}
    recent = json.dumps({"avoid": "blur", "b": 1, "format": 1})
    assert loads(recent, HERE) == {"avoid": "blur", "c": 1, "format": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"format": FORMAT + 1}), f"of format {FORMAT + 1}.* up to {FORMAT}: install a newer one"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format": "x"}', "damaged"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        loads(text, HERE)
    assert str(HERE) in str(caught.value)
