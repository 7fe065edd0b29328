"""Stable Diffusion 1.x and XL from a diffusers folder, loaded by their own declared classes.

Light to import: torch and diffusers come in with `load`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from hermetic_wire.errors import LoadFailed, ModelInvalid
from hermetic_wire.generation import TextToImage
from hermetic_wire.worker import ModelSpec
from hermetic_worker import checks, libraries
from hermetic_worker.device import Device, parse
from hermetic_worker.folder import Folder

from .base import Footprint, OnProgress, OnStep, Result

__all__ = ["StableDiffusion", "StableDiffusionXL"]

DTYPES = ("float32", "float16", "bfloat16")


class StableDiffusion:
    """SD1.x: one text encoder, one UNet, one VAE."""

    class_name: ClassVar[str] = "StableDiffusionPipeline"
    required: ClassVar[tuple[str, ...]] = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    """Without these there is no image; a safety checker and its extractor may be left out."""

    def __init__(self) -> None:
        self._pipe: Any = None
        self._scheduler_config: Any = None
        self._device = Device("cpu")

    def load(self, spec: ModelSpec, device: str, on_progress: OnProgress) -> Footprint:
        """From the folder to a pipeline on the device that has passed every check."""
        self._device = parse(device)
        dtype = _dtype_name(spec, self._device)
        folder = self._folder(spec)
        laps = _Laps()
        on_progress("imports", 0.0)
        with laps.lap("imports"):
            libraries.bring_in()
            kind = libraries.pipeline_class(folder.class_name)
        self._device.require()
        on_progress("weights", 0.3)
        with laps.lap("load"):
            pipe = _from_folder(kind, folder, dtype)
            self._check(pipe, folder, dtype)
            _give_text_model_back(pipe.text_encoder)
        on_progress("device", 0.8)
        with laps.lap("place"):
            pipe.to(str(self._device))
            self._device.synchronize()
        on_progress("smoke", 0.9)
        with laps.lap("smoke"):
            self._scheduler_config = pipe.scheduler.config
            checks.draws(pipe, {"prompt": "smoke"})
            self._device.synchronize()
        self._pipe = pipe
        return Footprint(self._device.memory(), laps.seconds, libraries.versions())

    def run(self, task: TextToImage, on_step: OnStep) -> Result:
        """The images of the task, each the same whatever ran before it."""
        from .denoising import denoise

        return denoise(self._pipe, self._scheduler_config, task, self._device, on_step)

    def _folder(self, spec: ModelSpec) -> Folder:
        if spec.pipeline not in {None, self.class_name}:
            raise ModelInvalid(
                f"The architecture {spec.architecture} is drawn by {self.class_name}, but the "
                f"catalog declares {spec.pipeline} for {spec.name!r}. Correct one of the two."
            )
        folder = Folder.read(spec.path)
        folder.require_class(self.class_name)
        return folder

    def _check(self, pipe: Any, folder: Folder, dtype: str) -> None:
        import torch

        checks.declared_class(pipe, folder.class_name)
        checks.nothing_missing(pipe, self.required)
        checks.no_meta_tensor(pipe)
        checks.held_in(pipe, getattr(torch, dtype))
        checks.text_widths(pipe)
        checks.latent_channels(pipe)


class StableDiffusionXL(StableDiffusion):
    """SDXL base: two text encoders, of which the second also gives the pooled embedding."""

    class_name = "StableDiffusionXLPipeline"
    required = (*StableDiffusion.required, "text_encoder_2", "tokenizer_2")


def _from_folder(kind: Any, folder: Folder, dtype: str) -> Any:
    import torch

    try:
        pipe = kind.from_pretrained(
            str(folder.path),
            dtype=getattr(torch, dtype),
            variant=folder.variant(),
            use_safetensors=True,
            local_files_only=True,
        )
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's own: a disk that fails, a file that may not be read
        raise ModelInvalid(
            f"{folder.path} cannot be loaded as a {folder.class_name}: {error} Its files are "
            "damaged, or of another model."
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _give_text_model_back(encoder: Any) -> None:
    """For `clip_skip`, which diffusers 0.42 looks up in the encoder's inner `text_model`.

    transformers 5 has merged that into the encoder itself. Set past torch's own bookkeeping: as
    a registered module the encoder would be its own child.
    """
    if not hasattr(encoder, "text_model"):
        object.__setattr__(encoder, "text_model", encoder)


def _dtype_name(spec: ModelSpec, device: Device) -> str:
    name = spec.dtype or device.default_dtype
    if name not in DTYPES:
        raise LoadFailed(
            f"The dtype {name!r} was asked for; the model {spec.name!r} can be held in "
            f"{', '.join(DTYPES)}."
        )
    return name


class _Laps:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def lap(self, stage: str) -> Iterator[None]:
        """Time what is done inside."""
        began = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - began
