"""The pipeline that is called as a diffusers one is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hermetic import (
    Client,
    GenerationFailed,
    InvalidParameter,
    JobCancelled,
    RemotePipeline,
    UnknownModel,
)
from hermetic_wire.generation import TextToImage
from hermetic_wire.messages import Cancel, Submit
from unit.client.fake_daemon import FakeDaemon


@pytest.fixture
def pipe(client: Client) -> RemotePipeline:
    """The one model's pipeline."""
    return RemotePipeline.from_pretrained("demo-sd15", client, torch_dtype="float16")


def _sent(daemon: FakeDaemon) -> TextToImage:
    task = daemon.await_request(Submit).task
    assert isinstance(task, TextToImage)
    return task


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_is_called_as_diffusers_is(daemon: FakeDaemon, pipe: RemotePipeline) -> None:
    pipe.set_progress_bar_config(disable=True)
    pipe.to("cuda").enable_model_cpu_offload()
    output = pipe(
        ["a", "b"],
        negative_prompt="c",
        num_inference_steps=4,
        guidance_scale=3.5,
        width=64,
        height=32,
        num_images_per_prompt=2,
        generator=_generator(9),
        guidance_rescale=0.5,
        clip_skip=None,
        latents=None,
    )

    task = _sent(daemon)
    assert (task.prompts, task.negative_prompts, task.images_per_prompt) == (("a", "b"), ("c",), 2)
    assert (task.steps, task.guidance, task.width, task.height) == (4, 3.5, 64, 32)
    assert (task.seeds, task.extra) == ((9,), {"guidance_rescale": 0.5})
    assert len(output.images) == 4
    assert output.nsfw_content_detected is None
    assert output[0] is output["images"] is output.images
    with pytest.raises(AttributeError, match="scheduler"):
        pipe.scheduler  # noqa: B018 - the access is what is tested


def test_one_generator_per_image(daemon: FakeDaemon, pipe: RemotePipeline) -> None:
    images, nsfw = pipe(
        "a", num_images_per_prompt=2, generator=[_generator(1), _generator(2)], return_dict=False
    )
    assert _sent(daemon).seeds == (1, 2)
    assert (len(images), nsfw) == (2, None)


def test_arrays_are_those_of_diffusers(pipe: RemotePipeline) -> None:
    images = pipe("a", generator=_generator(51), output_type="np").images
    assert (images.shape, images.dtype) == ((1, 1, 2, 3), np.float32)
    assert images[0, 0, 0].tolist() == pytest.approx([0.2, 0, 1])


def test_a_generator_that_was_used_is_refused(pipe: RemotePipeline) -> None:
    drawn = _generator(5)
    torch.rand(1, generator=drawn)
    used = _generator(6)
    pipe("a", generator=used)

    for generator in (drawn, used, [used]):
        with pytest.raises(InvalidParameter, match="fresh"):
            pipe("a", generator=generator)
    pipe("a", generator=used.manual_seed(7))


class _GeneratorOnAGpu:
    """The methods of a torch.Generator that are asked for, on a device that is not here."""

    device = "cuda:0"

    def initial_seed(self) -> int:
        return 5


def test_a_generator_of_another_device_draws_another_picture(pipe: RemotePipeline) -> None:
    with pytest.raises(InvalidParameter, match="cuda:0"):
        pipe("a", generator=_GeneratorOnAGpu())


@pytest.mark.parametrize("generator", [5, [_generator(1)] * 2, [_generator(1)]])
def test_generators_that_cannot_be(pipe: RemotePipeline, generator: Any) -> None:
    with pytest.raises(InvalidParameter, match="generator"):
        pipe("a", num_images_per_prompt=2, generator=generator)


@pytest.mark.parametrize("name", ["image", "latents", "prompt_embeds", "prompt_2"])
def test_what_cannot_be_done_is_refused_by_name(pipe: RemotePipeline, name: str) -> None:
    given: dict[str, Any] = {name: object()}
    with pytest.raises(InvalidParameter, match=name):
        pipe("a", **given)
    with pytest.raises(InvalidParameter, match="output_type"):
        pipe("a", output_type="latent")  # type: ignore[arg-type]


def test_an_unknown_model(client: Client) -> None:
    with pytest.raises(UnknownModel):
        RemotePipeline.from_pretrained("nothing", client)


def test_the_callback_is_called_for_every_step(pipe: RemotePipeline) -> None:
    called: list[tuple[int, float | None, int]] = []

    def note(
        pipe: RemotePipeline, step: int, timestep: float | None, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        called.append((step, timestep, pipe.num_timesteps))
        return tensors

    pipe("a", callback_on_step_end=note, callback_on_step_end_tensor_inputs=["latents"])
    assert [(step, steps) for step, _, steps in called] == [(0, 2), (1, 2)]
    assert called[-1][1] == 1.0


def test_an_interrupt_cancels_the_job(daemon: FakeDaemon, pipe: RemotePipeline) -> None:
    def interrupt(pipe: RemotePipeline, *_: Any) -> dict[str, Any]:
        pipe._interrupt = True
        return {}

    with pytest.raises(JobCancelled):
        pipe("wait", callback_on_step_end=interrupt)
    assert pipe.interrupt
    daemon.await_request(Cancel)


@pytest.mark.parametrize("returned", [None, {"latents": 1}])
def test_a_callback_that_goes_wrong_cancels_the_job(
    daemon: FakeDaemon, pipe: RemotePipeline, returned: Any
) -> None:
    def wrong(*_: Any) -> dict[str, Any]:
        if returned is None:
            raise ZeroDivisionError
        return {"latents": 1}

    with pytest.raises((ZeroDivisionError, InvalidParameter)):
        pipe("wait", callback_on_step_end=wrong)
    daemon.await_request(Cancel)


def test_a_failed_job_raises_its_error(pipe: RemotePipeline) -> None:
    with pytest.raises(GenerationFailed):
        pipe("fail")
