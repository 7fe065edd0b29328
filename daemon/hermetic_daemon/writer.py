"""The one thread that writes: all that waits goes into one transaction, and everybody is told.

Facts that must be written are kept in their order and tried again until they are; a fact that may
be refused is refused while that is so. What can never be written is not let stand in the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from hermetic_wire.errors import HermeticError, StoreUnavailable

from . import callbacks, faults
from .journal import Journal, is_environment

__all__ = ["Fact", "Look", "Then", "Writer"]

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""Between two attempts to write what must be written."""
PAUSE_SECONDS = 0.02
"""So short at least, however many ask: what cannot be written shall not keep a core busy."""
PATIENCE_SECONDS = 0.05
"""How long a patient fact waits for the next one of its job, to be written with it."""
GATHER_SECONDS = 0.003
"""How long a transaction waits for more to go with it where many want to be told of the last one:
each costs the disk, and the loop the interpreter's lock, about the same whatever it holds."""
MANY = 3
"""Who wants to be told, from which on they are many."""
CLOSE_SECONDS = 10.0
"""For the last facts, when the daemon ends."""

Then: TypeAlias = Callable[[HermeticError | None], None]


@dataclass(eq=False, slots=True)
class Fact:
    """Something to be written."""

    kind: str
    """As `faults` names it."""
    apply: Callable[[], None]
    """Called in the thread, within the transaction; again where that could not be committed.
    Raises a HermeticError to refuse it, having changed nothing."""
    then: Then | None = None
    """Called in the loop, once: with None when it is on the disk, or why it is not."""
    jobs: tuple[str, ...] = ()
    """What is said of one job is written in its order."""
    refusable: bool = False
    patient: bool = False
    """Nobody waits for it, and it would cost the others a commit: it comes a little later."""
    repeatable: bool = False
    """A machine that dies may take it along: what it says would come about again. The death of a
    process takes nothing along that was committed, forced to the disk or not."""
    asked_at: float = 0.0
    meanwhile: Callable[[], None] | None = None
    """Called in the loop while its commit is under way, before `then`; not at all where it is
    refused, or where the last commit failed."""
    afterwards: Callable[[], None] | None = None
    """Called in the thread once it is on the disk."""


@dataclass(eq=False, slots=True)
class Look:
    """Something to be read, after all that was asked before it."""

    read: Callable[[], None]
    """Called in the thread, outside of any transaction; raises nothing."""
    then: Callable[[], None]
    """Called in the loop."""


class _AtFault(Exception):
    """A fact that cannot be written whatever the disk is like."""

    def __init__(self, fact: Fact, error: Exception) -> None:
        super().__init__(str(error))
        self.fact = fact
        self.error = error


