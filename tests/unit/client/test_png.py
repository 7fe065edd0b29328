"""PNG files and what they tell."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from hermetic import InvalidParameter, Result
from hermetic.png import parameters_text, save_png
from hermetic_wire.generation import TextToImage
from unit.client.fake_daemon import succeeded


def _result(seeds: tuple[int, ...] = (5, 6, 7, 8)) -> Result:
    task = TextToImage(
        prompts=("a red circle", "a blue star, größer"),
        negative_prompts=("", "blurry"),
        images_per_prompt=2,
        steps=10,
        seeds=seeds,
        extra={"clip_skip": 1},
    )
    return Result(*succeeded("mine", task))


def test_a_png_tells_how_it_was_made(tmp_path: Path) -> None:
    result, path = _result(), tmp_path / "star.png"
    path.write_bytes(b"what was there before")
    save_png(result.images[2], path, result=result, index=2)

    with Image.open(path) as read:
        read.load()
        texts = dict(read.info)
        assert read.getpixel((0, 0)) == (7, 0, 255)
    assert texts["parameters"].splitlines()[:2] == [
        "a blue star, größer",
        "Negative prompt: blurry",
    ]
    assert "Steps: 10, CFG scale: 2.0, Seed: 7, Size: 2x1, Model: demo-sd15" in texts["parameters"]
    told = json.loads(texts["hermetic"])
    assert (told["seed"], told["batch_seed"], told["index"]) == (7, False, 2)
    assert told["task"]["prompts"][1] == told["prompt"]
    assert (told["worker"]["epoch"], told["architecture"], told["timings"]) == (
        3,
        "sd15",
        {"total": 0.5},
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["star.png"]


def test_a_batch_seed_is_told_as_such() -> None:
    result = _result(seeds=(5,))
    assert "Seed: 5" in parameters_text(result, 3)
    assert "Negative prompt" not in parameters_text(result, 0)


def test_a_stream_is_written_to() -> None:
    result, stream = _result(), io.BytesIO()
    save_png(result.images[0], stream, result=result)
    with Image.open(io.BytesIO(stream.getvalue())) as read:
        assert json.loads(read.info["hermetic"])["prompt"] == "a red circle"


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    result, path = _result(), tmp_path / "star.png"
    path.write_bytes(b"before")
    unsaveable = Image.new("HSV", (2, 1))
    with pytest.raises(OSError, match="HSV"):
        save_png(unsaveable, path, result=result)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [
        ("star.png", b"before")
    ]


def test_an_image_that_is_not_there(tmp_path: Path) -> None:
    result = _result()
    with pytest.raises(InvalidParameter, match="4 images"):
        save_png(result.images[0], tmp_path / "x.png", result=result, index=4)
