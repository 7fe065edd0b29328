"""What it takes to write something down on this disk: one block, and one commit of SQLite."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from types import TracebackType

__all__ = ["Disk", "file_system"]

BLOCK = b"\xa5" * 4096
_UPDATE = "INSERT INTO written (block) VALUES (?)"


class Disk:
    """Files of its own in `directory`, which are removed in the end."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "bench-block"
        self._journal = directory / "bench-commits.sqlite3"
        self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self._database = sqlite3.connect(self._journal, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("CREATE TABLE IF NOT EXISTS written (block BLOB)")

    def block(self) -> float:
        """Seconds of 4 KiB written over themselves and flushed (fdatasync)."""
        began = time.perf_counter()
        os.pwrite(self._descriptor, BLOCK, 0)
        os.fdatasync(self._descriptor)
        return time.perf_counter() - began

    def commit(self) -> float:
        """Seconds of one small transaction, as the daemon's journal makes them: WAL, FULL."""
        began = time.perf_counter()
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute(_UPDATE, (BLOCK[:512],))
        self._database.execute("COMMIT")
        return time.perf_counter() - began

    def __enter__(self) -> Disk:
        """Open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closed and removed."""
        os.close(self._descriptor)
        self._database.close()
        for file in self._file.parent.glob("bench-*"):
            if file.name.startswith((self._file.name, self._journal.name)):
                file.unlink()


def file_system(directory: Path, proc: Path = Path("/proc")) -> str:
    """The kind of file system that the directory is on, such as `ext4`."""
    place = os.path.realpath(directory)
    best, kind = "", "unknown"
    for line in (proc / "self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split()[4]
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, rest.split()[0]
    return kind
