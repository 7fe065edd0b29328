"""Stable Diffusion 1.x and XL from a diffusers folder, loaded by their own declared classes.

Light to import: torch and diffusers come in with `outline` or `load`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, ClassVar

from hermetic_wire.errors import HermeticError, LoadFailed, ModelInvalid
from hermetic_wire.generation import TextToImage
from hermetic_wire.worker import Assign, ModelSpec
from hermetic_worker import checks, libraries
from hermetic_worker.device import Device, parse
from hermetic_worker.folder import Folder
from hermetic_worker.laps import Laps

from .base import OUTLINED, Footprint, OnProgress, OnStep, Result

if TYPE_CHECKING:
    from hermetic_worker.previews import Previews
    from hermetic_worker.skeleton import Skeleton
    from hermetic_worker.standby import Standby

__all__ = ["StableDiffusion", "StableDiffusionXL"]

DTYPES = ("float32", "float16", "bfloat16")


class StableDiffusion:
    """SD1.x: one text encoder, one UNet, one VAE."""

    class_name: ClassVar[str] = "StableDiffusionPipeline"
    required: ClassVar[tuple[str, ...]] = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    """Without these there is no image; a safety checker and its extractor may be left out."""

    def __init__(self) -> None:
        self._skeleton: Skeleton | None = None
        self._not_outlined = ""
        self._pipe: Any = None
        self._scheduler_config: Any = None
        self._previews: Previews | None = None
        self._device = Device("cpu")

    def outline(self, spec: ModelSpec, device: str) -> str:
        """Build the pipeline on meta, bind its weights to the pages of their files, check it."""
        from hermetic_worker import skeleton

        try:
            dtype = _dtype_name(spec, parse(device))
            folder = self._folder(spec)
            built = skeleton.build(folder.path, self.class_name, dtype)
            self._check(built.pipe, folder.class_name)
        except (skeleton.Unbuildable, HermeticError, OSError, ValueError) as error:
            self._not_outlined = str(error)
            return self._not_outlined
        self._skeleton = built
        return OUTLINED

    def load(
        self, assign: Assign, on_progress: OnProgress, standby: Standby | None = None
    ) -> Footprint:
        """From the folder to a pipeline on the device that has passed every check."""
        spec = assign.model
        self._device = standby.device if standby else parse(assign.device).claim()
        dtype = _dtype_name(spec, self._device)
        stamp = Folder.stamp(spec.path)
        laps = Laps()
        skeleton = self._skeleton
        stale = skeleton is not None and (skeleton.stamp, skeleton.dtype) != (stamp, dtype)
        if skeleton is not None and not stale:
            on_progress("weights", 0.3)
            self._pipe = self._fill(skeleton, assign, standby, laps)
            how = "skeleton"
        else:
            self._pipe = self._read(assign, dtype, on_progress, laps)
            why = "the files changed after the template was made" if stale else self._not_outlined
            how = f"from_pretrained: {why}" if why else "from_pretrained"
        if assign.low_memory:
            _do_with_little(self._pipe, self._device)
        self._scheduler_config = self._pipe.scheduler.config
        fingerprint = _fingerprint(stamp, dtype, self._device)
        if _is_to_be_tried(assign, fingerprint):
            on_progress("smoke", 0.9)
            with laps.lap("smoke"):
                checks.draws(self._pipe, {"prompt": "smoke"})
                self._device.synchronize()
        return Footprint(
            memory=self._device.memory(),
            timings=laps.seconds,
            versions=libraries.versions(),
            loaded_by=dict.fromkeys(_components(self._pipe), how),
            fingerprint=fingerprint,
            stale_template=stale,
        )

    def run(self, task: TextToImage, on_step: OnStep) -> Result:
        """The images of the task, each the same whatever ran before it."""
        from hermetic_worker.previews import Previews

        from .denoising import denoise

        if self._previews is None:
            self._previews = Previews(self._pipe.vae)
        return denoise(
            self._pipe, self._scheduler_config, task, self._device, on_step, self._previews
        )

    def _fill(self, skeleton: Skeleton, assign: Assign, standby: Standby | None, laps: Laps) -> Any:
        """The pipeline that this process was born with, its weights where they have to be."""
        if assign.read_ahead:
            with laps.lap("read"):
                skeleton.read_ahead()
        if self._device.kind != "cpu" and not assign.low_memory:
            self._device.require()
            with laps.lap("copy"):
                skeleton.move(self._device, standby.ring if standby else None)
        if skeleton.converts:
            with laps.lap("bind"):
                skeleton.convert()
        if self._device.kind != "cpu" and not assign.low_memory:
            self._place(skeleton.pipe, laps)
        return skeleton.pipe

    def _read(self, assign: Assign, dtype: str, on_progress: OnProgress, laps: Laps) -> Any:
        """The whole of it by `from_pretrained`, the reference."""
        folder = self._folder(assign.model)
        on_progress("imports", 0.0)
        with laps.lap("imports"):
            libraries.bring_in()
            kind = libraries.pipeline_class(folder.class_name)
        self._device.require()
        on_progress("weights", 0.3)
        with laps.lap("load"):
            pipe = _from_folder(kind, folder, dtype)
            self._check(pipe, folder.class_name)
            checks.held_in(pipe, dtype)
        on_progress("device", 0.8)
        if not assign.low_memory:
            self._place(pipe, laps)
        return pipe

    def _place(self, pipe: Any, laps: Laps) -> None:
        with laps.lap("place"):
            pipe.to(self._device.torch_name)
            self._device.synchronize()

    def _folder(self, spec: ModelSpec) -> Folder:
        if spec.pipeline not in {None, self.class_name}:
            raise ModelInvalid(
                f"The architecture {spec.architecture} is drawn by {self.class_name}, but the "
                f"catalog declares {spec.pipeline} for {spec.name!r}. Correct one of the two."
            )
        folder = Folder.read(spec.path)
        folder.require_class(self.class_name)
        return folder

    def _check(self, pipe: Any, class_name: str) -> None:
        """All that can be told without a computation."""
        checks.declared_class(pipe, class_name)
        checks.nothing_missing(pipe, self.required)
        checks.no_meta_tensor(pipe)
        checks.text_widths(pipe)
        checks.latent_channels(pipe)
        _give_text_model_back(pipe.text_encoder)


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


def _do_with_little(pipe: Any, device: Device) -> None:
    """Keep the weights in the host's memory: each layer's come to the device for its own work.

    That changes no bit of an image. Those of a batch are decoded one by one, which rounds them as
    if each were alone.
    """
    import torch

    device.require()
    pipe.enable_group_offload(
        onload_device=torch.device(device.torch_name),
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
    )
    pipe.vae.enable_slicing()


def _components(pipe: Any) -> list[str]:
    return [name for name, part in pipe.components.items() if part is not None]


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


def _fingerprint(stamp: str, dtype: str, device: Device) -> str:
    """Of all that the smoke step's outcome depends on."""
    facts = (stamp, dtype, device.kind, *sorted(libraries.versions().items()))
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _is_to_be_tried(assign: Assign, fingerprint: str) -> bool:
    if assign.smoke == "once":
        return assign.proven != fingerprint
    return assign.smoke == "always"
