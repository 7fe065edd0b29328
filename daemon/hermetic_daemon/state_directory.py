"""The directory that one daemon owns, and the way out where its journal cannot be read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from hermetic_wire.errors import DaemonRunning, StoreUnavailable

__all__ = ["JOURNAL", "RESULTS", "occupy", "set_aside"]

JOURNAL = "jobs.sqlite3"
RESULTS = "results"


def occupy(directory: Path) -> int:
    """Make it where there is none, and lock it: two daemons never write one journal.

    Returns the descriptor that holds the lock until it is closed. Raises DaemonRunning where
    another process has it, StoreUnavailable where it cannot be written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(lock, directory)
        except BaseException:
            os.close(lock)
            raise
    except OSError as error:
        raise StoreUnavailable(
            f"Jobs cannot be written down in {directory}: {error.strerror}. Make room there or "
            "mend its permissions, or set HERMETIC_STATE_DIR to another place."
        ) from error
    return lock


def _lock(lock: int, directory: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        raise DaemonRunning(
            f"A daemon (pid {pid}) keeps its jobs in {directory} already. Use that one, or set "
            "HERMETIC_STATE_DIR to a directory of this one's own."
        ) from None
    with contextlib.suppress(OSError):  # the number is for people; a full disk has no room for it
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def set_aside(directory: Path) -> Path:
    """Move the journal and the results out of the way; returns where they are kept.

    Raises DaemonRunning, StoreUnavailable.
    """
    lock = occupy(directory)
    try:
        kept = _new_directory(directory)
        for file in (*sorted(directory.glob(f"{JOURNAL}*")), directory / RESULTS):
            if file.exists():
                file.rename(kept / file.name)
    except OSError as error:
        raise StoreUnavailable(
            f"The journal of jobs in {directory} cannot be moved: {error.strerror}."
        ) from error
    finally:
        os.close(lock)
    return kept


def _new_directory(directory: Path) -> Path:
    name = time.strftime("set-aside-%Y%m%d-%H%M%S")
    number = 0
    while True:
        kept = directory / (f"{name}-{number}" if number else name)
        try:
            kept.mkdir(mode=0o700)
        except FileExistsError:
            number += 1
        else:
            return kept
