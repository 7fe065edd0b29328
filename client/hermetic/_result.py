"""What a job yields: pixels as they came off the wire, and everything that made them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from hermetic_wire.codec import Frame
from hermetic_wire.generation import Task, WorkerIdentity
from hermetic_wire.messages import JobSucceeded

from ._pixels import checked_pixels, to_image

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["Result"]


class Result:
    """A finished job: its images and how they came to be.

    Raises MalformedMessage when the pixels do not fit the sizes that were stated beside them.
    """

    def __init__(self, end: JobSucceeded, raw: Sequence[Frame]) -> None:
        self.job_id: str = end.job_id
        self.task: Task = end.task
        """As it ran: with everything filled in that the app left open."""
        self.sizes: list[tuple[int, int]] = [(i.width, i.height) for i in end.output.images]
        """Width and height in pixels of each image."""
        self.pixels: list[memoryview] = checked_pixels("result", end.output.images, raw)
        """`height * width * 3` bytes of each image: RGB, rows from the top."""
        self.seeds: list[int] = list(end.output.seeds)
        """One per image, or the one of the whole batch."""
        self.timings: dict[str, float] = dict(end.output.timings)
        """Seconds by stage; docs/protocol.md lists the names."""
        self.memory: dict[str, int] = dict(end.output.memory)
        """Bytes: `resident`, `peak`, on a GPU also `device` and `device_peak`."""
        self.worker: WorkerIdentity = end.worker
        """The process that made it."""

    @cached_property
    def images(self) -> list[PIL.Image.Image]:
        """The images, RGB. Raises HermeticError when Pillow is not installed."""
        return [to_image(*one) for one in zip(self.sizes, self.pixels, strict=True)]

    def __repr__(self) -> str:
        """What it is, not its pixels."""
        return f"<Result of job {self.job_id}: {len(self.sizes)} images by {self.worker.model}>"
