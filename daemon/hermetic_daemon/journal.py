"""The journal's tables in SQL: one method per fact. The caller owns threads, and asks for commits.

A statement costs the thread that runs it the interpreter's lock, twice. So what can be said in one
is said in one: an attempt with its end, where both are told in one transaction, and all that is
forgotten.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from hermetic_wire.errors import (
    ErrorBody,
    InvalidParameter,
    StoreBroken,
    StoreUnavailable,
    UnknownJob,
)

from .migrations import migrate
from .records import End, Measured, Record

__all__ = ["Journal", "Kept", "is_environment"]

logger = logging.getLogger(__name__)

WAY_OUT = (
    "To keep it for a look and begin a new one, start once with: hermeticd --set-store-aside. "
    "Jobs that had not ended are then lost."
)
_BROKEN = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
"""What SQLite says of a journal that is not what it wrote, missing tables included."""
_ADD = (
    "INSERT INTO jobs (app, id, pid, model, task, submitted_at, priority, expires_at,"
    " on_disconnect, keep_alive, preview_seconds)"
    " SELECT apps.id, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM apps WHERE uid = ? AND name = ?"
    " ON CONFLICT (id) DO NOTHING"
)
_EACH = "(SELECT value FROM json_each(?))"
_encode = msgspec.msgpack.Encoder().encode
_errors = msgspec.msgpack.Decoder(tuple[ErrorBody, ...])
_sizes = msgspec.msgpack.Decoder(list[int])


class Kept(msgspec.Struct, frozen=True):
    """What was written of a result's pixels."""

    job_id: str
    sizes: list[int]
    """Bytes of each frame."""
    checksum: int = 0
    """CRC-32 of all of them, where they are in a file."""
    pixels: bytes | None = None
    """All of them, where they are so few that they are here."""


class _Attempt(NamedTuple):
    epoch: int
    pid: int
    started_at: float


