"""Mirror images: features of the reflected body, and captions with their sides exchanged."""

from __future__ import annotations

import pytest
import torch

from motion.features import canonical, encode
from motion.mirror import mirror, mirror_words
from motion.skeleton import HUMAN, KIT, Skeleton
from tests.support.poses import wander


@pytest.mark.parametrize("skeleton", [HUMAN, KIT], ids=["human", "kit"])
def test_the_mirror_image_of_features_is_that_of_the_body(skeleton: Skeleton) -> None:
    joints = canonical(wander(50, seed=3, skeleton=skeleton), skeleton)
    expected = encode(canonical(skeleton.reflect(joints), skeleton), skeleton)
    torch.testing.assert_close(mirror(encode(joints, skeleton), skeleton), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(mirror(mirror(expected, skeleton), skeleton), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("caption", "swapped"),
    [
        ("a person waves the left hand", "a person waves the right hand"),
        ("Left, then RIGHT; kick_left", "Right, then LEFT; kick_right"),
        ("turns clockwise", "turns counterclockwise"),
        ("upright, what is left over: bright", "upright, what is right over: bright"),
        ("walks", "walks"),
    ],
)
def test_captions_exchange_their_sides(caption: str, swapped: str) -> None:
    assert mirror_words(caption) == swapped
