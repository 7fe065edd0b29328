"""The pipeline without a model."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hermetic_wire.errors import InvalidParameter
from hermetic_wire.generation import TextToImage
from hermetic_wire.worker import Assign, ModelSpec
from hermetic_worker.pipelines.echo import Echo, colour

MakeTask = Callable[..., TextToImage]


def ignore_step(step: int, steps: int, timestep: float | None = None, show: object = None) -> None:
    """An OnStep that goes on."""


def test_the_colour_tells_prompt_and_seed(echo_task: MakeTask) -> None:
    task = echo_task(prompts=("red", "blue"), images_per_prompt=2, seeds=(1, 2, 3, 4))
    result = Echo().run(task, ignore_step)
    expected = [colour("red", 1), colour("red", 2), colour("blue", 3), colour("blue", 4)]
    assert [bytes(frame) for frame in result.frames] == [bytes(one) * 128 for one in expected]
    assert len(set(expected)) == 4
    assert result.output.seeds == (1, 2, 3, 4)
    assert [(image.width, image.height) for image in result.output.images] == [(16, 8)] * 4


def test_one_seed_for_a_batch_draws_different_images(echo_task: MakeTask) -> None:
    result = Echo().run(echo_task(images_per_prompt=3), ignore_step)
    assert len({bytes(frame) for frame in result.frames}) == 3
    single = Echo().run(echo_task(), ignore_step)
    assert bytes(result.frames[0]) == bytes(single.frames[0])


def test_steps_are_told_one_by_one(echo_task: MakeTask) -> None:
    told: list[tuple[int, int]] = []
    Echo().run(
        echo_task(steps=3),
        lambda step, steps, timestep=None, show=None: told.append((step, steps)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_the_load_has_stages() -> None:
    told: list[tuple[str, float]] = []
    spec = ModelSpec(name="e", architecture="echo", options={"load_stages": 2})
    found = Echo().load(
        Assign(model=spec, device="cpu"), lambda stage, fraction: told.append((stage, fraction))
    )
    assert told == [("stage 1", 0.0), ("stage 2", 0.5)]
    assert found.memory["peak"] >= found.memory["resident"] > 0


def test_it_fails_at_the_step_it_is_told(echo_task: MakeTask) -> None:
    with pytest.raises(RuntimeError, match="step 2"):
        Echo().run(echo_task(steps=3, extra={"fail_at_step": 2}), ignore_step)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": None}, "no width"),
        ({"steps": None}, "no steps"),
        ({"seeds": ()}, "1 images were asked for with 0 seeds"),
        ({"seeds": (1, 2), "images_per_prompt": 3}, "3 images .* 2 seeds"),
        ({"negative_prompts": ("a", "b")}, "1 prompts came with 2 negative"),
        ({"extra": {"step_seconds": "long"}}, "step_seconds was 'long'"),
    ],
)
def test_senseless_tasks_are_refused(
    echo_task: MakeTask, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(InvalidParameter, match=said):
        Echo().run(echo_task(**changes), ignore_step)
