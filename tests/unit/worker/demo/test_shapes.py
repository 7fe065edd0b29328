"""The drawn data: what a caption says is what its picture shows."""

import random
from pathlib import Path
from typing import get_args

import pytest
import torch

from hermetic_worker.demo import dataset
from hermetic_worker.demo.judge import judge
from hermetic_worker.demo.shapes import (
    KINDS,
    PALETTE,
    SIDE,
    Scene,
    Shape,
    Style,
    draw,
    sample_scene,
    with_article,
)

SCENES = [sample_scene(random.Random(seed)) for seed in range(300)]


def test_scenes_depend_on_the_generator_alone() -> None:
    assert [sample_scene(random.Random(seed)) for seed in range(300)] == SCENES


def test_captions_name_every_shape_and_colour_drawn() -> None:
    for scene in SCENES:
        assert all(f"{shape.colour} {shape.kind}" in scene.caption for shape in scene.shapes)
        assert all(shape.colour != scene.background for shape in scene.shapes)


def test_backgrounds_are_named_unless_they_are_the_usual_ones() -> None:
    for scene in SCENES:
        if "background" in scene.caption:
            assert f"{scene.background} background" in scene.caption
        else:
            white = any(shape.colour == "white" for shape in scene.shapes)
            assert scene.background == ("black" if white else "white")


def test_scenes_cover_all_words() -> None:
    words = set(" ".join(scene.caption for scene in SCENES).split())
    assert words >= {*PALETTE, *KINDS, "small", "large", "left", "right", "top", "bottom", "and"}


def test_two_shapes_stand_in_the_order_of_the_caption() -> None:
    pairs = [scene.shapes for scene in SCENES if len(scene.shapes) == 2]
    assert len(pairs) > 30
    assert all(first.x < 0 < second.x for first, second in pairs)


@pytest.mark.parametrize("style", ["flat", "bold"])
def test_a_drawn_shape_is_seen_as_described(style: Style) -> None:
    for scene in SCENES[:60]:
        if len(scene.shapes) == 1 and scene.shapes[0].radius > 0.45:
            seen = judge(draw(scene, style))
            wanted = (scene.shapes[0].colour, scene.shapes[0].kind)
            assert (seen.colour, seen.kind) == wanted, scene.caption
            assert seen.background == scene.background


def test_pictures_are_bytes_with_flat_insides() -> None:
    picture = draw(Scene("", "white", (Shape("red", "circle"),)))
    assert picture.shape == (3, SIDE, SIDE)
    assert picture.dtype == torch.uint8
    assert tuple(picture[:, 32, 32].tolist()) == PALETTE["red"]
    assert tuple(picture[:, 0, 0].tolist()) == PALETTE["white"]


def test_bold_shapes_are_larger() -> None:
    scene = Scene("", "white", (Shape("red", "square"),))
    covered = {style: int((draw(scene, style)[2] < 128).sum()) for style in get_args(Style)}
    assert covered["bold"] > 1.5 * covered["flat"]


def test_articles() -> None:
    assert with_article("orange ring") == "an orange ring"
    assert with_article("red ring") == "a red ring"


def test_a_dataset_comes_back_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dataset.SCENES, "flat", 3)
    made = dataset.make("flat", seed=5)
    dataset.save(made, tmp_path / "data.pt")
    kept = dataset.load(tmp_path / "data.pt")
    assert kept.captions == made.captions
    assert torch.equal(kept.pixels, made.pixels)
    assert kept.pictures(torch.tensor([1])).abs().max() <= 1
