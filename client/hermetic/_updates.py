"""What an app hears of a job: the wire's updates, and previews with their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from hermetic_wire.codec import Frame
from hermetic_wire.messages import (
    JobFailed,
    JobLoading,
    JobPreview,
    JobQueued,
    JobRetrying,
    JobRunning,
    JobStep,
    JobSucceeded,
)

from ._pixels import checked_pixels, to_image

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["JobUpdate", "Preview"]


class Preview:
    """How a job's first image looks by now: small, rough, and never kept by the daemon.

    Raises MalformedMessage when the pixels do not fit the size that was stated beside them.
    """

    def __init__(self, update: JobPreview, raw: Sequence[Frame]) -> None:
        self.job_id: str = update.job_id
        self.step: int = update.step
        """The denoising step that it shows, from 1."""
        self.size: tuple[int, int] = (update.image.width, update.image.height)
        """Width and height in pixels."""
        [self.pixels] = checked_pixels("preview", [update.image], raw)
        """`height * width * 3` bytes: RGB, rows from the top."""

    @cached_property
    def image(self) -> PIL.Image.Image:
        """The image, RGB. Raises HermeticError when Pillow is not installed."""
        return to_image(self.size, self.pixels)

    def __repr__(self) -> str:
        """What it is, not its pixels."""
        width, height = self.size
        return f"<Preview of job {self.job_id} at step {self.step}: {width}x{height}>"


JobUpdate: TypeAlias = (
    JobQueued | JobRetrying | JobLoading | JobRunning | JobStep | Preview | JobSucceeded | JobFailed
)
"""What iterating a job yields; the last one is JobSucceeded or JobFailed."""
