"""One job as the client knows it: its news in order, its end, its pixels. Pure; asks nobody."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from hermetic_wire.codec import Frame
from hermetic_wire.errors import ErrorBody, from_body
from hermetic_wire.generation import JobState
from hermetic_wire.messages import (
    JobFailed,
    JobLoading,
    JobQueued,
    JobRunning,
    JobStep,
    JobSucceeded,
    JobUpdate,
)

__all__ = ["Mailbox"]


class Mailbox:
    """Keeps a job's updates until its app takes them.

    An update of the same kind replaces the one that waits before it, so that a slow app finds the
    newest step and never a backlog. The end is kept apart: every reader gets it, however often.
    """

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.state: JobState = "queued"
        self.accepted = False
        """Whether the daemon has said that the job is its own."""
        self.end: JobSucceeded | JobFailed | None = None
        self.raw: tuple[Frame, ...] = ()
        """The raw frames of the end."""
        self._lost: ErrorBody | None = None
        self._waiting: deque[JobUpdate] = deque()

    @property
    def over(self) -> bool:
        """Whether nothing more can come: the job has ended, or the client has lost it."""
        return self.end is not None or self._lost is not None

    def accept(self, state: JobState) -> None:
        """The daemon has the job."""
        self.accepted = True
        if not self.over:
            self.state = state

    def put(self, update: JobUpdate, raw: Sequence[Frame] = ()) -> None:
        """News from the daemon; what comes after the end is dropped."""
        if self.over:
            return
        match update:
            case JobSucceeded():
                self.end, self.raw, self.state = update, tuple(raw), "succeeded"
            case JobFailed(state=state):
                self.end, self.state = update, state
            case JobQueued():
                self._keep(update, "queued")
            case JobLoading():
                self._keep(update, "loading")
            case JobRunning() | JobStep():
                self._keep(update, "running")

    def lose(self, error: ErrorBody) -> None:
        """The job's end will not be known here, because of `error`."""
        if not self.over:
            self._lost = error

    def take(self) -> JobUpdate | None:
        """The oldest update that waits, then the end for ever; None when there is no news.

        Raises the error by which the job was lost.
        """
        if self._waiting:
            return self._waiting.popleft()
        self.check()
        return self.end

    def check(self) -> None:
        """Raises the error by which the job was lost, if it was."""
        if self._lost is not None:
            raise from_body(self._lost)

    def _keep(self, update: JobUpdate, state: JobState) -> None:
        self.state = state
        if self._waiting and type(self._waiting[-1]) is type(update):
            self._waiting.pop()
        self._waiting.append(update)
