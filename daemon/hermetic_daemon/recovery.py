"""What earlier daemons have left, put in order before the next one serves.

What was running waits again. A result whose pixels are not what was written is no result: its job
waits again, too, and the same seeds draw the same picture. All of that is on the disk when
`recover` returns.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from typing import Any

import msgspec

from hermetic_wire.errors import ErrorBody, StoreBroken
from hermetic_wire.generation import Output, Task, WorkerIdentity

from .journal import WAY_OUT, Journal, Kept
from .records import Measured, Record, Recovered
from .spool import Spool

__all__ = ["recover"]

logger = logging.getLogger(__name__)

KEEP_APPS = 1000
"""Apps without a job that are remembered, those seen last."""
_task: msgspec.msgpack.Decoder[Task] = msgspec.msgpack.Decoder(Task)
_output = msgspec.msgpack.Decoder(Output)
_error = msgspec.msgpack.Decoder(ErrorBody)
_errors = msgspec.msgpack.Decoder(tuple[ErrorBody, ...])
_worker = msgspec.msgpack.Decoder(WorkerIdentity)
_sizes = msgspec.msgpack.Decoder(list[int])


def recover(journal: Journal, spool: Spool) -> Recovered:
    """Put it in order and return it. Raises StoreBroken, StoreUnavailable."""
    connection = journal.connection
    try:
        connection.execute("BEGIN IMMEDIATE")
        _requeue_interrupted(connection)
        whole = _requeue_lost(connection, spool)
        _forget_apps(connection)
        connection.execute("COMMIT")
        spool.sweep(whole)
        return _read(connection)
    except (sqlite3.Error, OSError) as error:
        raise journal.refusal(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreBroken(
            f"The journal of jobs says what this version cannot read: {error}. A newer version "
            f"may have written it. {WAY_OUT}"
        ) from error


def _requeue_interrupted(connection: sqlite3.Connection) -> None:
    """What was running when a daemon died waits again."""
    connection.execute(
        "UPDATE attempts SET ended_at = ?, outcome = 'interrupted' WHERE ended_at IS NULL",
        (time.time(),),
    )
    connection.execute(
        "UPDATE jobs SET state = 'queued', started_at = NULL, interruptions = interruptions + 1"
        " WHERE state = 'running'"
    )


def _requeue_lost(connection: sqlite3.Connection, spool: Spool) -> set[str]:
    """Returns the jobs whose files are whole."""
    rows = connection.execute(
        "SELECT job, sizes, checksum FROM results WHERE NOT dropped AND pixels IS NULL"
    )
    kept = [Kept(job, _sizes.decode(sizes), checksum) for job, sizes, checksum in rows]
    whole = set()
    for one in kept:
        if not one.sizes:  # it has succeeded without pixels
            continue
        if spool.is_whole(one.job_id, sum(one.sizes), one.checksum):
            whole.add(one.job_id)
            continue
        logger.warning("the pixels of job %s were lost, so it runs again", one.job_id)
        connection.execute("DELETE FROM results WHERE job = ?", (one.job_id,))
        connection.execute(
            "UPDATE jobs SET state = 'queued', started_at = NULL, ended_at = NULL, worker = NULL"
            " WHERE id = ?",
            (one.job_id,),
        )
    return whole


def _forget_apps(connection: sqlite3.Connection) -> None:
    """A name costs an app nothing, so there may be any number of them."""
    connection.execute(
        "DELETE FROM apps WHERE id NOT IN (SELECT app FROM jobs)"
        " AND id NOT IN (SELECT id FROM apps ORDER BY last_seen DESC LIMIT ?)",
        (KEEP_APPS,),
    )


def _read(connection: sqlite3.Connection) -> Recovered:
    paused = connection.execute("SELECT value FROM meta WHERE key = 'paused'").fetchone()
    (last_epoch,) = connection.execute(
        "SELECT max(coalesce((SELECT max(epoch) FROM attempts), 0),"
        " coalesce((SELECT value FROM meta WHERE key = 'epoch'), 0))"
    ).fetchone()
    return Recovered(
        jobs=_records(connection),
        paused=bool(paused and paused[0]),
        last_epoch=last_epoch,
        measured=tuple(
            Measured(model=model, job_seconds=job, load_seconds=load, footprint_bytes=footprint)
            for model, job, load, footprint in connection.execute(
                "SELECT model, job_seconds, load_seconds, footprint_bytes FROM measured"
            )
        ),
        processes=tuple(connection.execute("SELECT pid, started FROM processes").fetchall()),
    )


def _records(connection: sqlite3.Connection) -> tuple[Record, ...]:
    """Open jobs by arrival, then ended ones by their end."""
    cursor = connection.cursor()
    cursor.row_factory = sqlite3.Row
    rows = cursor.execute(
        "SELECT jobs.*, apps.uid, apps.name, results.output, results.dropped FROM jobs"
        " JOIN apps ON apps.id = jobs.app LEFT JOIN results ON results.job = jobs.id"
        " ORDER BY jobs.ended_at IS NOT NULL, jobs.ended_at, jobs.seq"
    )
    return tuple(_record(row) for row in rows)


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
