"""What a worker says that apps want to hear, as the supervisor passes it on. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from hermetic_wire import worker as wire
from hermetic_wire.codec import Frame
from hermetic_wire.generation import Image, Output, WorkerIdentity

__all__ = ["Completed", "Preview", "Report"]


@dataclass(frozen=True)
class Completed:
    """The pixels of a job, sent just before its Finished event."""

    job_id: str
    output: Output
    worker: WorkerIdentity
    pixels: list[Frame]


@dataclass(frozen=True)
class Preview:
    """How a job's image looks by now."""

    job_id: str
    step: int
    image: Image
    pixels: list[Frame]


Report: TypeAlias = wire.Loading | wire.Step | Preview | Completed
