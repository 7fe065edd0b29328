"""Pictures of unfinished images: of the right size, alike to the end, and no trace in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hermetic_wire.codec import Frame
from hermetic_wire.generation import Image, TextToImage
from hermetic_wire.worker import Assign, ModelSpec
from hermetic_worker.pipelines import pipeline_for
from hermetic_worker.pipelines.base import Pipeline

from .conftest import DIFFUSERS

pytestmark = DIFFUSERS
DEMOS = Path(__file__).parents[3] / "worker/hermetic_worker/demo/models"
TASK = TextToImage(
    prompts=("a red circle on a blue background",),
    width=64,
    height=64,
    steps=6,
    guidance=1.5,
    seeds=(7,),
)
Show = Callable[[], tuple[Image, Frame]]


@pytest.fixture(scope="module", params=["demo-sd15", "demo-sdxl"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    name = request.param.removeprefix("demo-")
    loaded = pipeline_for(name)
    spec = ModelSpec(name=name, architecture=name, path=str(DEMOS / request.param))
    loaded.load(Assign(model=spec, device="cpu", smoke="never"), lambda stage, fraction: None)
    return loaded


def draw(pipeline: Pipeline, *, looking: bool) -> tuple[bytes, list[tuple[Image, bytes]]]:
    seen: list[tuple[Image, bytes]] = []

    def on_step(
        step: int, steps: int, timestep: float | None = None, show: Show | None = None
    ) -> None:
        if looking and show is not None:
            image, pixels = show()
            seen.append((image, bytes(pixels)))

    result = pipeline.run(TASK, on_step)
    return bytes(result.frames[0]), seen


def test_an_image_is_the_same_whether_somebody_looks_or_not(pipeline: Pipeline) -> None:
    unseen, _ = draw(pipeline, looking=False)
    looked_at, seen = draw(pipeline, looking=True)
    assert looked_at == unseen
    assert draw(pipeline, looking=False)[0] == unseen
    assert len(seen) == TASK.steps


def test_the_last_picture_has_the_colours_of_the_image(pipeline: Pipeline) -> None:
    """The VAE makes 8 x 8 pixels of a cell: the picture is as the image seen from afar."""
    import numpy as np

    final, seen = draw(pipeline, looking=True)
    (image, raw) = seen[-1]
    assert (image.width, image.height) == (8, 8)
    picture = np.frombuffer(raw, np.uint8).reshape(8, 8, 3).astype(float)
    whole: Any = np.frombuffer(final, np.uint8).reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))
    assert np.corrcoef(picture.ravel(), whole.ravel())[0, 1] > 0.6
    first = np.frombuffer(seen[0][1], np.uint8).astype(float)
    assert np.abs(first - picture.ravel()).mean() > 5, "the image has come about step by step"
