"""All jobs of a user as a client watches them: their news in order. Pure; asks nobody."""

from __future__ import annotations

from collections.abc import Iterable

from hermetic_wire.errors import ErrorBody, from_body
from hermetic_wire.messages import (
    JobEnded,
    JobLoading,
    JobQueued,
    JobRetrying,
    JobRow,
    JobRunning,
    JobStep,
    JobSubmitted,
    WatchUpdate,
)

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
        self._open: set[str] = set()
        """Jobs that were told of, and not yet of their end."""
        self._waiting: dict[tuple[str, type[WatchUpdate]], WatchUpdate] = {}

    def put(self, update: WatchUpdate) -> None:
        """News from the daemon."""
        match update:
            case JobSubmitted():
                self._open.add(update.job_id)
            case JobEnded():
                self._open.discard(update.job_id)
            case _:
                pass
        key = update.job_id, type(update)
        self._waiting.pop(key, None)  # the newest goes to the end
        self._waiting[key] = update

    def catch_up(self, rows: Iterable[JobRow]) -> None:
        """All jobs as they are after a gap: those that ended in it are told of now."""
        for row in rows:
            if row.id in self._open and row.state not in _OPEN_STATES:
                self.put(JobEnded(job_id=row.id, job=row))

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
