"""The journal's tables, and how they came to be: named steps, each committed with its record."""

from __future__ import annotations

import sqlite3
import time

from hermetic_wire.errors import StoreBroken

__all__ = ["MIGRATIONS", "migrate"]

MIGRATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "0001_jobs",
        (
            """CREATE TABLE apps (
                id INTEGER PRIMARY KEY,
                uid INTEGER NOT NULL,
                name TEXT NOT NULL,
                first_seen REAL NOT NULL,
                last_seen REAL NOT NULL,
                jobs INTEGER NOT NULL DEFAULT 0,
                UNIQUE (uid, name)
            )""",
            """CREATE TABLE jobs (
                seq INTEGER PRIMARY KEY AUTOINCREMENT,
                id TEXT NOT NULL UNIQUE,
                app INTEGER NOT NULL REFERENCES apps (id),
                pid INTEGER NOT NULL,
                model TEXT NOT NULL,
                task BLOB NOT NULL,
                submitted_at REAL NOT NULL,
                priority TEXT NOT NULL,
                expires_at REAL,
                on_disconnect TEXT NOT NULL,
                keep_alive REAL,
                preview_seconds REAL,
                state TEXT NOT NULL DEFAULT 'queued',
                attempts INTEGER NOT NULL DEFAULT 0,
                interruptions INTEGER NOT NULL DEFAULT 0,
                deaths BLOB,
                cancel_asked INTEGER NOT NULL DEFAULT 0,
                started_at REAL,
                ended_at REAL,
                error BLOB,
                worker BLOB
            )""",
            """CREATE TABLE attempts (
                job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
                epoch INTEGER NOT NULL,
                pid INTEGER NOT NULL,
                started_at REAL NOT NULL,
                ended_at REAL,
                outcome TEXT,
                PRIMARY KEY (job, epoch)
            ) WITHOUT ROWID""",
            """CREATE TABLE results (
                job TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
                output BLOB NOT NULL,
                sizes BLOB NOT NULL,
                checksum INTEGER NOT NULL,
                dropped INTEGER NOT NULL DEFAULT 0
            ) WITHOUT ROWID""",
            """CREATE TABLE measured (
                model TEXT PRIMARY KEY,
                job_seconds REAL,
                load_seconds REAL,
                footprint_bytes INTEGER
            ) WITHOUT ROWID""",
            """CREATE TABLE processes (
                pid INTEGER PRIMARY KEY,
                started REAL NOT NULL,
                epoch INTEGER NOT NULL
            )""",
            "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
        ),
    ),
    (
        "0002_jobs_of_app",
        (
            "CREATE INDEX jobs_of_app ON jobs (app)",
            """CREATE TRIGGER jobs_are_counted AFTER INSERT ON jobs BEGIN
                UPDATE apps SET jobs = jobs + 1, last_seen = max(last_seen, new.submitted_at)
                WHERE id = new.app;
            END""",
        ),
    ),
    ("0003_small_results", ("ALTER TABLE results ADD COLUMN pixels BLOB",)),
)
"""Name and statements, in the order in which they are applied. One that was released is never
changed; another follows it."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the journal up to date. Raises StoreBroken for one that a newer version has written."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, applied_at REAL NOT NULL)"
    )
    applied = {name for (name,) in connection.execute("SELECT name FROM migrations")}
    unknown = applied - {name for name, _ in MIGRATIONS}
    if unknown:
        raise StoreBroken(
            "The journal of jobs was written by a newer Hermetic: this one does not know its "
            f"{', '.join(sorted(unknown))}. Install that version again, or move the journal out of "
            "the way and begin a new one: hermeticd --set-store-aside."
        )
    for name, statements in MIGRATIONS:
        if name not in applied:
            _apply(connection, name, statements)


def _apply(connection: sqlite3.Connection, name: str, statements: tuple[str, ...]) -> None:
    """All of it or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in statements:
            connection.execute(statement)
        connection.execute("INSERT INTO migrations VALUES (?, ?)", (name, time.time()))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # else SQLite has rolled it back itself: the disk is full
            connection.execute("ROLLBACK")
        raise
