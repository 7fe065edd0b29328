"""The steps of one job as the daemon hears of them: not more than it has any use for.

A step of a small model takes less time than telling it costs the worker, the daemon and the app.
So a step is told only where the job, and the last step that was told, are `PACE_SECONDS` old; of a
job that has come that far its last step is always told, because what follows it takes longer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from hermetic_wire.codec import Frame
from hermetic_wire.generation import Image
from hermetic_wire.worker import Run, Step

from .channel import Link

__all__ = ["PACE_SECONDS", "Steps"]

PACE_SECONDS = 0.05
"""Twenty a second are as many as an eye can use. Each wakes the daemon and the app, which on a CPU
takes a core that the model computes on."""


class Steps:
    """Of the job `run`, which begins now. Previews at the pace that it asks for."""

    def __init__(
        self,
        channel: Link,
        epoch: int,
        run: Run,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._channel = channel
        self._epoch = epoch
        self._run = run
        self._clock = clock
        self._began = self._told_at = clock()
        self._shown_at = -math.inf

    def tell(
        self,
        step: int,
        steps: int,
        timestep: float | None,
        show: Callable[[], tuple[Image, Frame]] | None,
    ) -> None:
        """As `pipelines.base.OnStep` has it."""
        now = self._clock()
        picture: Image | None = None
        raw: Sequence[Frame] = ()
        pace = self._run.preview_seconds
        if show is not None and pace is not None and now - self._shown_at >= pace:
            self._shown_at = now
            picture, *raw = show()
        since = self._began if step == steps else self._told_at
        if picture is None and now - since < PACE_SECONDS:
            return
        self._told_at = now
        told = Step(
            epoch=self._epoch,
            job_id=self._run.job_id,
            step=step,
            steps=steps,
            timestep=timestep,
            preview=picture,
        )
        self._channel.send(told, raw)
