"""A pipeline without a model: every image is one colour, told by its prompt and seed.

For tests and benchmarks. It takes the time it is told to take and needs nothing but Python.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from hermetic_wire.codec import Frame
from hermetic_wire.errors import InvalidParameter
from hermetic_wire.generation import Image, Output, Parameter, TextToImage
from hermetic_wire.worker import Assign, ModelSpec
from hermetic_worker.device import host_memory

from .base import OUTLINED, Footprint, OnProgress, OnStep, Result, settle

if TYPE_CHECKING:
    from hermetic_worker.standby import Standby

__all__ = ["Echo", "colour"]


def colour(prompt: str, seed: int, index: int = 0) -> tuple[int, int, int]:
    """The RGB of an image; `index` counts the images that share one seed."""
    digest = hashlib.sha256(f"{seed}/{index}/{prompt}".encode()).digest()
    return digest[0], digest[1], digest[2]


class Echo:
    """Options of the model: `load_seconds`, `load_stages`. Extras of a task: `step_seconds`,
    and `fail_at_step`, at which it raises."""

    def outline(self, spec: ModelSpec, device: str) -> str:
        """There is nothing to build."""
        return OUTLINED

    def load(
        self, assign: Assign, on_progress: OnProgress, standby: Standby | None = None
    ) -> Footprint:
        """Take `load_seconds` in `load_stages` equal stages; the device is of no concern."""
        began = time.monotonic()
        options = assign.model.options
        stages = int(_number(options, "load_stages", 1))
        for stage in range(stages):
            on_progress(f"stage {stage + 1}", stage / stages)
            time.sleep(_number(options, "load_seconds", 0.0) / stages)
        return Footprint(memory=host_memory(), timings={"load": time.monotonic() - began})

    def run(self, task: TextToImage, on_step: OnStep) -> Result:
        """Count the steps, then draw."""
        began = time.monotonic()
        settings = settle(task)
        fail_at = int(_number(task.extra, "fail_at_step", 0))
        for step in range(1, settings.steps + 1):
            if step == fail_at:
                raise RuntimeError(f"told to fail at step {step}")
            if pause := _number(task.extra, "step_seconds", 0.0):
                time.sleep(pause)  # even a sleep of nothing gives the core away
            on_step(step, settings.steps, float(settings.steps - step), lambda: _preview(task))
        pixels = settings.width * settings.height
        frames = [bytes(one) * pixels for one in _colours(task)]
        output = Output(
            images=(Image(width=settings.width, height=settings.height),) * len(frames),
            seeds=task.seeds,
            timings={"total": time.monotonic() - began},
            memory=host_memory(),
        )
        return Result(output, frames)


def _preview(task: TextToImage) -> tuple[Image, Frame]:
    side = 8
    return Image(width=side, height=side), bytes(_colours(task)[0]) * side * side


def _colours(task: TextToImage) -> list[tuple[int, int, int]]:
    prompts = [prompt for prompt in task.prompts for _ in range(task.images_per_prompt)]
    if len(task.seeds) == len(prompts):
        return [colour(prompt, seed) for prompt, seed in zip(prompts, task.seeds, strict=True)]
    return [colour(prompt, task.seeds[0], index) for index, prompt in enumerate(prompts)]


def _number(options: dict[str, Parameter], name: str, default: float) -> float:
    value = options.get(name, default)
    if isinstance(value, str):
        raise InvalidParameter(f"{name} was {value!r}; the echo pipeline takes a number there.")
    return value
