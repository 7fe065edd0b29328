"""What the daemon remembers of each job: who asked, what for, how far it is, what came of it.

The rows are in memory, and in the store as well; the pixels are in the store alone, once they are
written. Ended jobs stay for apps that come back: within a number, an age and a size of pixels.
"""

from __future__ import annotations

import collections
import time
from dataclasses import dataclass, field

from hermetic_wire.codec import Frame
from hermetic_wire.errors import ErrorBody, HermeticError, UnknownJob, from_body
from hermetic_wire.generation import JobState, Load, Output, Priority, Task, WorkerIdentity
from hermetic_wire.messages import JobRow, OnDisconnect

from .events import Submitted
from .records import Record

__all__ = ["App", "Excess", "Job", "Jobs"]

ROW_BYTES = 400
"""Of an error in a row, in UTF-8: a thousand rows go into one message."""


@dataclass(frozen=True)
class App:
    """Who asked: uid and pid are the kernel's word, the name is its own."""

    name: str
    uid: int
    pid: int

    @property
    def share(self) -> str:
        """Whose share of the device it takes: all processes of a user's app have one together."""
        return f"{self.uid}/{self.name}" if self.name else f"{self.uid}/pid {self.pid}"


@dataclass
class Job:
    """One job through its whole life. Times are seconds since the epoch of Unix."""

    id: str
    app: App
    model: str
    task: Task
    submitted_at: float
    priority: Priority = "normal"
    expires_at: float | None = None
    """When it fails unless it was begun before."""
    on_disconnect: OnDisconnect = "keep"
    keep_alive: float | None = None
    preview_seconds: float | None = None
    accepted: bool = False
    """Whether it is written down: until then nobody is told of it, though it may run already."""
    refused: bool = False
    """Whether it could not be written down: then it never was, whatever has come of it."""
    state: JobState = "queued"
    attempts: int = 0
    interruptions: int = 0
    """How often a daemon ended under it."""
    cancel_asked: bool = False
    deaths: list[ErrorBody] = field(default_factory=list)
    """How workers ended under it."""
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
    """From the worker, until they are written down and its followers are told."""
    dropped: bool = False
    """Whether its pixels are no longer kept."""

    @property
    def ended(self) -> bool:
        """Whether it has come to its one end."""
        return self.state not in ("queued", "loading", "running")

    @property
    def pixel_bytes(self) -> int:
        """Of its kept pixels."""
        if self.output is None or self.dropped or self.state != "succeeded":
            return 0
        return sum(image.width * image.height * 3 for image in self.output.images)

    def row(
        self,
        position: int | None = None,
        estimate_s: float | None = None,
        not_before: float | None = None,
    ) -> JobRow:
        """As `hermetic jobs` shows it."""
        return JobRow(
            id=self.id,
            app=self.app.name,
            uid=self.app.uid,
            pid=self.app.pid,
            model=self.model,
            state=self.state,
            position=position,
            estimate_s=estimate_s,
            attempts=self.attempts,
            step=self.step,
            steps=self.steps,
            submitted_at=self.submitted_at,
            started_at=self.started_at,
            ended_at=self.ended_at,
            error=_in_short(self.error) if self.error else None,
            priority=self.priority,
            expires_at=self.expires_at,
            not_before=not_before,
        )

    def arrival(self) -> Submitted:
        """As the dispatcher is told of it, whose clock is `time.monotonic`."""
        offset = time.monotonic() - time.time()
        begun = self.attempts > 0  # by an earlier daemon, in time
        return Submitted(
            job_id=self.id,
            model=self.model,
            app=self.app.share,
            priority=self.priority,
            at=self.submitted_at + offset,
            expires_at=None if self.expires_at is None or begun else self.expires_at + offset,
            keep_alive=self.keep_alive,
            deaths=tuple(from_body(death) for death in self.deaths),
            counts=not isinstance(self.task, Load),
        )

    def record(self) -> Record:
        """As the store writes it down when it is new."""
        return Record(
            id=self.id,
            app_name=self.app.name,
            uid=self.app.uid,
            pid=self.app.pid,
            model=self.model,
            task=self.task,
            submitted_at=self.submitted_at,
            priority=self.priority,
            expires_at=self.expires_at,
            on_disconnect=self.on_disconnect,
            keep_alive=self.keep_alive,
            preview_seconds=self.preview_seconds,
        )

    @classmethod
    def recovered(cls, record: Record) -> Job:
        """As the store has it."""
        return cls(
            id=record.id,
            app=App(record.app_name, record.uid, record.pid),
            model=record.model,
            task=record.task,
            submitted_at=record.submitted_at,
            priority=record.priority,
            expires_at=record.expires_at,
            on_disconnect=record.on_disconnect,
            keep_alive=record.keep_alive,
            preview_seconds=record.preview_seconds,
            accepted=True,
            state=record.state,
            attempts=record.attempts,
            interruptions=record.interruptions,
            cancel_asked=record.cancel_asked,
            deaths=list(record.deaths),
            started_at=record.started_at,
            ended_at=record.ended_at,
            error=from_body(record.error) if record.error else None,
            output=record.output,
            worker=record.worker,
            dropped=record.dropped,
        )


