"""What is written down of jobs, apps and models. Data only; the store knows no more of them."""

from __future__ import annotations

import msgspec

from hermetic_wire.errors import ErrorBody
from hermetic_wire.generation import JobState, Output, Priority, Task, WorkerIdentity
from hermetic_wire.messages import OnDisconnect

__all__ = ["End", "Measured", "Record", "Recovered"]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One job. Points in time are seconds since the epoch of Unix."""

    id: str
    app_name: str
    uid: int
    pid: int
    model: str
    task: Task
    submitted_at: float
    priority: Priority = "normal"
    expires_at: float | None = None
    on_disconnect: OnDisconnect = "keep"
    keep_alive: float | None = None
    preview_seconds: float | None = None
    state: JobState = "queued"
    attempts: int = 0
    interruptions: int = 0
    """Attempts that were under way when a daemon ended without saying so."""
    deaths: tuple[ErrorBody, ...] = ()
    """How workers ended under it."""
    cancel_asked: bool = False
    started_at: float | None = None
    ended_at: float | None = None
    error: ErrorBody | None = None
    output: Output | None = None
    worker: WorkerIdentity | None = None
    dropped: bool = False
    """Whether its pixels are no longer kept."""


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended."""

    state: JobState
    ended_at: float
    error: ErrorBody | None = None
    output: Output | None = None
    worker: WorkerIdentity | None = None


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model by experience; None where it is not."""

    model: str
    job_seconds: float | None = None
    load_seconds: float | None = None
    footprint_bytes: int | None = None


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """All that earlier daemons have left."""

    jobs: tuple[Record, ...] = ()
    """The open ones in the order of their arrival, then the others, oldest end first."""
    paused: bool = False
    last_epoch: int = 0
    measured: tuple[Measured, ...] = ()
    processes: tuple[tuple[int, float], ...] = ()
    """Pid and start of every process that was a daemon's child and was not seen to end."""
