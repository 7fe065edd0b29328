"""All jobs of a user as a client watches them: their news in order. Pure; asks nobody."""

from __future__ import annotations

from collections.abc import Iterable

from hermetic_wire.errors import ErrorBody, from_body
from hermetic_wire.messages import (
    JobEnded,
    JobLoading,
    JobQueued,
    JobRetrying,
    JobRunning,
    Jobs,
    JobStep,
    JobSubmitted,
)

from ._updates import JobForgotten, WatchUpdate

__all__ = ["WATCH_UPDATES", "Watching"]

WATCH_UPDATES = (
    JobSubmitted,
    JobQueued,
    JobRetrying,
    JobLoading,
    JobRunning,
    JobStep,
    JobEnded,
)

_OPEN_STATES = ("queued", "loading", "running")


class Watching:
    """Keeps news until the app takes it.

    Of one job's news of one kind only the newest waits, so that an app that is slow finds how
    things are and no backlog of steps.
    """

    def __init__(self, app: str | None) -> None:
        self.app = app
        """Only jobs of apps with this name are watched; None is all."""
        self.begun = False
        """Whether the daemon has said that it tells."""
        self._lost: ErrorBody | None = None
        self._open: dict[str, None] = {}
        """Jobs that were told of, in that order, and not yet of their end."""
        self._waiting: dict[tuple[str, type[WatchUpdate]], WatchUpdate] = {}

    @property
    def open(self) -> list[str]:
        """The ids of the jobs whose end is still to be told."""
        return list(self._open)

    def put(self, update: WatchUpdate) -> None:
        """News from the daemon, or of what it does not know any more."""
        match update:
            case JobSubmitted():
                self._open[update.job_id] = None
            case JobEnded() | JobForgotten():
                self._open.pop(update.job_id, None)
            case _:
                pass
        key = update.job_id, type(update)
        self._waiting.pop(key, None)  # the newest goes to the end
        self._waiting[key] = update

    def catch_up(self, asked: Iterable[str], found: Jobs) -> None:
        """What a daemon answers after a gap about the jobs `asked` for: those that ended in the gap
        are told of now, and those that it does not know any more."""
        rows = {row.id: row for row in found.jobs}
        for job_id in asked:
            if job_id not in self._open:
                continue  # its end has been told meanwhile
            row = rows.get(job_id)
            if row is not None and row.state not in _OPEN_STATES:
                self.put(JobEnded(job_id=job_id, job=row))
            # An older daemon answers with all jobs that it has, or as many as it lists: one that is
            # missing may be among the others.
            elif row is None and not found.omitted:
                self.put(JobForgotten(job_id=job_id))

    def lose(self, error: ErrorBody) -> None:
        """No more news will come, because of `error`."""
        self._lost = self._lost or error

    def take(self) -> WatchUpdate | None:
        """The oldest that waits, None when there is none. Raises what the watch was lost by."""
        if self._waiting:
            return self._waiting.pop(next(iter(self._waiting)))
        if self._lost is not None:
            raise from_body(self._lost)
        return None
