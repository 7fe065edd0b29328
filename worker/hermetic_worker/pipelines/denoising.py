"""One text-to-image job on a loaded diffusers pipeline: its arguments, its steps, its stages.

Imports torch, so it is imported only once a model is loaded. Leaves nothing behind in the
pipeline.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from hermetic_wire.errors import InvalidParameter
from hermetic_wire.generation import GUIDED_EXTRAS, Image, Output, TextToImage
from hermetic_worker.device import Device
from hermetic_worker.previews import Previews
from hermetic_worker.results import framed

from .base import OnStep, Result, Settings, settle

__all__ = ["denoise"]


def denoise(
    pipe: Any,
    scheduler_config: Any,
    task: TextToImage,
    device: Device,
    on_step: OnStep,
    previews: Previews,
) -> Result:
    """Run the task on `pipe`; `scheduler_config` is its scheduler's as it was loaded.

    Raises InvalidParameter before anything is computed, and whatever `on_step` raises.
    """
    settings = settle(task)
    calls = _calls(task, settings, device)
    stages = _Stages(device)
    watching = pipe.unet.register_forward_pre_hook(stages.on_denoiser)
    images: list[Image] = []
    frames: list[memoryview] = []
    try:
        for number, arguments in enumerate(calls):
            # A scheduler keeps timesteps and outputs of its last run: A, B, A once differed.
            pipe.scheduler = type(pipe.scheduler).from_config(scheduler_config)
            stages.enter("text_encoder")
            told = _told(on_step, stages, previews, number, len(calls))
            drawn = pipe(**arguments, callback_on_step_end=told, output_type="np").images
            new_images, new_frames = framed(drawn)
            images += new_images
            frames += new_frames
    finally:
        watching.remove()
    output = Output(
        images=tuple(images),
        seeds=settings.seeds,
        timings=stages.end(),
        memory=device.memory(),
    )
    return Result(output, frames)


def _told(
    on_step: OnStep, stages: _Stages, previews: Previews, number: int, calls: int
) -> Callable[..., Any]:
    """The pipeline's step callback, for call `number` of so many; raising in it is a cancel."""

    def on_step_end(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> Any:
        steps = int(pipe.num_timesteps)  # may be more than was asked for: PNDM runs n + 1
        stages.note_first_step()
        if index + 1 == steps:
            stages.enter("decode")
        on_step(
            number * steps + index + 1,
            calls * steps,
            float(timestep),
            lambda: previews.show(tensors["latents"][0]),
        )
        return tensors

    return on_step_end


def _calls(task: TextToImage, settings: Settings, device: Device) -> list[dict[str, Any]]:
    """The arguments of each call of the pipeline: one for the whole batch, where that is right.

    With a seed per image each must be drawn as if alone. Within a batch the CPU's libraries
    choose other kernels and round otherwise (1e-6 of a pixel, now and then a bit of the image),
    so there each image is a call of its own; a GPU would lose half its speed by that.
    """
    negatives = list(task.negative_prompts)
    if len(negatives) == 1:
        negatives *= len(task.prompts)
    shared = {
        "width": settings.width,
        "height": settings.height,
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance,
        **_extras(task),
    }
    if device.kind == "cpu" and len(settings.seeds) > 1:
        return [single | shared for single in _singles(task, negatives)]
    whole = {
        "prompt": list(task.prompts),
        "negative_prompt": negatives or None,
        "num_images_per_prompt": task.images_per_prompt,
        "generator": _generators(settings.seeds),
    }
    return [whole | shared]


def _singles(task: TextToImage, negatives: list[str]) -> list[dict[str, Any]]:
    owners = [index for index in range(len(task.prompts)) for _ in range(task.images_per_prompt)]
    return [
        {
            "prompt": [task.prompts[owner]],
            "negative_prompt": [negatives[owner]] if negatives else None,
            "generator": _generators((seed,)),
        }
        for owner, seed in zip(owners, task.seeds, strict=True)
    ]


def _generators(seeds: tuple[int, ...]) -> Any:
    """One generator per image, or the one of the batch: diffusers draws alike from `[g]` and `g`.

    On the CPU whatever the device is: the same seed then starts from the same noise everywhere.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators if len(generators) > 1 else generators[0]


def _extras(task: TextToImage) -> dict[str, int | float]:
    found: dict[str, int | float] = {}
    for name, value in task.extra.items():
        kind = GUIDED_EXTRAS.get(name)
        if kind is None:
            known = ", ".join(sorted(GUIDED_EXTRAS))
            raise InvalidParameter(f"The extra {name!r} was given; this model takes {known}.")
        if isinstance(value, (bool, str)) or kind(value) != value:
            raise InvalidParameter(f"{name} was {value!r}; it is of type {kind.__name__}.")
        found[name] = kind(value)
    return found


class _Stages:
    """Seconds by stage, told by the denoiser's first forward and the last step's end.

    The device is waited for at a stage's end only, so that measuring costs no step.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._seconds = {"text_encoder": 0.0, "denoise": 0.0, "decode": 0.0}
        self._stage: str | None = None
        self._since = 0.0
        self._began = time.perf_counter()
        self._first_step: float | None = None

    def enter(self, stage: str | None) -> None:
        """The present stage ends, `stage` begins."""
        self._device.synchronize()
        now = time.perf_counter()
        if self._stage is not None:
            self._seconds[self._stage] += now - self._since
        self._stage, self._since = stage, now

    def on_denoiser(self, module: Any, inputs: Any) -> None:
        """A forward pre-hook: a call's first forward ends the text encoders' stage."""
        if self._stage == "text_encoder":
            self.enter("denoise")

    def note_first_step(self) -> None:
        """A step has ended; the job's first is where a new worker's cost still shows."""
        if self._first_step is None:
            self._device.synchronize()
            self._first_step = time.perf_counter() - self._began

    def end(self) -> dict[str, float]:
        """The stages, the `total`, and the `first_step`."""
        self.enter(None)
        seconds = {**self._seconds, "total": sum(self._seconds.values())}
        return seconds if self._first_step is None else {**seconds, "first_step": self._first_step}
