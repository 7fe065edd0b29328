"""The journal's tables come to be in steps that are done or not done, never half."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from hermetic_daemon import migrations
from hermetic_daemon.migrations import MIGRATIONS, migrate
from hermetic_daemon.store import Store
from hermetic_wire.errors import StoreBroken
from unit.daemon.store_desk import recovered

NAMES = [name for name, _ in MIGRATIONS]

DYING = """
import os, signal, sqlite3, sys
from hermetic_daemon.migrations import migrate
left = int(sys.argv[2])
def count(statement):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.set_trace_callback(count)
migrate(connection)
"""


def tables(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    found = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE name != 'sqlite_sequence' ORDER BY name"
    )
    return found.fetchall()


def applied(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute("SELECT name FROM migrations ORDER BY name")
    return [name for (name,) in rows]


def after(steps: int) -> list[tuple[str, str]]:
    """What is there when so many migrations have been applied."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(migrations, "MIGRATIONS", MIGRATIONS[:steps])
            migrate(connection)
        return tables(connection)


def test_names_are_in_their_order_and_unlike() -> None:
    assert sorted(set(NAMES)) == NAMES


def test_all_of_them_once_is_all_of_them() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection)
        first, times = tables(connection), connection.execute("SELECT * FROM migrations").fetchall()
        migrate(connection)
        assert tables(connection) == first
        assert connection.execute("SELECT * FROM migrations").fetchall() == times
        assert applied(connection) == NAMES


def test_a_step_that_fails_half_way_leaves_nothing_of_itself() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE measured (model TEXT)")  # in the way of the first step
        with pytest.raises(sqlite3.OperationalError, match="already exists"):
            migrate(connection)
        assert "jobs" not in dict(tables(connection))
        assert applied(connection) == []
        connection.execute("DROP TABLE measured")
        migrate(connection)
        assert applied(connection) == NAMES


def test_a_daemon_killed_between_any_two_statements_leaves_whole_steps(tmp_path: Path) -> None:
    whole = [after(steps) for steps in range(len(MIGRATIONS) + 1)]
    seen: set[int] = set()
    for statements in itertools.count():
        file = tmp_path / f"{statements}.sqlite3"
        command = [sys.executable, "-c", DYING, str(file), str(statements)]
        code = subprocess.run(
            command, check=False, env=os.environ | {"HERMETIC_FAULT": ""}
        ).returncode
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            if statements > 0:  # before that there is nothing at all
                done = len(applied(connection)) if tables(connection) else 0
                assert tables(connection) in (whole[done], []), statements
                seen.add(done)
            migrate(connection)
            assert tables(connection) == whole[-1], "the next daemon goes on where that one ended"
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert seen == set(range(len(MIGRATIONS) + 1))


def test_a_journal_of_a_newer_version_is_refused_and_not_touched(tmp_path: Path) -> None:
    recovered(tmp_path)
    file = tmp_path / "jobs.sqlite3"
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("INSERT INTO migrations VALUES ('9999_time_travel', 1.0)")
    before = file.read_bytes()
    with pytest.raises(StoreBroken, match=r"9999_time_travel.*--set-store-aside"):
        Store.open(tmp_path)
    assert file.read_bytes() == before
