"""What a job asks for and what it yields: the words that both protocols share.

A job's `task` travels from the app through the daemon to the worker unchanged, except that the
daemon fills in what the app left open.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

__all__ = [
    "GUIDED_EXTRAS",
    "Image",
    "JobState",
    "Load",
    "Output",
    "Parameter",
    "Priority",
    "Task",
    "TextToImage",
    "WorkerIdentity",
]

JobState: TypeAlias = Literal[
    "queued", "loading", "running", "succeeded", "failed", "cancelled", "interrupted"
]
Priority: TypeAlias = Literal["high", "normal", "low"]
"""Classes of jobs: a higher one goes first, but nothing waits for ever."""
Parameter: TypeAlias = bool | int | float | str
"""A value of `TextToImage.extra`."""

GUIDED_EXTRAS: dict[str, type[int] | type[float]] = {
    "clip_skip": int,
    "guidance_rescale": float,
    "eta": float,
}
"""What `extra` may carry for a Stable Diffusion of any kind, by diffusers' own names."""


class Load(msgspec.Struct, frozen=True, kw_only=True, tag_field="task", tag="load"):
    """Make the model ready and do nothing with it."""


class TextToImage(msgspec.Struct, frozen=True, kw_only=True, tag_field="task", tag="text_to_image"):
    """Images from prompts, in prompt order and in one batch.

    Whatever is None or empty is filled in by the daemon: from the model's defaults, and seeds at
    random.
    """

    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...] = ()
    """None, one for all prompts, or one per prompt."""
    images_per_prompt: int = 1
    width: int | None = None
    """Pixels."""
    height: int | None = None
    """Pixels."""
    steps: int | None = None
    guidance: float | None = None
    """The classifier-free guidance scale; 1 or less is no guidance."""
    seeds: tuple[int, ...] = ()
    """One per image: each is drawn as if alone. Or one for the whole batch, as diffusers does
    with a single generator. 0 <= seed < 2**64."""
    extra: dict[str, Parameter] = {}
    """Further arguments of the pipeline, such as `clip_skip`; the catalog says which."""

    @property
    def count(self) -> int:
        """How many images the task yields."""
        return len(self.prompts) * self.images_per_prompt


Task: TypeAlias = TextToImage | Load


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """What one raw frame holds: `height * width * 3` bytes, RGB, rows from the top."""

    width: int
    height: int


class WorkerIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Which process made a result."""

    model: str
    architecture: str
    epoch: int
    pid: int
    device: str
    versions: dict[str, str] = {}
    """Of torch, diffusers and transformers, where the worker uses them."""


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished job yields; the pixels of `images` are the raw frames, in order."""

    images: tuple[Image, ...] = ()
    seeds: tuple[int, ...] = ()
    """One per image, or the one of the whole batch."""
    timings: dict[str, float] = {}
    """Seconds by stage; docs/protocol.md lists the names."""
    memory: dict[str, int] = {}
    """Bytes: `resident`, `peak`, on a GPU also `device` and `device_peak`."""