class Writer:
    """`ask` returns at once; what was asked is written in its order."""

    def __init__(self, journal: Journal) -> None:
        self.failure = ""
        """Why nothing can be written, while that is so."""
        self._journal = journal
        self._asked: queue.SimpleQueue[Fact | Look | None] = queue.SimpleQueue()
        self._backlog: list[Fact] = []
        self._patient: list[Fact] = []
        """The patient facts that are not due."""
        self._awaited = 0
        """Of the last transaction, how many facts somebody waited for."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._serve, name="store", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Write from now on, and tell in this loop."""
        self._loop = loop
        self._thread.start()

    def ask(self, what: Fact | Look) -> None:
        """Have it written, or read."""
        if isinstance(what, Fact):
            what.asked_at = time.monotonic()
        self._asked.put(what)

    def close(self) -> bool:
        """Write what was asked by now; whether the thread has ended, which a dead disk can hold."""
        if self._thread.is_alive():
            self._asked.put(None)
            self._thread.join(CLOSE_SECONDS)
        return not self._thread.is_alive()

    # In the thread.

    def _serve(self) -> None:
        over = False
        while not over:
            batch, over = self._take()
            facts = [*self._backlog, *self._due(batch, over)]
            if self.failure and not facts:  # nothing but the wish to know
                facts = [Fact("meta", self._journal.probe, refusable=True)]
            tell = self._write(facts)
            self._awaited = len(tell)
            for one in batch:
                if isinstance(one, Look):
                    one.read()
                    tell.append(one.then)
            self._tell(tell)
        if self._backlog:
            logger.error("%d facts could not be written: %s", len(self._backlog), self.failure)

    def _take(self) -> tuple[list[Fact | Look], bool]:
        """All that is asked by now, after waiting for something; and whether that was the last."""
        batch: list[Fact | Look] = []
        with contextlib.suppress(queue.Empty):
            asked = self._asked.get(timeout=self._idle_seconds())
            if self.failure:
                time.sleep(PAUSE_SECONDS)
            elif self._awaited >= MANY:
                time.sleep(GATHER_SECONDS)
            while asked is not None:
                batch.append(asked)
                asked = self._asked.get_nowait()
            return batch, True
        return batch, False

    def _idle_seconds(self) -> float | None:
        """For how long there is nothing to do if nothing is asked; None is for ever."""
        if self.failure:
            return RETRY_SECONDS
        if self._patient:
            due = self._patient[0].asked_at + PATIENCE_SECONDS
            return max(0.0, due - time.monotonic())
        return None

    def _due(self, batch: list[Fact | Look], over: bool) -> list[Fact]:
        """The facts to be written now, in their order; the others go on waiting."""
        waiting = [*self._patient, *(one for one in batch if isinstance(one, Fact))]
        late = bool(waiting) and time.monotonic() >= waiting[0].asked_at + PATIENCE_SECONDS
        everything = late or over or any(isinstance(one, Look) for one in batch)
        due, patient = list[Fact](), list[Fact]()
        named: set[str] = set()
        for fact in reversed(waiting):  # so that what a job's fact needs is known before it
            if everything or not fact.patient or not named.isdisjoint(fact.jobs):
                due.append(fact)
                named.update(fact.jobs)
            else:
                patient.append(fact)
        self._patient = patient[::-1]
        return due[::-1]

    def _write(self, facts: list[Fact]) -> list[Callable[[], None]]:
        """One transaction; or none, and what must be kept is kept. Returns whom to tell what."""
        tell: list[Callable[[], None]] = []
        while facts:
            try:
                refused = self._commit(facts)
            except _AtFault as fault:
                self._roll_back()
                facts.remove(fault.fact)
                self._backlog = [fact for fact in self._backlog if fact is not fault.fact]
                tell += _leave_out(fault)
            except (sqlite3.Error, OSError) as error:
                self._roll_back()
                return tell + self._fail(facts, error)
            else:
                return tell + self._succeed(facts, refused)
        return tell

    def _commit(self, facts: list[Fact]) -> dict[Fact, HermeticError]:
        """Returns the facts that were refused for what they say. Raises _AtFault for one that
        cannot be written, and what the disk or the journal raises."""
        kinds = {fact.kind for fact in facts}
        refused: dict[Fact, HermeticError] = {}
        self._journal.open(forced=_matters(facts))
        for fact in facts:
            try:
                fact.apply()
            except HermeticError as error:  # it has changed nothing
                refused[fact] = error
            except Exception as error:
                if is_environment(error):
                    raise
                raise _AtFault(fact, error) from error
        self._journal.complete()
        for kind in kinds:
            faults.reach(f"{kind}.before_commit")
        if not self.failure:
            self._tell([fact.meanwhile for fact in facts if fact.meanwhile and fact not in refused])
        self._journal.connection.execute("COMMIT")
        for kind in kinds:
            faults.reach(f"{kind}.after_commit")
        return refused

    def _roll_back(self) -> None:
        """SQLite has done so itself where the disk was full."""
        with contextlib.suppress(sqlite3.Error):
            if self._journal.connection.in_transaction:
                self._journal.connection.execute("ROLLBACK")

    def _succeed(
        self, facts: list[Fact], refused: dict[Fact, HermeticError]
    ) -> list[Callable[[], None]]:
        if self.failure:
            logger.warning("jobs are written down again; %d facts had waited", len(self._backlog))
        self.failure, self._backlog = "", []
        for fact in facts:
            if fact.afterwards is not None:
                try:
                    fact.afterwards()
                except OSError as error:  # the next daemon sweeps
                    logger.warning("a result's file could not be removed: %s", error)
        return [_telling(fact.then, refused.get(fact)) for fact in facts if fact.then is not None]

    def _fail(self, facts: list[Fact], error: Exception) -> list[Callable[[], None]]:
        refusal = self._journal.refusal(error)
        if not self.failure:
            logger.error("%s", refusal.message)
        self.failure = refusal.message
        told = StoreUnavailable(refusal.message, retry_after=RETRY_SECONDS)
        tell = [_telling(fact.then, told) for fact in facts if fact.then is not None]
        self._backlog = [fact for fact in facts if not fact.refusable]
        for fact in self._backlog:
            fact.then = None  # told once
        return tell

    def _tell(self, tell: list[Callable[[], None]]) -> None:
        """Wake the loop once; who raises keeps no other from being told."""
        loop = self._loop
        if not tell or loop is None:
            return

        def wake() -> None:
            for each in tell:
                callbacks.call(loop, each)

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know
            loop.call_soon_threadsafe(wake)


def _matters(facts: list[Fact]) -> bool:
    """Whether a machine's death must not take these along. That a job was begun does not matter any
    more once it has ended by what would come about again."""
    ended = {job for fact in facts if fact.repeatable for job in fact.jobs}
    return not all(
        fact.repeatable or (fact.kind == "begin" and ended.issuperset(fact.jobs)) for fact in facts
    )


def _telling(then: Then, error: HermeticError | None) -> Callable[[], None]:
    return lambda: then(error)


def _leave_out(fault: _AtFault) -> list[Callable[[], None]]:
    """It would fail again for ever, and all others with it."""
    fact, error = fault.fact, fault.error
    logger.error("what is known of a job (%s) cannot be written", fact.kind, exc_info=error)
    if fact.then is None:
        return []
    return [_telling(fact.then, HermeticError(f"This cannot be written down: {error}."))]
