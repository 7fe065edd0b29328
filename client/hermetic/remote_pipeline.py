"""A text-to-image pipeline whose model lives in the daemon, called as a diffusers one is.

An app changes one import line. What cannot be done as diffusers would do it is refused, never
silently done otherwise. Imports no torch; numpy only for `output_type="np"`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

from msgspec.structs import replace

from hermetic_wire.errors import InvalidParameter
from hermetic_wire.generation import Parameter, TextToImage
from hermetic_wire.messages import JobRunning, JobStep

from ._generators import GeneratorSeeds
from ._result import Result
from ._sync import Client, Job
from ._task import text_to_image

__all__ = ["PipelineOutput", "RemotePipeline"]

StepCallback: TypeAlias = Callable[["RemotePipeline", int, float | None, dict[str, Any]], Any]

_PASSED_ON = ("clip_skip", "eta", "guidance_rescale")
_SAFETY_CHECKED = "sd15"
"""The architecture whose diffusers output has `nsfw_content_detected`."""


class PipelineOutput:
    """What a diffusers pipeline returns: read by name, by key or by position."""

    def __init__(self, images: Any, result: Result) -> None:
        self.images = images
        """A list of PIL images, or for `np` a float32 array (images, height, width, 3), 0 to 1, in
        the 256 values of each colour that came over the wire."""
        self.nsfw_content_detected: None = None
        """Always None: the daemon runs no safety checker."""
        self.result = result
        """All that Hermetic knows of the job."""

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None, as diffusers' outputs do."""
        return (self.images,)

    def __getitem__(self, key: str | int) -> Any:
        """A field by name, or by its place in `to_tuple()`."""
        if isinstance(key, int):
            return self.to_tuple()[key]
        if key not in ("images", "nsfw_content_detected"):
            raise KeyError(key)
        return getattr(self, key)


class RemotePipeline:
    """Calls one model of the daemon as if its diffusers pipeline were here.

    `.to()`, `.enable_*()`, `.disable_*()` and `.set_progress_bar_config()` are accepted and do
    nothing that matters: where and how a model runs is the daemon's configuration.
    """

    _seeds = GeneratorSeeds()  # of the process: a generator may go from one pipeline to the next

    def __init__(self, model: str, client: Client | None = None) -> None:
        """`model` is a name of the catalog; without a client it makes one, which ends with it."""
        self.model = model
        self.client = Client() if client is None else client
        self.num_timesteps = 0
        """Denoising steps of the call, known from its first step on."""
        self._interrupt = False

    @classmethod
    def from_pretrained(
        cls, model: str | os.PathLike[str], client: Client | None = None, **ignored: Any
    ) -> RemotePipeline:
        """The pipeline of a model in the daemon's catalog. Raises UnknownModel.

        `ignored` takes `torch_dtype`, `variant`, `use_safetensors`, `safety_checker` and such:
        they were decided when the model was configured.
        """
        pipeline = cls(os.fspath(model), client)
        pipeline.client.model(pipeline.model)
        return pipeline

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        width: int | None = None,
        height: int | None = None,
        num_images_per_prompt: int | None = 1,
        generator: Any = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
        output_type: Literal["pil", "np"] = "pil",
        return_dict: bool = True,
        **further: Any,
    ) -> Any:
        """A PipelineOutput, or a tuple if not `return_dict`; images are in prompt order.

        Whatever is left out is the model's default in the daemon.

        `generator` is a torch.Generator, one for the whole batch, or a list with one per image,
        each on the CPU and just seeded. `callback_on_step_end(pipe, step, timestep, {})` is called
        for each step from 0, without tensors: they are in another process. If it raises or sets
        `pipe._interrupt = True`, the job is cancelled. `further` may hold `clip_skip`, `eta` and
        `guidance_rescale`.

        Raises InvalidParameter for what cannot be done, JobCancelled after an interrupt, and the
        error of a job that failed.
        """
        if output_type not in ("pil", "np"):
            raise InvalidParameter(f'output_type is {output_type!r}; "pil" and "np" can be had.')
        task = text_to_image(
            prompt,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            steps=num_inference_steps,
            guidance=guidance_scale,
            n=1 if num_images_per_prompt is None else num_images_per_prompt,
            extra=_further(further),
        )
        result = self._run(task, generator, callback_on_step_end)
        output = PipelineOutput(_images(result, output_type), result)
        if return_dict:
            return output
        return (output.images, None) if _has_checker(result) else (output.images,)

    @property
    def interrupt(self) -> bool:
        """Whether the running call was asked to stop; `_interrupt` sets it, as in diffusers."""
        return self._interrupt

    def to(self, *args: Any, **kwargs: Any) -> RemotePipeline:
        """Accepted and ignored: the daemon decides the device."""
        return self

    def set_progress_bar_config(self, **kwargs: Any) -> None:
        """Accepted and ignored: this pipeline draws no progress bar."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        """`enable_*` and `disable_*`: accepted and ignored, the daemon manages memory."""
        if name.startswith(("enable_", "disable_")):
            return lambda *args, **kwargs: None
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _run(self, task: TextToImage, generator: Any, callback: StepCallback | None) -> Result:
        self._interrupt = False
        self.num_timesteps = 0
        seeds = self._seeds.read(generator, task.count)
        job = self.client._submit(self.model, replace(task, seeds=seeds))
        self._seeds.spend(generator)
        try:
            if callback is not None:
                self._report(job, callback)
            return job.result()
        except BaseException:
            if job.state in ("queued", "loading", "running"):
                self.client._give_up(job.id)
            raise

    def _report(self, job: Job, callback: StepCallback) -> None:
        """Calls the callback once per step, also for steps that were reported as one."""
        done = 0
        for update in job:
            match update:
                case JobRunning():
                    done = 0  # a retry on another worker begins again
                case JobStep(step=step, steps=steps, timestep=timestep):
                    self.num_timesteps = steps
                    for index in range(done, step):
                        _refuse_tensors(callback(self, index, timestep, {}))
                        if self._interrupt:
                            job.cancel()
                            return
                    done = step
                case _:
                    pass


def _further(given: dict[str, Any]) -> dict[str, Parameter | None]:
    """What is passed on. Raises InvalidParameter for what no daemon can do; None asks nothing."""
    refused = sorted(
        name for name, value in given.items() if name not in _PASSED_ON and value is not None
    )
    if refused:
        raise InvalidParameter(
            f"{', '.join(refused)} cannot be used with a remote pipeline; it takes prompts, sizes, "
            f"steps, guidance, generators, callback_on_step_end, {', '.join(_PASSED_ON)}."
        )
    return {name: given[name] for name in _PASSED_ON if name in given}


def _refuse_tensors(returned: Any) -> None:
    if isinstance(returned, dict) and returned:
        raise InvalidParameter(
            f"callback_on_step_end returned {', '.join(map(repr, returned))}; the tensors are in "
            "another process and cannot be replaced from here."
        )


def _has_checker(result: Result) -> bool:
    return result.worker.architecture == _SAFETY_CHECKED


def _images(result: Result, output_type: str) -> Any:
    if output_type == "pil":
        return result.images
    # Not imported as a module: the client works without numpy, and an app that asks for arrays
    # has it.
    numpy = importlib.import_module("numpy")
    arrays = [
        numpy.frombuffer(pixels, dtype=numpy.uint8).reshape(height, width, 3)
        for (width, height), pixels in zip(result.sizes, result.pixels, strict=True)
    ]
    return numpy.stack(arrays).astype(numpy.float32) / numpy.float32(255)
