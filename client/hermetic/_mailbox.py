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
    JobPreview,
    JobQueued,
    JobRetrying,
    JobRunning,
    JobStep,
    JobSucceeded,
)
from hermetic_wire.messages import JobUpdate as Message

from ._updates import JobUpdate, Preview

__all__ = ["Mailbox"]

_FLEETING = (JobStep, Preview)
"""These come by turns, many of them."""


class Mailbox:
    """Keeps a job's updates until its app takes them.

    An update of the same kind replaces the one that waits before it, so that a slow app finds the
    newest step and the newest preview and never a backlog. The end is kept apart: every reader gets
    it, however often.
    """

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.state: JobState = "queued"
        self.accepted = False
        """Whether the daemon has said that the job is its own."""
        self.asking = 0
        """How many requests for the job have no reply yet."""
        self.end: JobSucceeded | JobFailed | None = None
        self.raw: tuple[Frame, ...] = ()
        """The raw frames of the end."""
        self.preview_seconds: float | None = None
        """The shortest time between previews that anybody here has asked for."""
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

    def ask_previews(self, pace: float | None) -> None:
        """Somebody here wants one in so many seconds; None asks for nothing."""
        if pace is not None:
            self.preview_seconds = min(pace, self.preview_seconds or pace)

    def put(self, update: Message, raw: Sequence[Frame] = ()) -> None:
        """News from the daemon; what comes after the end is dropped.

        Raises MalformedMessage for a preview whose pixels do not fit.
        """
        if self.over:
            return
        match update:
            case JobSucceeded():
                self.end, self.raw, self.state = update, tuple(raw), "succeeded"
            case JobFailed(state=state):
                self.end, self.state = update, state
            case JobQueued() | JobRetrying():
                self._keep(update, "queued")
            case JobLoading():
                self._keep(update, "loading")
            case JobRunning() | JobStep():
                self._keep(update, "running")
            case JobPreview():
                self._keep(Preview(update, raw), "running")

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
        self._drop_older(update)
        self._waiting.append(update)

    def _drop_older(self, update: JobUpdate) -> None:
        """The one of the same kind that waits, if only what is fleeting came in between."""
        for index in range(len(self._waiting) - 1, -1, -1):
            waiting = self._waiting[index]
            if type(waiting) is type(update):
                del self._waiting[index]
                return
            if not (isinstance(waiting, _FLEETING) and isinstance(update, _FLEETING)):
                return
