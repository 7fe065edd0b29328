"""News of all jobs as lines that people read. Pure."""

from __future__ import annotations

from time import struct_time
from typing import TYPE_CHECKING

from hermetic import JobForgotten
from hermetic_wire.messages import JobEnded, JobRow, JobSubmitted

from .job_rows import SHORT_ID
from .progress import News

if TYPE_CHECKING:
    from hermetic import WatchUpdate

__all__ = ["Diary"]


class Diary:
    """Knows whose job an update is of, and says nothing twice in a row of one job."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[JobRow, News]] = {}

    def line(self, update: WatchUpdate, now: struct_time) -> str | None:
        """The line of an update; None where the last line of its job says as much."""
        words = self._words(update)
        if words is None:
            return None
        time = f"{now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}"
        return f"{time}  {update.job_id[:SHORT_ID]}  {words}"

    def _words(self, update: WatchUpdate) -> str | None:
        match update:
            case JobSubmitted(job=row):
                self._open[row.id] = row, News()
                return f"{_whose(row)}: {_priority(row)}{row.state}"
            case JobEnded(job=row):
                self._open.pop(row.id, None)
                error = f": {row.error.message.partition(chr(10))[0]}" if row.error else ""
                return f"{_whose(row)}: {row.state}{error}"
            case JobForgotten(job_id=job_id) if job_id in self._open:
                row, _ = self._open.pop(job_id)
                return f"{_whose(row)}: the daemon does not know it any more"
            case _:
                if update.job_id not in self._open:  # it had ended when it was told of
                    return None
                row, news = self._open[update.job_id]
                words = news.words(update)
                return None if words is None else f"{_whose(row)}: {words}"


def _whose(row: JobRow) -> str:
    return f"{row.app or f'pid {row.pid}'}, {row.model}"


def _priority(row: JobRow) -> str:
    return "" if row.priority == "normal" else f"{row.priority} priority, "
