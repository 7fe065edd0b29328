"""What the daemon remembers of each job: who asked, what for, how far it is, what came of it.

Held in memory. Ended jobs stay for apps that come back: rows up to a count, pixels up to a size.
"""

from __future__ import annotations

import collections
from dataclasses import dataclass

from hermetic_wire.codec import Frame
from hermetic_wire.errors import HermeticError, UnknownJob, to_body
from hermetic_wire.generation import JobState, Output, Task, WorkerIdentity
from hermetic_wire.messages import JobRow

__all__ = ["App", "Job", "Jobs"]


@dataclass(frozen=True)
class App:
    """Who asked: uid and pid are the kernel's word, the name is its own."""

    name: str
    uid: int
    pid: int


@dataclass
class Job:
    """One job through its whole life. Times are seconds since the epoch of Unix."""

    id: str
    app: App
    model: str
    task: Task
    submitted_at: float
    state: JobState = "queued"
    attempts: int = 0
    stage: str = "start"
    """Of the load, with `fraction`, 0 to 1."""
    fraction: float = 0.0
    step: int = 0
    steps: int = 0
    timestep: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    error: HermeticError | None = None
    output: Output | None = None
    worker: WorkerIdentity | None = None
    pixels: list[Frame] | None = None

    @property
    def ended(self) -> bool:
        """Whether it has come to its one end."""
        return self.state not in ("queued", "loading", "running")

    def row(self, position: int | None) -> JobRow:
        """As `hermetic jobs` shows it."""
        return JobRow(
            id=self.id,
            app=self.app.name,
            uid=self.app.uid,
            pid=self.app.pid,
            model=self.model,
            state=self.state,
            position=position,
            attempts=self.attempts,
            step=self.step,
            steps=self.steps,
            submitted_at=self.submitted_at,
            started_at=self.started_at,
            ended_at=self.ended_at,
            error=to_body(self.error) if self.error else None,
        )


class Jobs:
    """All jobs by id."""

    def __init__(self, keep_jobs: int, keep_bytes: int) -> None:
        self._jobs: dict[str, Job] = {}
        self._ended: collections.deque[Job] = collections.deque()
        """Oldest end first."""
        self._with_pixels: collections.deque[Job] = collections.deque()
        self._pixel_bytes = 0
        self._keep_jobs = keep_jobs
        self._keep_bytes = keep_bytes
        self.ended_by_state: collections.Counter[str] = collections.Counter()

    def add(self, job: Job) -> None:
        """A new job."""
        self._jobs[job.id] = job

    def get(self, job_id: str) -> Job | None:
        """The job, where it is still known."""
        return self._jobs.get(job_id)

    def find(self, job_id: str) -> Job:
        """The job. Raises UnknownJob."""
        job = self._jobs.get(job_id)
        if job is None:
            raise UnknownJob(
                f"No job has the id {job_id!r}. It never existed, ended too long ago, or the "
                "daemon has been restarted since."
            )
        return job

    def close(self, job: Job, state: JobState, at: float) -> None:
        """The job has ended; forget what is too old for the bounds."""
        job.state, job.ended_at = state, at
        self.ended_by_state[state] += 1
        self._ended.append(job)
        if job.pixels:
            self._with_pixels.append(job)
            self._pixel_bytes += _size(job)
        while self._pixel_bytes > self._keep_bytes and len(self._with_pixels) > 1:
            self._drop_oldest_pixels()
        if len(self._ended) > self._keep_jobs:
            oldest = self._ended.popleft()
            del self._jobs[oldest.id]
            if oldest.pixels:  # then no older job has any
                self._drop_oldest_pixels()

    def _drop_oldest_pixels(self) -> None:
        oldest = self._with_pixels.popleft()
        self._pixel_bytes -= _size(oldest)
        oldest.pixels = None

    def newest_ended(self) -> list[Job]:
        """The ended jobs that are still known, youngest end first."""
        return list(reversed(self._ended))


def _size(job: Job) -> int:
    return sum(memoryview(frame).nbytes for frame in job.pixels or ())
