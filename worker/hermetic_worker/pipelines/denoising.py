"""One text-to-image job on a loaded diffusers pipeline: its arguments, its steps, its stages.

Imports torch, so it is imported only once a model is loaded. Leaves nothing behind in the
pipeline.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from hermetic_wire.errors import InvalidParameter
from hermetic_wire.generation import Output, TextToImage
from hermetic_worker.device import Device
from hermetic_worker.results import framed

from .base import OnStep, Result, Settings, settle

__all__ = ["EXTRAS", "denoise"]

EXTRAS: dict[str, type[int] | type[float]] = {
    "clip_skip": int,
    "guidance_rescale": float,
    "eta": float,
}
"""What a task's `extra` may carry, by diffusers' own names."""


def denoise(pipe: Any, task: TextToImage, device: Device, on_step: OnStep) -> Result:
    """Run the task on `pipe`, whose scheduler must be fresh.

    Raises InvalidParameter before anything is computed, and whatever `on_step` raises.
    """
    settings = settle(task)
    arguments = _arguments(task, settings)
    stages = _Stages(device)
    counting = pipe.unet.register_forward_pre_hook(stages.on_denoiser)

    def on_step_end(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> Any:
        step, steps = index + 1, int(pipe.num_timesteps)
        if step == steps:
            stages.on_last_step()
        on_step(step, steps, float(timestep))
        return tensors

    try:
        pixels = pipe(**arguments, callback_on_step_end=on_step_end, output_type="np").images
    finally:
        counting.remove()
    images, frames = framed(pixels)
    output = Output(
        images=images, seeds=settings.seeds, timings=stages.on_end(), memory=device.memory()
    )
    return Result(output, frames)


def _arguments(task: TextToImage, settings: Settings) -> dict[str, Any]:
    negatives = list(task.negative_prompts)
    if len(negatives) == 1:
        negatives *= len(task.prompts)
    return {
        "prompt": list(task.prompts),
        "negative_prompt": negatives or None,
        "num_images_per_prompt": task.images_per_prompt,
        "width": settings.width,
        "height": settings.height,
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance,
        "generator": _generators(settings.seeds),
        **_extras(task),
    }


def _generators(seeds: tuple[int, ...]) -> Any:
    """One generator per image, or the one of the batch: diffusers draws alike from `[g]` and `g`.

    On the CPU whatever the device is: the same seed then starts from the same noise everywhere.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators if len(generators) > 1 else generators[0]


def _extras(task: TextToImage) -> dict[str, int | float]:
    found: dict[str, int | float] = {}
    for name, value in task.extra.items():
        kind = EXTRAS.get(name)
        if kind is None:
            raise InvalidParameter(
                f"The extra {name!r} was given; this model takes {', '.join(sorted(EXTRAS))}."
            )
        if isinstance(value, (bool, str)) or kind(value) != value:
            raise InvalidParameter(f"{name} was {value!r}; it is of type {kind.__name__}.")
        found[name] = kind(value)
    return found


class _Stages:
    """Seconds by stage, told by the denoiser's first forward and the last step's end.

    The device is waited for at these three points only, so that measuring costs no step.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._start = time.perf_counter()
        self._encoded: float | None = None
        self._denoised: float | None = None

    def on_denoiser(self, module: Any, inputs: Any) -> None:
        """A forward pre-hook: the first call ends the text encoders' stage."""
        if self._encoded is None:
            self._encoded = self._now()

    def on_last_step(self) -> None:
        """The denoiser is done; the VAE begins."""
        self._denoised = self._now()

    def on_end(self) -> dict[str, float]:
        """The stages, and the `total`."""
        end = self._now()
        encoded = self._start if self._encoded is None else self._encoded
        denoised = encoded if self._denoised is None else self._denoised
        return {
            "text_encoder": encoded - self._start,
            "denoise": denoised - encoded,
            "decode": end - denoised,
            "total": end - self._start,
        }

    def _now(self) -> float:
        self._device.synchronize()
        return time.perf_counter()