def _in_short(error: HermeticError) -> ErrorBody:
    """Without its report, of which a thousand would be too much for one message."""
    message, encoded = error.message, error.message.encode()
    if len(encoded) > ROW_BYTES:
        message = encoded[: ROW_BYTES - 3].decode(errors="ignore") + "..."
    return ErrorBody(code=error.code, message=message, retry_after=error.retry_after)


@dataclass(frozen=True)
class Excess:
    """Ended jobs past the bounds, by id: the store need not keep them any longer."""

    jobs: tuple[str, ...] = ()
    pixels: tuple[str, ...] = ()
    """Of these only the pixels go."""


class Jobs:
    """All jobs by id."""

    def __init__(self, keep_jobs: int, keep_bytes: int, keep_seconds: float) -> None:
        self._jobs: dict[str, Job] = {}
        self._ended: collections.deque[Job] = collections.deque()
        """Oldest end first."""
        self._with_pixels: collections.deque[Job] = collections.deque()
        self._pixel_bytes = 0
        self._keep_jobs = keep_jobs
        self._keep_bytes = keep_bytes
        self._keep_seconds = keep_seconds
        self.ended_by_state: collections.Counter[str] = collections.Counter()
        """Since the daemon's start."""

    def add(self, job: Job) -> None:
        """A job, new or from the store; of those that have ended the oldest end comes first."""
        self._jobs[job.id] = job
        if job.ended:
            self._keep(job)

    def discard(self, job: Job) -> None:
        """It never was."""
        del self._jobs[job.id]

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def get(self, job_id: str) -> Job | None:
        """The job, where it is still known."""
        return self._jobs.get(job_id)

    def find(self, job_id: str) -> Job:
        """The job. Raises UnknownJob."""
        job = self._jobs.get(job_id)
        if job is None:
            raise UnknownJob(
                f"No job has the id {job_id!r}. It never existed, or it ended too long ago: "
                f"the last {self._keep_jobs} ended ones are kept."
            )
        return job

    def close(self, job: Job, state: JobState) -> None:
        """The job has ended."""
        job.state = state
        self.ended_by_state[state] += 1
        self._keep(job)

    def _keep(self, job: Job) -> None:
        self._ended.append(job)
        if job.pixel_bytes:
            self._with_pixels.append(job)
            self._pixel_bytes += job.pixel_bytes

    def trim(self, now: float) -> Excess:
        """Forget what is past the bounds; the newest pixels stay whatever their size."""
        pixels: list[str] = []
        while self._pixel_bytes > self._keep_bytes and len(self._with_pixels) > 1:
            pixels.append(self._drop_oldest_pixels())
        jobs: list[str] = []
        while self._ended and self._is_excess(self._ended[0], now):
            oldest = self._ended.popleft()
            del self._jobs[oldest.id]
            jobs.append(oldest.id)
            if oldest.pixel_bytes:  # then no older job has any
                self._drop_oldest_pixels()
        return Excess(tuple(jobs), tuple(set(pixels) - set(jobs)))

    def _is_excess(self, job: Job, now: float) -> bool:
        too_old = now - (job.ended_at or now) > self._keep_seconds
        return too_old or len(self._ended) > self._keep_jobs

    def _drop_oldest_pixels(self) -> str:
        oldest = self._with_pixels.popleft()
        self._pixel_bytes -= oldest.pixel_bytes
        oldest.dropped = True
        return oldest.id

    @property
    def count(self) -> int:
        """Of all jobs that are known."""
        return len(self._jobs)

    @property
    def pixel_bytes(self) -> int:
        """Of all results that are kept."""
        return self._pixel_bytes

    def open(self) -> list[Job]:
        """The jobs that have not ended, in the order of their arrival."""
        return [job for job in self._jobs.values() if not job.ended]

    def newest_ended(self) -> list[Job]:
        """The ended jobs that are still known, youngest end first."""
        return list(reversed(self._ended))
