"""Jobs as rows of a table, and a board of them that is kept up to date by their news. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from msgspec.structs import replace

from hermetic import JobForgotten, WatchUpdate
from hermetic_wire.messages import (
    JobEnded,
    JobLoading,
    JobQueued,
    JobRetrying,
    JobRow,
    JobRunning,
    JobStep,
    JobSubmitted,
)

from .output import age, duration

__all__ = ["OPEN_STATES", "RIGHT", "SHORT_ID", "Board", "columns", "table"]

OPEN_STATES = ("queued", "loading", "running")
RIGHT = ("POSITION", "ESTIMATE", "STEPS", "AGE", "TOOK")
"""Columns that are aligned to the right."""

_COLUMNS = (
    *("JOB", "APP", "MODEL", "STATE", "PRIORITY"),
    *("POSITION", "ESTIMATE", "STEPS", "AGE", "TOOK", "ERROR"),
)
SHORT_ID = 8
"""Characters of a job's id that people read."""
_ENDED = 10
"""Ended jobs that a board goes on showing."""


def columns(rows: Sequence[JobRow]) -> tuple[str, ...]:
    """The headings: of priorities only where they differ."""
    several = len({row.priority for row in rows}) > 1
    return tuple(name for name in _COLUMNS if several or name != "PRIORITY")


def table(rows: Sequence[JobRow], now: float) -> list[tuple[str, ...]]:
    """A line per job, its cells under `columns`; `now` is seconds since the epoch of Unix."""
    short = _shortest({row.id for row in rows})
    return [tuple(_cell(row, name, short, now) for name in columns(rows)) for row in rows]


def _shortest(ids: set[str]) -> int:
    """How many characters tell these ids apart, 8 at least."""
    length = SHORT_ID
    while len({one[:length] for one in ids}) < len(ids):
        length += 1
    return length


def _cell(row: JobRow, name: str, short: int, now: float) -> str:
    match name:
        case "JOB":
            return row.id[:short]
        case "APP":
            return row.app or f"pid {row.pid}"
        case "MODEL":
            return row.model
        case "STATE":
            return _state(row, now)
        case "PRIORITY":
            return row.priority
        case "POSITION":
            return "-" if row.position is None else str(row.position)
        case "ESTIMATE":
            return "-" if row.estimate_s is None else age(max(row.estimate_s, 1))
        case "STEPS":
            return f"{row.step}/{row.steps}" if row.steps else "-"
        case "AGE":
            return age(now - row.submitted_at) if row.submitted_at else "-"
        case "TOOK":
            began = row.started_at
            return "-" if began is None else duration((row.ended_at or now) - began)
        case _:
            return row.error.message.partition("\n")[0] if row.error else "-"


def _state(row: JobRow, now: float) -> str:
    if row.state == "queued" and row.not_before is not None and row.not_before > now:
        return f"queued, not for {age(max(row.not_before - now, 1))}"
    return row.state


class Board:
    """Rows of the jobs that are open, and of those that ended last."""

    def __init__(self) -> None:
        self._rows: dict[str, JobRow] = {}

    def rows(self) -> list[JobRow]:
        """Running ones first, then waiting ones in their order, then ended ones, youngest first.

        May be called in another thread than `note`: sorting begins with a copy, which is one step
        of the interpreter.
        """
        return sorted(self._rows.values(), key=_order)

    def note(self, update: WatchUpdate, now: float) -> None:
        """News of a job, heard at `now`, seconds since the epoch of Unix."""
        if isinstance(update, (JobSubmitted, JobEnded)):
            self._rows[update.job_id] = update.job
            self._forget_oldest()
            return
        if isinstance(update, JobForgotten):
            self._rows.pop(update.job_id, None)
            return
        row = self._rows.get(update.job_id)
        if row is not None and row.state in OPEN_STATES:
            self._rows[update.job_id] = _after(row, update, now)

    def _forget_oldest(self) -> None:
        ended = [row for row in self.rows() if row.state not in OPEN_STATES]
        for row in ended[_ENDED:]:
            del self._rows[row.id]


def _order(row: JobRow) -> tuple[int, float]:
    if row.state not in OPEN_STATES:
        return 2, -(row.ended_at or 0.0)
    return (1, row.position or 0) if row.state == "queued" else (0, row.started_at or 0.0)


def _after(
    row: JobRow,
    update: JobQueued | JobRetrying | JobLoading | JobRunning | JobStep,
    now: float,
) -> JobRow:
    match update:
        case JobQueued(position=position, estimate_s=estimate):
            return replace(row, state="queued", position=position, estimate_s=estimate)
        case JobRetrying(attempt=attempt, error=error, retry_after=seconds):
            not_before = now + seconds if seconds else None
            return replace(
                row, state="queued", step=0, attempts=attempt, error=error, not_before=not_before
            )
        case JobLoading():
            return replace(row, state="loading", position=None)
        case JobRunning():
            began = row.started_at or now
            return replace(row, state="running", position=None, started_at=began, error=None)
        case JobStep(step=step, steps=steps):
            return replace(row, state="running", position=None, step=step, steps=steps)
        case _:
            assert_never(update)
