"""Where jobs are written down: one thread, one transaction for all that waits for it.

Everything is asked from the event loop and returns at once; what was asked is told there when it is
on the disk. A new job may be refused, when the disk is full or the journal broken. What belongs to
a job that was accepted may not: it is kept in its order and tried again until it is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hermetic_wire.codec import Frame
from hermetic_wire.errors import (
    DaemonRunning,
    ErrorBody,
    HermeticError,
    InvalidParameter,
    ResultDropped,
    StoreUnavailable,
)

from . import faults
from .journal import Journal, Kept
from .records import End, Measured, Record, Recovered
from .spool import Spool

__all__ = ["Store", "Then", "set_aside"]

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""Between two attempts to write what must be written."""
CLOSE_SECONDS = 10.0
_JOURNAL = "jobs.sqlite3"
_RESULTS = "results"

Then: TypeAlias = Callable[[HermeticError | None], None]


@dataclass
class _Write:
    """One fact on its way to the disk."""

    kind: str
    """As `faults` names it."""
    apply: Callable[[], None]
    """Called in the thread, within the transaction; again where that could not be committed."""
    then: Then | None = None
    refusable: bool = False
    afterwards: Callable[[], None] | None = None
    """Called in the thread once it is committed."""


class Store:
    """The journal and the results under one state directory, owned by one daemon."""

    def __init__(self, directory: Path, lock: int) -> None:
        """Made by `open` only."""
        self.path = directory / _JOURNAL
        self.failure = ""
        """Why nothing can be written, while that is so."""
        self._lock = lock
        self._journal = Journal(self.path)
        self._spool = Spool(directory / _RESULTS)
        self._asked: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._backlog: list[_Write] = []
        self._unwritten: dict[str, list[Frame]] = {}
        """Pixels that are still on their way, by job."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._serve, name="store", daemon=True)

    @classmethod
    def open(cls, directory: Path) -> Store:
        """The store of this state directory, made where there is none.

        Raises DaemonRunning where another daemon has it, StoreBroken where it cannot be read,
        StoreUnavailable where it cannot be written.
        """
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _lock(directory)
        except OSError as error:
            raise StoreUnavailable(
                f"Jobs cannot be written down in {directory}: {error.strerror}. Set "
                "HERMETIC_STATE_DIR to a place that can be written."
            ) from error
        try:
            return cls(directory, lock)
        except OSError as error:
            os.close(lock)
            raise StoreUnavailable(
                f"Results cannot be kept in {directory}: {error.strerror}. Set "
                "HERMETIC_STATE_DIR to a place that can be written."
            ) from error
        except BaseException:
            os.close(lock)
            raise

    def recover(self) -> Recovered:
        """What earlier daemons have left. To be called once, before `start`.

        What was running waits again. A result whose pixels are not what was written is no result:
        its job waits again, too. Raises StoreUnavailable.
        """
        journal = self._journal
        try:
            processes = journal.processes()
            journal.connection.execute("BEGIN IMMEDIATE")
            journal.requeue_interrupted(time.time())
            kept = journal.all_kept()
            lost = [one.job_id for one in kept if not self._is_whole(one)]
            journal.requeue_lost(lost)
            journal.forget_processes()
            journal.connection.execute("COMMIT")
            self._spool.sweep({one.job_id for one in kept} - set(lost))
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(_in_words(self.path, error)) from error
        for job_id in lost:
            logger.warning("the pixels of job %s were lost; it runs again", job_id)
        return Recovered(
            jobs=journal.records(),
            paused=journal.paused(),
            last_epoch=journal.last_epoch(),
            measured=journal.measured(),
            processes=processes,
        )

    def _is_whole(self, kept: Kept) -> bool:
        if not kept.sizes:
            return True
        return self._spool.read(kept.job_id, kept.sizes, kept.checksum) is not None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Write from now on, and tell in this loop."""
        self._loop = loop
        self._thread.start()

    def close(self) -> None:
        """Write what is left, as far as that is possible, and let another daemon have it."""
        if self._thread.is_alive():
            self._asked.put(None)
            self._thread.join(CLOSE_SECONDS)
        self._journal.close()
        os.close(self._lock)

    # Facts. Each returns at once.

    def add(self, record: Record, then: Then) -> None:
        """A new job; `then(None)` once it is on the disk, or the StoreUnavailable why it is not."""
        self._ask(_Write("add", lambda: self._add(record), then, refusable=True))

    def _add(self, record: Record) -> None:
        try:
            self._journal.add(record)
        except sqlite3.IntegrityError as error:
            raise InvalidParameter(f"The job id {record.id!r} is in use: {error}.") from error

    def begin(self, job_id: str, epoch: int, pid: int, started_at: float) -> None:
        """A worker is given the job."""
        self._must("begin", lambda: self._journal.begin(job_id, epoch, pid, started_at))

    def requeue(self, job_id: str, error: ErrorBody | None, *, death: bool) -> None:
        """Its attempt is over without an end; `error` is None where the daemon just ends."""
        at = time.time()
        self._must("requeue", lambda: self._journal.requeue(job_id, at, error, death=death))

    def ask_cancel(self, job_id: str, then: Then) -> None:
        """Somebody who may has asked for the job's end; told when that cannot be forgotten."""
        self._must("cancel", lambda: self._journal.ask_cancel(job_id), then)

    def finish(self, job_id: str, end: End, frames: Sequence[Frame], then: Then) -> None:
        """The job's end and its pixels. `then` is told when they are written, or once why they
        cannot be for now; they will be."""
        self._unwritten[job_id] = list(frames)

        def apply() -> None:
            sizes, checksum = self._spool.write(job_id, frames) if frames else ([], 0)
            self._journal.finish(job_id, end, Kept(job_id, sizes, checksum))

        def written() -> None:
            self._unwritten.pop(job_id, None)

        self._ask(_Write("finish", apply, then, afterwards=written))

    def read_pixels(self, job_id: str, then: Callable[[list[Frame] | HermeticError], None]) -> None:
        """The frames of a result, or the ResultDropped why they are no longer there."""
        found: list[list[Frame] | HermeticError] = []
        read = _Write("read", lambda: found.append(self._pixels(job_id)))
        read.then = lambda error: then(error or found[0])
        self._ask(read)

    def _pixels(self, job_id: str) -> list[Frame] | HermeticError:
        if job_id in self._unwritten:
            return self._unwritten[job_id]
        kept = self._journal.kept(job_id)
        frames = self._spool.read(job_id, kept.sizes, kept.checksum) if kept else None
        if frames is None:
            return ResultDropped(
                f"Job {job_id} succeeded, but its pixels are no longer kept. Submit it again with "
                "the same seeds under a new id."
            )
        return frames

    def forget(self, job_ids: Sequence[str]) -> None:
        """Ended jobs and their pixels need not be kept any longer."""
        self._ask(
            _Write(
                "forget",
                lambda: self._journal.forget(job_ids),
                afterwards=lambda: self._spool.remove(job_ids),
            )
        )

    def drop_pixels(self, job_ids: Sequence[str]) -> None:
        """The pixels of these jobs need not be kept any longer."""
        self._ask(
            _Write(
                "forget",
                lambda: self._journal.drop_pixels(job_ids),
                afterwards=lambda: self._spool.remove(job_ids),
            )
        )

    def set_paused(self, paused: bool) -> None:
        """Whether jobs are begun."""
        self._must("meta", lambda: self._journal.set_paused(paused))

    def measure(self, measured: Measured) -> None:
        """What is known of a model by now."""
        self._must("meta", lambda: self._journal.measure(measured))

    def born(self, pid: int, started: float, epoch: int) -> None:
        """A child of the daemon; `started` as psutil tells it."""

        def apply() -> None:
            self._journal.born(pid, started, epoch)
            self._journal.note_epoch(epoch)

        self._must("meta", apply)

    def reaped(self, pid: int) -> None:
        """That child has ended."""
        self._must("meta", lambda: self._journal.reaped(pid))

    def _must(self, kind: str, apply: Callable[[], None], then: Then | None = None) -> None:
        self._ask(_Write(kind, apply, then))

    def _ask(self, write: _Write) -> None:
        self._asked.put(write)

    # The thread.

    def _serve(self) -> None:
        over = False
        while not over:
            batch, over = self._take()
            self._write(batch)
        if self._backlog:
            logger.error("%d facts could not be written: %s", len(self._backlog), self.failure)

    def _take(self) -> tuple[list[_Write], bool]:
        """All that is asked by now, after waiting for something; and whether that was the last."""
        batch: list[_Write] = []
        with contextlib.suppress(queue.Empty):
            patience = RETRY_SECONDS if self.failure else None
            asked = self._asked.get(timeout=patience)
            while asked is not None:
                batch.append(asked)
                asked = self._asked.get_nowait()
            return batch, True
        return batch, False

    def _write(self, batch: list[_Write]) -> None:
        """One transaction, and everybody told; or nothing, and what must be kept for the next."""
        writes = [*self._backlog, *(write for write in batch if write.kind != "read")]
        told: list[tuple[Then, HermeticError | None]] = []
        try:
            refused = self._commit(writes)
        except (sqlite3.Error, OSError) as error:
            self._fail(error, writes, told)
        else:
            self.failure, self._backlog = "", []
            for write in writes:
                if write.afterwards is not None:
                    write.afterwards()
                if write.then is not None:
                    told.append((write.then, refused.get(id(write))))
        told += [_read(write) for write in batch if write.kind == "read"]
        self._tell(told)

    def _commit(self, writes: list[_Write]) -> dict[int, HermeticError]:
        """Returns what was refused for a fault of its own, by identity."""
        kinds = {write.kind for write in writes}
        refused: dict[int, HermeticError] = {}
        self._journal.connection.execute("BEGIN IMMEDIATE")
        for write in writes:
            try:
                write.apply()
            except HermeticError as error:
                refused[id(write)] = error
        for kind in kinds:
            faults.reach(f"{kind}.before_commit")
        self._journal.connection.execute("COMMIT")
        for kind in kinds:
            faults.reach(f"{kind}.after_commit")
        return refused

    def _fail(
        self, error: Exception, writes: list[_Write], told: list[tuple[Then, HermeticError | None]]
    ) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._journal.connection.execute("ROLLBACK")
        self._journal.forget_apps()
        if not self.failure:
            logger.error("%s", _in_words(self.path, error))
        self.failure = _in_words(self.path, error)
        for write in writes:
            if write.then is not None:
                refusal = StoreUnavailable(self.failure, retry_after=RETRY_SECONDS)
                told.append((write.then, refusal))
        self._backlog = [write for write in writes if not write.refusable]
        for write in self._backlog:
            write.then = None  # told once

    def _tell(self, told: list[tuple[Then, HermeticError | None]]) -> None:
        if not told or self._loop is None:
            return

        def tell() -> None:
            for then, error in told:
                then(error)

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know
            self._loop.call_soon_threadsafe(tell)


