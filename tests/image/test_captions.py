"""Captioned digits: captions are true of scenes and pictures, parts share nothing, and what is shown can be read."""

from __future__ import annotations

import re

import pytest
import torch

from image.captions import BACKGROUNDS, COLOURS, SIDE, SIZES, Scene, captioned_digits, render, scene
from image.detector import Detection, caption_accuracy, placed_as_captioned, targets, train_detector

SCENES = [scene(0, index, held_out=False) for index in range(400)]


def test_scenes_are_a_function_of_their_number() -> None:
    assert scene(0, 17, False) == scene(0, 17, False) != scene(1, 17, False)
    assert scene(0, 17, True).held_out and not scene(0, 17, False).held_out


def test_captions_say_what_scenes_hold() -> None:
    for seen in SCENES:
        named = re.findall(r"a (?:(small|large) )?(\w+) (\d)", seen.caption)
        assert named == [(item.size, item.colour, str(item.digit)) for item in seen.items]
        assert seen.caption.endswith(f" on {seen.background}")


def test_items_lie_where_captions_say_and_inside_the_picture() -> None:
    for seen in SCENES:
        found = [Detection(item.digit, item.colour, item.centre) for item in seen.items]
        assert placed_as_captioned(seen, found), seen.caption
        for item in seen.items:
            down, across = SIZES[item.size]
            assert across / 2 - 1e-6 <= item.centre[0] <= SIDE - across / 2 + 1e-6
            assert down / 2 - 1e-6 <= item.centre[1] <= SIDE - down / 2 + 1e-6


def test_a_place_or_an_order_that_is_not_asked_for_is_wrong() -> None:
    several = next(seen for seen in SCENES if len(seen.items) == 3)
    found = [Detection(item.digit, item.colour, item.centre) for item in several.items]
    assert not placed_as_captioned(several, [found[1], found[0], found[2]])
    single = next(seen for seen in SCENES if seen.place == (-1, 0))
    assert not placed_as_captioned(single, [Detection(0, "red", (SIDE - 5.0, SIDE / 2))])


def test_pictures_show_ink_of_the_colour_on_the_background() -> None:
    train, _ = captioned_digits(10)
    for seen in SCENES[:60]:
        image = (render(seen, train.glyphs) + 1) / 2
        corner_free = torch.tensor(BACKGROUNDS[seen.background])
        ink = torch.ones(SIDE, SIDE, dtype=torch.bool)
        for item in seen.items:
            half = max(SIZES[item.size]) / 2 + 1
            (x, y) = item.centre
            box = image[:, int(max(y - half, 0)) : int(y + half) + 1, int(max(x - half, 0)) : int(x + half) + 1]
            nearest = (box - torch.tensor(COLOURS[item.colour]).view(3, 1, 1)).abs().amax(0).min()
            assert nearest < 0.12, seen.caption
            ink[int(max(y - half, 0)) : int(y + half) + 1, int(max(x - half, 0)) : int(x + half) + 1] = False
        assert torch.allclose(image[:, ink], corner_free[:, None].expand(3, int(ink.sum())), atol=1e-6)


def test_parts_share_no_caption_and_no_handwriting() -> None:
    train, held_out = captioned_digits(300, 300)
    asked = {part: set(data.get(range(300))["caption"]) for part, data in (("train", train), ("test", held_out))}
    assert not asked["train"] & asked["test"]
    assert not {tuple(i) for i in train.glyphs.source.images.flatten(1).int().tolist()[:50]} & {
        tuple(i) for i in held_out.glyphs.source.images.flatten(1).int().tolist()
    }


def test_the_reader_learns_to_see_and_knows_right_from_wrong() -> None:
    train, held_out = captioned_digits(2000, 200)
    detector = train_detector(train, steps=60, batch=32)
    images, wanted = held_out.get(range(200))["x"], held_out.get(range(200))["scene"]
    right = caption_accuracy(detector, images, wanted)
    wrong = caption_accuracy(detector, images.roll(1, 0), wanted)
    assert right.colour > wrong.colour + 0.1 and right.place > wrong.place + 0.1


def test_answers_name_cells_and_colours() -> None:
    only: list[Scene] = [next(seen for seen in SCENES if len(seen.items) == 1)]
    places, wanted = targets(only)
    x, y = only[0].items[0].centre
    assert places.tolist() == [[0, int(y / 4), int(x / 4)]]
    assert wanted[0, 0] == only[0].items[0].digit and wanted[0, 2] == pytest.approx(x / 4 % 1)
