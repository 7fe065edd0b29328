"""That a job runs is told when it has run for a moment; of one that has ended by then never.

A job that does next to nothing is over before anybody could have looked, and every message of it
costs the daemon and the app as much as the job itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from hermetic_wire.messages import JobRunning

from .jobs import Job

__all__ = ["DELAY_SECONDS", "Beginnings"]

DELAY_SECONDS = 0.01
"""Less than an eye notices, more than a job takes that does nothing."""


@dataclass(frozen=True, slots=True)
class _Beginning:
    job: Job
    news: JobRunning
    due: float


class Beginnings:
    """Those that are still to be told, by `tell`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, tell: Callable[[Job, JobRunning], None]
    ) -> None:
        self._loop = loop
        self._tell = tell
        self._waiting: dict[str, _Beginning] = {}
        """By job, the earliest first."""
        self._timer: asyncio.TimerHandle | None = None

    def put(self, job: Job, news: JobRunning) -> None:
        """Tell it soon."""
        due = self._loop.time() + DELAY_SECONDS
        self._waiting.pop(job.id, None)
        self._waiting[job.id] = _Beginning(job, news, due)
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._tell_due)

    def tell_now(self, job_id: str) -> None:
        """There is other news of the job, and it comes after its beginning."""
        begun = self._waiting.pop(job_id, None)
        if begun is not None:
            self._tell(begun.job, begun.news)

    def drop(self, job_id: str) -> None:
        """The job has ended."""
        self._waiting.pop(job_id, None)

    def _tell_due(self) -> None:
        self._timer = None
        now = self._loop.time()
        for begun in list(self._waiting.values()):
            if begun.due > now:
                self._timer = self._loop.call_at(begun.due, self._tell_due)
                return
            self.tell_now(begun.job.id)
