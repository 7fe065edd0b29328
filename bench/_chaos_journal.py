"""What an app has seen of each of its jobs, line by line, so that a successor can go on.

A line is one write to a file that is only appended to: SIGKILL leaves whole lines.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

__all__ = ["End", "Entry", "History", "Journal", "Seen", "Tail"]

Seen: TypeAlias = Literal["asked", "accepted", "cancel", "left", "ended", "again"]


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended, as an app was told."""

    state: str
    code: str = ""
    """Of the error."""
    message: str = ""
    digest: str = ""
    """Of the pixels."""
    right: bool = True
    """Whether they are what the job's prompt and seed must give, in the job's own name."""

    def same(self, other: End) -> bool:
        """Whether both tell of the same end; an error's words may differ."""
        return (self.state, self.code, self.digest) == (other.state, other.code, other.digest)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line."""

    job: str
    seen: Seen
    end: End | None = None
    """Of `ended`, and of `again`, when it was asked for once more."""


class History(msgspec.Struct, kw_only=True):
    """All lines of one job."""

    asked: bool = False
    accepted: bool = False
    cancelled: bool = False
    """Its cancel was asked for."""
    left: int = 0
    """How often its app disconnected on its account."""
    ends: list[End] = []
    """Of `ended`: one, unless an app was killed between two lines."""
    again: list[End] = []

    def add(self, entry: Entry) -> None:
        """One more line."""
        match entry.seen:
            case "asked":
                self.asked = True
            case "accepted":
                self.accepted = True
            case "cancel":
                self.cancelled = True
            case "left":
                self.left += 1
            case "ended" if entry.end is not None:
                self.ends.append(entry.end)
            case "again" if entry.end is not None:
                self.again.append(entry.end)
            case _:
                raise ValueError(f"a line without its end: {entry}")


class Journal:
    """The file of one app, over all of its lives."""

    def __init__(self, path: Path) -> None:
        self.jobs: dict[str, History] = {}
        for entry in Tail(path).read():
            self._add(entry)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def history(self, job_id: str) -> History:
        """Of one job, empty where nothing is written."""
        return self.jobs.get(job_id) or History()

    def write(self, job_id: str, seen: Seen, end: End | None = None) -> None:
        """One line, before anything is done that rests on it."""
        entry = Entry(job=job_id, seen=seen, end=end)
        os.write(self._file, msgspec.json.encode(entry) + b"\n")
        self._add(entry)

    def close(self) -> None:
        """Nothing is written any more."""
        os.close(self._file)

    def _add(self, entry: Entry) -> None:
        self.jobs.setdefault(entry.job, History()).add(entry)


class Tail:
    """Reads on where it ended the last time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> Iterable[Entry]:
        """The lines that are new; none where there is no file yet."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [msgspec.json.decode(line, type=Entry) for line in whole.splitlines()]
