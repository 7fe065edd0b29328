"""The journal's tables in SQL: one method per fact. The caller owns transactions and threads."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hermetic_wire.errors import ErrorBody, StoreBroken, StoreUnavailable
from hermetic_wire.generation import Output, Task, WorkerIdentity

from .migrations import migrate
from .records import End, Measured, Record

__all__ = ["Journal", "Kept"]

WAY_OUT = (
    "To keep it for a look and begin a new one, start once with: hermeticd --set-store-aside. "
    "Jobs that had not ended are then lost."
)
_encode = msgspec.msgpack.Encoder().encode
_task = msgspec.msgpack.Decoder(Task)
_output = msgspec.msgpack.Decoder(Output)
_error = msgspec.msgpack.Decoder(ErrorBody)
_errors = msgspec.msgpack.Decoder(tuple[ErrorBody, ...])
_worker = msgspec.msgpack.Decoder(WorkerIdentity)
_sizes = msgspec.msgpack.Decoder(list[int])


class Kept(msgspec.Struct, frozen=True):
    """What was written of a result's pixels."""

    job_id: str
    sizes: list[int]
    checksum: int


class Journal:
    """One connection; to be used by one thread at a time."""

    def __init__(self, file: Path) -> None:
        """Raises StoreBroken, StoreUnavailable."""
        try:
            self.connection = sqlite3.connect(
                file, isolation_level=None, check_same_thread=False, cached_statements=64
            )
            file.chmod(0o600)
            self._prepare()
        except sqlite3.OperationalError as error:
            raise StoreUnavailable(
                f"The journal of jobs {file} cannot be opened: {error}. Look at the disk and at "
                "the permissions, or set HERMETIC_STATE_DIR to another place."
            ) from error
        except sqlite3.DatabaseError as error:
            raise StoreBroken(
                f"The journal of jobs {file} cannot be read: {error}. {WAY_OUT}"
            ) from error
        self._apps: dict[tuple[int, str], int] = {}

    def _prepare(self) -> None:
        execute = self.connection.execute
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA foreign_keys = ON")
        (found,) = execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        migrate(self.connection)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    # Jobs.

    def add(self, record: Record) -> None:
        """A new job. Raises sqlite3.IntegrityError for an id that is there."""
        self.connection.execute(
            "INSERT INTO jobs (id, app, pid, model, task, submitted_at, priority, expires_at,"
            " on_disconnect, keep_alive, preview_seconds)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.id,
                self._app(record),
                record.pid,
                record.model,
                _encode(record.task),
                record.submitted_at,
                record.priority,
                record.expires_at,
                record.on_disconnect,
                record.keep_alive,
                record.preview_seconds,
            ),
        )

    def _app(self, record: Record) -> int:
        key = record.uid, record.app_name
        if key not in self._apps:
            row = self.connection.execute(
                "INSERT INTO apps (uid, name, first_seen, last_seen) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (uid, name) DO UPDATE SET last_seen = excluded.last_seen"
                " RETURNING id",
                (*key, record.submitted_at, record.submitted_at),
            ).fetchone()
            self._apps[key] = row[0]
        return self._apps[key]

    def forget_apps(self) -> None:
        """What was remembered of rows may have been rolled back."""
        self._apps.clear()

    def begin(self, job_id: str, epoch: int, pid: int, at: float) -> None:
        """A worker is given the job."""
        execute = self.connection.execute
        execute(
            "UPDATE jobs SET state = 'running', attempts = attempts + 1, started_at = ?"
            " WHERE id = ?",
            (at, job_id),
        )
        execute(
            "INSERT OR REPLACE INTO attempts (job, epoch, pid, started_at) VALUES (?, ?, ?, ?)",
            (job_id, epoch, pid, at),
        )

    def requeue(self, job_id: str, at: float, error: ErrorBody | None, *, death: bool) -> None:
        """Its attempt is over without an end."""
        self._end_attempt(job_id, at, error.code if error else "parked")
        deaths = self._deaths(job_id)
        if death and error is not None:
            deaths = (*deaths, error)
        self.connection.execute(
            "UPDATE jobs SET state = 'queued', started_at = NULL, deaths = ? WHERE id = ?",
            (_encode(deaths), job_id),
        )

    def _deaths(self, job_id: str) -> tuple[ErrorBody, ...]:
        row = self.connection.execute("SELECT deaths FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return _errors.decode(row[0]) if row and row[0] else ()

    def ask_cancel(self, job_id: str) -> None:
        """Somebody who may has asked for its end."""
        self.connection.execute("UPDATE jobs SET cancel_asked = 1 WHERE id = ?", (job_id,))

    def finish(self, job_id: str, end: End, kept: Kept) -> None:
        """The job's one end."""
        self._end_attempt(job_id, end.ended_at, end.state)
        self.connection.execute(
            "UPDATE jobs SET state = ?, ended_at = ?, error = ?, worker = ? WHERE id = ?",
            (
                end.state,
                end.ended_at,
                _encode(end.error) if end.error else None,
                _encode(end.worker) if end.worker else None,
                job_id,
            ),
        )
        if end.output is not None:
            self.connection.execute(
                "INSERT OR REPLACE INTO results (job, output, sizes, checksum) VALUES (?, ?, ?, ?)",
                (job_id, _encode(end.output), _encode(kept.sizes), kept.checksum),
            )

    def _end_attempt(self, job_id: str, at: float, outcome: str) -> None:
        self.connection.execute(
            "UPDATE attempts SET ended_at = ?, outcome = ? WHERE job = ? AND ended_at IS NULL",
            (at, outcome, job_id),
        )

    def forget(self, job_ids: Sequence[str]) -> None:
        """Ended jobs, with all that belongs to them."""
        self.connection.executemany(
            "DELETE FROM jobs WHERE id = ?", [(job_id,) for job_id in job_ids]
        )

    def drop_pixels(self, job_ids: Sequence[str]) -> None:
        """Their pixels are no longer kept."""
        self.connection.executemany(
            "UPDATE results SET dropped = 1 WHERE job = ?", [(job_id,) for job_id in job_ids]
        )

    def kept(self, job_id: str) -> Kept | None:
        """What is kept of a job's pixels; None where nothing is."""
        row = self.connection.execute(
            "SELECT sizes, checksum FROM results WHERE job = ? AND NOT dropped", (job_id,)
        ).fetchone()
        return Kept(job_id, _sizes.decode(row[0]), row[1]) if row else None

    # Beside them.

    def measure(self, measured: Measured) -> None:
        """What is known of a model by now."""
        self.connection.execute(
            "INSERT OR REPLACE INTO measured VALUES (?, ?, ?, ?)",
            (
                measured.model,
                measured.job_seconds,
                measured.load_seconds,
                measured.footprint_bytes,
            ),
        )

    def born(self, pid: int, started: float, epoch: int) -> None:
        """A child of the daemon."""
        self.connection.execute(
            "INSERT OR REPLACE INTO processes VALUES (?, ?, ?)", (pid, started, epoch)
        )

    def reaped(self, pid: int) -> None:
        """It has ended."""
        self.connection.execute("DELETE FROM processes WHERE pid = ?", (pid,))

    def set_paused(self, paused: bool) -> None:
        """Whether jobs are begun."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES ('paused', ?)", (int(paused),))

    # What an earlier daemon has left.

    def requeue_interrupted(self, at: float) -> None:
        """What was running when a daemon died waits again."""
        self.connection.execute(
            "UPDATE attempts SET ended_at = ?, outcome = 'interrupted' WHERE ended_at IS NULL",
            (at,),
        )
        self.connection.execute(
            "UPDATE jobs SET state = 'queued', started_at = NULL,"
            " interruptions = interruptions + 1 WHERE state IN ('loading', 'running')"
        )

    def requeue_lost(self, job_ids: Iterable[str]) -> None:
        """Their pixels are not what was written: they are drawn again."""
        for job_id in job_ids:
            self.connection.execute("DELETE FROM results WHERE job = ?", (job_id,))
            self.connection.execute(
                "UPDATE jobs SET state = 'queued', started_at = NULL, ended_at = NULL,"
                " worker = NULL WHERE id = ?",
                (job_id,),
            )

    def all_kept(self) -> list[Kept]:
        """Of every result whose pixels are kept."""
        rows = self.connection.execute("SELECT job, sizes, checksum FROM results WHERE NOT dropped")
        return [Kept(job, _sizes.decode(sizes), checksum) for job, sizes, checksum in rows]

    def records(self) -> tuple[Record, ...]:
        """Open jobs by arrival, then ended ones by their end."""
        cursor = self.connection.cursor()
        cursor.row_factory = sqlite3.Row
        rows = cursor.execute(
            "SELECT jobs.*, apps.uid, apps.name, results.output, results.dropped FROM jobs"
            " JOIN apps ON apps.id = jobs.app LEFT JOIN results ON results.job = jobs.id"
            " ORDER BY jobs.ended_at IS NOT NULL, jobs.ended_at, jobs.seq"
        )
        return tuple(_record(row) for row in rows)

    def measured(self) -> tuple[Measured, ...]:
        """Of every model."""
        rows = self.connection.execute(
            "SELECT model, job_seconds, load_seconds, footprint_bytes FROM measured"
        )
        return tuple(
            Measured(model=row[0], job_seconds=row[1], load_seconds=row[2], footprint_bytes=row[3])
            for row in rows
        )

    def processes(self) -> tuple[tuple[int, float], ...]:
        """Pid and start of those that were not seen to end."""
        return tuple(self.connection.execute("SELECT pid, started FROM processes").fetchall())

    def forget_processes(self) -> None:
        """They have been ended."""
        self.connection.execute("DELETE FROM processes")

    def paused(self) -> bool:
        """Whether jobs are not begun."""
        row = self.connection.execute("SELECT value FROM meta WHERE key = 'paused'").fetchone()
        return bool(row and row[0])

    def last_epoch(self) -> int:
        """The newest that was ever used."""
        (epoch,) = self.connection.execute(
            "SELECT max(coalesce((SELECT max(epoch) FROM attempts), 0),"
            " coalesce((SELECT value FROM meta WHERE key = 'epoch'), 0))"
        ).fetchone()
        return int(epoch)

    def note_epoch(self, epoch: int) -> None:
        """Attempts are forgotten with their jobs; this is not."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES ('epoch', ?)", (epoch,))


def _record(row: Any) -> Record:
    return Record(
        id=row["id"],
        app_name=row["name"],
        uid=row["uid"],
        pid=row["pid"],
        model=row["model"],
        task=_task.decode(row["task"]),
        submitted_at=row["submitted_at"],
        priority=row["priority"],
        expires_at=row["expires_at"],
        on_disconnect=row["on_disconnect"],
        keep_alive=row["keep_alive"],
        preview_seconds=row["preview_seconds"],
        state=row["state"],
        attempts=row["attempts"],
        interruptions=row["interruptions"],
        deaths=_errors.decode(row["deaths"]) if row["deaths"] else (),
        cancel_asked=bool(row["cancel_asked"]),
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        error=_error.decode(row["error"]) if row["error"] else None,
        output=_output.decode(row["output"]) if row["output"] else None,
        worker=_worker.decode(row["worker"]) if row["worker"] else None,
        dropped=bool(row["dropped"]),
    )