class Journal:
    """One connection; to be used by one thread at a time."""

    def __init__(self, file: Path) -> None:
        """Raises StoreBroken, StoreUnavailable."""
        self._file = file
        self._begun: dict[str, _Attempt] = {}
        """Told in this transaction and not written yet, by job."""
        self._leaving: list[str] = []
        """Jobs to be forgotten at the end of this transaction."""
        self._files: list[str] = []
        """Jobs whose files this transaction has left without a result."""
        try:
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self.connection = sqlite3.connect(
                file, isolation_level=None, check_same_thread=False, cached_statements=64
            )
        except (sqlite3.Error, OSError) as error:
            raise self.refusal(error) from error
        try:
            self._prepare()
        except BaseException as error:
            self.connection.close()
            if isinstance(error, sqlite3.Error):
                raise self.refusal(error) from error
            raise

    def _prepare(self) -> None:
        execute = self.connection.execute
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        self._forced = True
        execute("PRAGMA foreign_keys = ON")
        (found,) = execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        migrate(self.connection)

    def open(self, *, forced: bool) -> None:
        """Begin a transaction; its commit waits for the disk if it is to be `forced` there."""
        if forced != self._forced:
            self.connection.execute(f"PRAGMA synchronous = {'FULL' if forced else 'NORMAL'}")
            self._forced = forced
        self._begun.clear()
        self._leaving.clear()
        self._files.clear()
        self.connection.execute("BEGIN IMMEDIATE")

    def complete(self) -> None:
        """Write what was only noted so far; COMMIT may follow."""
        for job_id, attempt in self._begun.items():
            try:
                self._begin(job_id, attempt)
            except Exception as error:
                if is_environment(error):
                    raise
                logger.exception("an attempt of job %s cannot be written", job_id)
        self._begun.clear()
        self._forget()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def refusal(self, error: Exception) -> StoreBroken | StoreUnavailable:
        """What happened in words, with what to do about it."""
        if _is_broken(error):
            return StoreBroken(
                f"The journal of jobs {self._file} cannot be read: {error}. {WAY_OUT}"
            )
        return StoreUnavailable(
            f"The journal of jobs {self._file} cannot be written: {error}. New jobs are refused "
            "and nothing that was accepted is lost. Make room on the disk or mend its permissions, "
            "or set HERMETIC_STATE_DIR to another place."
        )

    # Jobs.

    def add(self, record: Record) -> None:
        """A new job. Raises InvalidParameter for an id that is there, and adds nothing then."""
        if record.id in self._leaving:
            self._forget()
        if not self._add(record):
            raise InvalidParameter(
                f"The job id {record.id!r} is in use. Follow that job, or submit under a new id."
            )
        # An attempt that was told before is of a job that was refused under the same id.
        self._begun.pop(record.id, None)

    def _add(self, record: Record) -> bool:
        """Whether the id was free."""
        row = _row(record)
        if self.connection.execute(_ADD, row).rowcount:
            return True
        # The app is new, or the job is not.
        self.connection.execute(
            "INSERT OR IGNORE INTO apps (uid, name, first_seen, last_seen) VALUES (?, ?, ?, ?)",
            (record.uid, record.app_name, record.submitted_at, record.submitted_at),
        )
        return bool(self.connection.execute(_ADD, row).rowcount)

    def begin(self, job_id: str, epoch: int, pid: int, at: float) -> None:
        """A worker is given the job."""
        self._begun[job_id] = _Attempt(epoch, pid, at)

    def _begin(self, job_id: str, attempt: _Attempt) -> None:
        known = self.connection.execute(
            "UPDATE jobs SET state = 'running', attempts = attempts + 1, started_at = ?"
            " WHERE id = ? AND ended_at IS NULL",
            (attempt.started_at, job_id),
        ).rowcount
        if not known:  # it was begun while it was refused
            return
        self.connection.execute(
            "INSERT OR REPLACE INTO attempts (job, epoch, pid, started_at) VALUES (?, ?, ?, ?)",
            (job_id, *attempt),
        )

    def requeue(self, job_id: str, at: float, error: ErrorBody | None, *, death: bool) -> None:
        """Its attempt is over without an end."""
        if job_id in self._begun:
            self._begin(job_id, self._begun.pop(job_id))
        self._end_attempt(job_id, at, error.code if error else "parked")
        self.connection.execute(
            "UPDATE jobs SET state = 'queued', started_at = NULL WHERE id = ?", (job_id,)
        )
        if death and error is not None:
            deaths = _encode((*self._deaths(job_id), error))
            self.connection.execute("UPDATE jobs SET deaths = ? WHERE id = ?", (deaths, job_id))

    def _deaths(self, job_id: str) -> tuple[ErrorBody, ...]:
        row = self.connection.execute("SELECT deaths FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return _errors.decode(row[0]) if row and row[0] else ()

    def ask_cancel(self, job_id: str) -> None:
        """Somebody who may has asked for its end."""
        self.connection.execute("UPDATE jobs SET cancel_asked = 1 WHERE id = ?", (job_id,))

    def finish(self, job_id: str, end: End, kept: Kept) -> None:
        """The job's one end. Raises UnknownJob where it was refused, and changes nothing."""
        attempt = self._begun.pop(job_id, None)
        known = self.connection.execute(
            "UPDATE jobs SET state = ?, ended_at = ?, error = ?, worker = ?,"
            " attempts = attempts + ?, started_at = coalesce(?, started_at)"
            " WHERE id = ? AND ended_at IS NULL",
            (
                end.state,
                end.ended_at,
                _encode(end.error) if end.error else None,
                _encode(end.worker) if end.worker else None,
                attempt is not None,
                attempt.started_at if attempt else None,
                job_id,
            ),
        ).rowcount
        if not known:
            raise UnknownJob(f"No open job has the id {job_id!r}, so no end of it is written.")
        if attempt is None:
            self._end_attempt(job_id, end.ended_at, end.state)
        else:
            self.connection.execute(
                "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, ?)",
                (job_id, *attempt, end.ended_at, end.state),
            )
        if end.output is not None:
            self.connection.execute(
                "INSERT OR REPLACE INTO results (job, output, sizes, checksum, pixels)"
                " VALUES (?, ?, ?, ?, ?)",
                (job_id, _encode(end.output), _encode(kept.sizes), kept.checksum, kept.pixels),
            )

    def _end_attempt(self, job_id: str, at: float, outcome: str) -> None:
        self.connection.execute(
            "UPDATE attempts SET ended_at = ?, outcome = ? WHERE job = ? AND ended_at IS NULL",
            (at, outcome, job_id),
        )

    def forget(self, job_ids: Sequence[str]) -> None:
        """Ended jobs, with all that belongs to them."""
        self._leaving += job_ids

    def _forget(self) -> None:
        if self._leaving:
            leaving = json.dumps(self._leaving)
            self._note_files(leaving)
            self.connection.execute(f"DELETE FROM jobs WHERE id IN {_EACH}", (leaving,))
            self._leaving.clear()

    def drop_pixels(self, job_ids: Sequence[str]) -> None:
        """Their pixels are no longer kept."""
        dropping = json.dumps(job_ids)
        self._note_files(dropping)
        self.connection.execute(
            f"UPDATE results SET dropped = 1, pixels = NULL WHERE job IN {_EACH}", (dropping,)
        )

    def take_files(self) -> list[str]:
        """Jobs whose files the last transaction has left without a result, once: whoever takes them
        removes them."""
        files, self._files = self._files, []
        return files

    def _note_files(self, job_ids: str) -> None:
        found = self.connection.execute(
            f"SELECT job FROM results WHERE job IN {_EACH} AND pixels IS NULL AND NOT dropped",
            (job_ids,),
        )
        self._files += [job_id for (job_id,) in found]

    def kept(self, job_id: str) -> Kept | None:
        """What is kept of a job's pixels; None where nothing is."""
        row = self.connection.execute(
            "SELECT sizes, checksum, pixels FROM results WHERE job = ? AND NOT dropped", (job_id,)
        ).fetchone()
        return Kept(job_id, _sizes.decode(row[0]), *row[1:]) if row else None

    # Beside them.

    def measure(self, measured: Measured) -> None:
        """What is known of a model by now."""
        self.connection.execute(
            "INSERT OR REPLACE INTO measured VALUES (?, ?, ?, ?)", msgspec.structs.astuple(measured)
        )

    def born(self, pid: int, started: float, epoch: int) -> None:
        """A child of the daemon. Its epoch is never used again, whatever is forgotten."""
        execute = self.connection.execute
        execute("INSERT OR REPLACE INTO processes VALUES (?, ?, ?)", (pid, started, epoch))
        execute(
            "INSERT INTO meta VALUES ('epoch', ?) ON CONFLICT (key)"
            " DO UPDATE SET value = max(value, excluded.value)",
            (epoch,),
        )

    def reaped(self, pid: int) -> None:
        """It has ended."""
        self.connection.execute("DELETE FROM processes WHERE pid = ?", (pid,))

    def forget_processes(self) -> None:
        """An earlier daemon's children have been ended."""
        self.connection.execute("DELETE FROM processes")

    def set_paused(self, paused: bool) -> None:
        """Whether jobs are begun."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES ('paused', ?)", (int(paused),))

    def probe(self) -> None:
        """Something that has to be written, and means nothing."""
        self.connection.execute(
            "INSERT INTO meta VALUES ('probe', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1"
        )


def _row(record: Record) -> tuple[str | int | float | bytes | None, ...]:
    """As `_ADD` wants it."""
    return (
        record.id,
        record.pid,
        record.model,
        _encode(record.task),
        record.submitted_at,
        record.priority,
        record.expires_at,
        record.on_disconnect,
        record.keep_alive,
        record.preview_seconds,
        record.uid,
        record.app_name,
    )


def is_environment(error: Exception) -> bool:
    """Whether disk or journal are the cause, rather than what was to be written."""
    if isinstance(error, sqlite3.OperationalError | OSError):
        return True
    return type(error) is sqlite3.DatabaseError  # corruption; what has a class is a fact's fault


def _is_broken(error: Exception) -> bool:
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return code & 0xFF in _BROKEN  # the rest of it says more precisely the same
