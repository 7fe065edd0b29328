"""Where jobs are written down, as the event loop sees it: every fact is one call.

Each returns at once and is written by the one thread of `writer.py`; what was asked is told in the
loop when it is on the disk. A new job may be refused, when the disk is full or the journal broken.
What belongs to a job that was accepted may not: it is tried again until it is written.
docs/durability.md says what that rests on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hermetic_wire.codec import Frame
from hermetic_wire.errors import ErrorBody, HermeticError, ResultDropped

from .journal import Journal, Kept, is_environment
from .records import End, Measured, Record, Recovered
from .recovery import recover
from .spool import Spool, parted
from .state_directory import JOURNAL, RESULTS, occupy, set_aside
from .writer import Fact, Look, Then, Writer

__all__ = ["Store", "Then", "set_aside"]

logger = logging.getLogger(__name__)

SMALL_BYTES = 16 << 10
"""Of all pixels of a result that is rather kept in the journal: to make and to rename a file costs
more than to write so much."""


class Store:
    """The journal and the results under one state directory, owned by one daemon."""

    def __init__(self, directory: Path, lock: int) -> None:
        """Made by `open` only."""
        self.path = directory / JOURNAL
        self._lock = lock
        self._journal = Journal(self.path)
        try:
            self._spool = Spool(directory / RESULTS)
        except OSError as error:
            self._journal.close()
            raise self._journal.refusal(error) from error
        self._writer = Writer(self._journal)
        self._unwritten: dict[str, list[Frame]] = {}
        """Pixels that are still on their way, by job."""

    @classmethod
    def open(cls, directory: Path) -> Store:
        """The store of this state directory, made where there is none.

        Raises DaemonRunning where another daemon has it, StoreBroken where it cannot be read,
        StoreUnavailable where it cannot be written.
        """
        lock = occupy(directory)
        try:
            return cls(directory, lock)
        except BaseException:
            os.close(lock)
            raise

    @property
    def failure(self) -> str:
        """Why nothing can be written, and what to do; empty while all is well."""
        return self._writer.failure

    def recover(self) -> Recovered:
        """What earlier daemons have left, in order again. To be called once, before `start`.

        Raises StoreBroken, StoreUnavailable.
        """
        return recover(self._journal, self._spool)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Write from now on, and tell in this loop. Whatever `recover` has named has been ended."""
        self._writer.start(loop)
        self._note(self._journal.forget_processes)

    def close(self) -> None:
        """Write what is left, as far as that is possible, and let another daemon have it."""
        if not self._writer.close():
            # Its thread may yet come back from the disk: nobody else may have the journal before
            # this process has ended.
            logger.error("the disk does not answer; what was told last may not be written")
            return
        self._spool.close()
        self._journal.close()
        os.close(self._lock)

    # Facts. Each returns at once.

    def add(self, record: Record, then: Then, meanwhile: Callable[[], None] | None = None) -> None:
        """A new job; `then(None)` once it is on the disk, or why it is not: StoreUnavailable, or
        InvalidParameter where the id is in use. `meanwhile` is called while it is on its way there,
        if there is no reason to think that it will not arrive."""
        self._writer.ask(
            Fact(
                "add",
                lambda: self._journal.add(record),
                then,
                jobs=(record.id,),
                refusable=True,
                meanwhile=meanwhile,
            )
        )

    def begin(self, job_id: str, epoch: int, pid: int, started_at: float) -> None:
        """A worker is given the job. Nobody waits for that, and it may well end at once."""
        self._writer.ask(
            Fact(
                "begin",
                lambda: self._journal.begin(job_id, epoch, pid, started_at),
                jobs=(job_id,),
                patient=True,
            )
        )

    def requeue(
        self, job_id: str, error: ErrorBody | None, *, death: bool, then: Then | None = None
    ) -> None:
        """Its attempt is over without an end; `error` is None where the daemon just ends."""
        at = time.time()
        self._writer.ask(
            Fact(
                "requeue",
                lambda: self._journal.requeue(job_id, at, error, death=death),
                then,
                jobs=(job_id,),
            )
        )

    def ask_cancel(self, job_id: str, then: Then) -> None:
        """Somebody who may has asked for the job's end; told when that cannot be forgotten."""
        self._writer.ask(
            Fact("cancel", lambda: self._journal.ask_cancel(job_id), then, jobs=(job_id,))
        )

    def finish(self, job_id: str, end: End, frames: Sequence[Frame], then: Then) -> None:
        """The job's end and its pixels. `then` is told when they are written, or once why they
        cannot be for now; they will be."""
        self._unwritten[job_id] = list(frames)
        kept: list[Kept] = []

        def apply() -> None:
            try:
                if not kept:  # else it is the journal alone that could not be written
                    kept.append(self._keep(job_id, frames))
                self._journal.finish(job_id, end, kept[0])
            except Exception as error:
                if not is_environment(error):  # it never will be, or was refused while it ran
                    self._unwritten.pop(job_id, None)
                    self._spool.remove([job_id])
                raise

        def written() -> None:
            self._unwritten.pop(job_id, None)

        # A success is drawn again from the same seeds, as it is where its pixels were lost.
        redone = end.state == "succeeded"
        self._writer.ask(
            Fact("finish", apply, then, jobs=(job_id,), repeatable=redone, afterwards=written)
        )

    def _keep(self, job_id: str, frames: Sequence[Frame]) -> Kept:
        views = [memoryview(frame).cast("B") for frame in frames]
        sizes = [view.nbytes for view in views]
        if sum(sizes) <= SMALL_BYTES:
            return Kept(job_id, sizes, pixels=b"".join(views))
        return Kept(job_id, *self._spool.write(job_id, frames))

    def read_pixels(self, job_id: str, then: Callable[[list[Frame] | HermeticError], None]) -> None:
        """The frames of a result, or the ResultDropped why they are no longer there."""
        found: list[list[Frame] | HermeticError] = []

        def read() -> None:
            found.append(self._pixels(job_id))

        self._writer.ask(Look(read, lambda: then(found[0])))

    def _pixels(self, job_id: str) -> list[Frame] | HermeticError:
        frames = self._unwritten.get(job_id)
        if frames is not None:
            return frames
        gone = "its pixels are no longer kept"
        try:
            kept = self._journal.kept(job_id)
            frames = self._read(kept) if kept else None
        except Exception as error:  # whatever it is, somebody waits for the answer
            logger.exception("the pixels of job %s cannot be read", job_id)
            gone = f"its pixels cannot be read: {error}"
        if frames is not None:
            return frames
        return ResultDropped(
            f"Job {job_id} succeeded, but {gone}. Submit it again with the same seeds under a new "
            "id."
        )

    def _read(self, kept: Kept) -> list[Frame] | None:
        if kept.pixels is not None:
            return parted(memoryview(kept.pixels), kept.sizes)
        return self._spool.read(kept.job_id, kept.sizes, kept.checksum)

    def forget(self, job_ids: Sequence[str]) -> None:
        """Ended jobs and their pixels need not be kept any longer."""
        self._remove(lambda: self._journal.forget(job_ids), job_ids)

    def drop_pixels(self, job_ids: Sequence[str]) -> None:
        """The pixels of these jobs need not be kept any longer."""
        self._remove(lambda: self._journal.drop_pixels(job_ids), job_ids)

    def _remove(self, apply: Callable[[], None], job_ids: Sequence[str]) -> None:
        def remove_files() -> None:
            self._spool.remove(self._journal.take_files())

        # Not repeatable: a machine that keeps the removal and loses the commit would leave jobs
        # that have succeeded without their pixels, and they would run again.
        self._writer.ask(
            Fact("forget", apply, jobs=tuple(job_ids), patient=True, afterwards=remove_files)
        )

    def set_paused(self, paused: bool) -> None:
        """Whether jobs are begun."""
        self._note(lambda: self._journal.set_paused(paused))

    def measure(self, measured: Measured) -> None:
        """What is known of a model by now."""
        self._note(lambda: self._journal.measure(measured))

    def born(self, pid: int, started: float, epoch: int) -> None:
        """A child of the daemon; `started` as psutil tells it."""
        self._note(lambda: self._journal.born(pid, started, epoch))

    def reaped(self, pid: int) -> None:
        """That child has ended."""
        self._note(lambda: self._journal.reaped(pid))

    def _note(self, apply: Callable[[], None]) -> None:
        self._writer.ask(Fact("meta", apply))