def _read(read: _Write) -> tuple[Then, HermeticError | None]:
    """Outside of any transaction: a full disk can be read."""
    if read.then is None:
        raise AssertionError("somebody wants to read")
    try:
        read.apply()
    except (sqlite3.Error, OSError) as error:
        return read.then, ResultDropped(f"The result cannot be read: {error}.")
    return read.then, None


def _lock(directory: Path) -> int:
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise DaemonRunning(
            f"A daemon (pid {pid}) keeps its jobs in {directory} already. Use that one, or set "
            "HERMETIC_STATE_DIR to a directory of this one's own."
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def set_aside(directory: Path) -> Path:
    """Move the journal and the results out of the way; returns where they are kept.

    Raises DaemonRunning, StoreUnavailable.
    """
    try:
        lock = _lock(directory)
        try:
            kept = directory / time.strftime("set-aside-%Y%m%d-%H%M%S")
            kept.mkdir(mode=0o700)
            for file in (*directory.glob(f"{_JOURNAL}*"), directory / _RESULTS):
                if file.exists():
                    file.rename(kept / file.name)
        finally:
            os.close(lock)
    except OSError as error:
        raise StoreUnavailable(
            f"The journal in {directory} cannot be moved: {error.strerror}."
        ) from error
    return kept


def _in_words(path: Path, error: Exception) -> str:
    return (
        f"The journal of jobs {path} cannot be written: {error}. New jobs are refused and nothing "
        "that was accepted is lost; make room on the disk, or mend its permissions."
    )
