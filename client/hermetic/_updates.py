"""What an app hears of jobs: the wire's updates, previews with their pixels, and what a client
itself finds out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from hermetic_wire import messages
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

__all__ = ["JobForgotten", "JobUpdate", "Preview", "WatchUpdate"]


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


class JobForgotten(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="job_forgotten"
):
    """To watchers: a daemon that came back does not know the job any more, so nobody can say how it
    ended. It is past the ended jobs that are kept, or the journal was set aside."""

    job_id: str


WatchUpdate: TypeAlias = messages.WatchUpdate | JobForgotten
"""What `events()` yields; JobEnded or JobForgotten is the last of a job."""
