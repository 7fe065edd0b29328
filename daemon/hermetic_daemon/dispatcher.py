"""Decides which job runs next and what becomes of the device's worker. Events in, effects out.

It owns the queue and the one slot of its device. It knows no clock, no socket, no process: the
service performs what it returns, and what comes of that returns as an event.

After every event the slot's state leads to exactly one of these; the code carries the same numbers.

1.  The device is empty.
    1a. A job waits: start a worker for the oldest job's model.
    1b. Nothing waits, and the daemon is ending: end the standby; exit when every worker is gone.
2.  A worker is loading.
    2a. Its model is to be unloaded: end it.
    2b. No job waits for its model while one waits for another: a switch, as in 3c.
    2c. Otherwise wait. When it is ready, continue at 3.
3.  A worker is ready.
    3a. It is to be unloaded, or the daemon is ending and nothing waits: end it.
    3b. The oldest job is for its model: run it.
    3c. The oldest job is for another model: a switch. The next worker starts, the present one ends;
        the slot is the next one's from now on.
    3d. Nothing waits: keep it, loaded.
4.  A worker is running a job, or ending: wait.

A new worker is the standby where there is one. The device is quiet at 1 and 3d when nothing waits:
then a standby is started, where they are wanted and there is none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, assert_never

from hermetic_wire.errors import HermeticError, JobCancelled

from .events import (
    Answer,
    Begun,
    CancelAsked,
    CancelRun,
    Effect,
    EndAsked,
    EndWorker,
    Event,
    Exit,
    Finished,
    Gone,
    LoadFailed,
    Ready,
    Run,
    Settle,
    StartStandby,
    StartWorker,
    Submitted,
    UnloadAsked,
)

__all__ = ["Dispatcher", "Slot"]


@dataclass
class Slot:
    """The worker that holds the device, through its life."""

    epoch: int
    model: str
    phase: Literal["loading", "ready", "running", "ending"] = "loading"
    job_id: str | None = None
    """The job that runs on it."""
    cancelling: bool = False
    tickets: list[int | None] = field(default_factory=list)
    """Who waits for its end."""


class Dispatcher:
    """The queue and the slot of one device; `standbys` says whether one is kept waiting."""

    def __init__(self, standbys: bool = False) -> None:
        self.slot: Slot | None = None
        self.standby: int | None = None
        """The epoch of the worker that waits for a model."""
        self.epoch = 0
        """The newest worker's."""
        self._standbys = standbys
        """Whether to start one: not again after one died, until a worker has become ready."""
        self._wants_standbys = standbys
        self._replaced: set[int] = set()
        """Epochs that were ended by a switch and are not gone yet."""
        self.ending: Literal["drain", "stop", "kill"] | None = None
        self._waiting: dict[str, str] = {}
        """Model by job id, oldest first."""

    @property
    def waiting(self) -> list[str]:
        """The ids of the waiting jobs in the order they will run."""
        return list(self._waiting)

    @property
    def running(self) -> str | None:
        """The id of the job that a worker has."""
        return self.slot.job_id if self.slot else None

    def handle(self, event: Event) -> list[Effect]:
        """What to do now that this happened. Events of an older epoch lead to nothing."""
        effects: list[Effect] = []
        match event:
            case Begun():
                pass  # the tree's turn
            case Submitted():
                if self.ending in ("stop", "kill"):
                    return [Settle(event.job_id, _stopped())]
                self._waiting[event.job_id] = event.model
            case CancelAsked():
                self._cancel(event.job_id, effects)
            case UnloadAsked():
                self._unload(event, effects)
            case EndAsked():
                self._end(event.mode, effects)
            case Gone() if event.epoch in self._replaced:
                self._replaced.discard(event.epoch)
            case Gone() if event.epoch == self.standby:
                self.standby, self._standbys = None, False
            case Ready() | LoadFailed() | Finished() | Gone():
                if self.slot is None or event.epoch != self.slot.epoch:
                    return []
                self._hear(self.slot, event, effects)
            case _:
                assert_never(event)
        self._decide(effects)
        return effects

    def _hear(
        self, slot: Slot, event: Ready | LoadFailed | Finished | Gone, effects: list[Effect]
    ) -> None:
        match event:
            case Ready():
                self._standbys = self._wants_standbys
                if slot.phase == "loading":
                    slot.phase = "ready"
            case LoadFailed():
                if slot.phase == "loading":
                    self._fail_waiting(slot.model, event.error, effects)
                    self._end_slot(slot, effects, why="its load failed")
            case Finished():
                if slot.job_id == event.job_id:
                    slot.job_id, slot.cancelling = None, False
                    effects.append(Settle(event.job_id, event.error))
                    if slot.phase == "running":
                        slot.phase = "ready"
                    if not event.reusable:
                        self._end_slot(slot, effects, why="its job raised")
            case Gone():
                self._bury(slot, event.error, effects)

    def _bury(self, slot: Slot, error: HermeticError, effects: list[Effect]) -> None:
        self.slot = None
        if slot.job_id is not None:
            outcome = _cancelled() if slot.cancelling else error
            effects.append(Settle(slot.job_id, outcome))
        elif slot.phase == "loading":
            # Only the job that caused the load pays for its end: the next one tries anew.
            victim = next(
                (job for job, model in self._waiting.items() if model == slot.model), None
            )
            if victim is not None:
                del self._waiting[victim]
                effects.append(Settle(victim, error))
        effects.extend(Answer(ticket, found=True) for ticket in slot.tickets)

    def _cancel(self, job_id: str, effects: list[Effect]) -> None:
        if job_id in self._waiting:
            del self._waiting[job_id]
            effects.append(Settle(job_id, _cancelled()))
        elif self.slot and self.slot.job_id == job_id and not self.slot.cancelling:
            self.slot.cancelling = True
            if self.slot.phase == "running":
                effects.append(CancelRun(self.slot.epoch, job_id))

    def _unload(self, event: UnloadAsked, effects: list[Effect]) -> None:
        if self.slot is None or self.slot.model != event.model:
            effects.append(Answer(event.ticket, found=False))
        else:
            self.slot.tickets.append(event.ticket)

    def _end(self, mode: Literal["drain", "stop", "kill"], effects: list[Effect]) -> None:
        self.ending = mode
        self._end_standby(effects, politely=mode != "kill")
        if mode == "drain":
            return
        effects.extend(Settle(job_id, _stopped()) for job_id in self._waiting)
        self._waiting.clear()
        slot = self.slot
        if slot is None:
            return
        if slot.job_id is not None:
            effects.append(Settle(slot.job_id, _stopped()))
            slot.job_id = None
        if slot.phase != "ending" or mode == "kill":
            slot.phase = "ending"
            politely = mode == "stop"
            effects.append(EndWorker(slot.epoch, politely, why="the daemon ends"))

    def _fail_waiting(self, model: str, error: HermeticError, effects: list[Effect]) -> None:
        """One failed load answers everyone who waited for it."""
        failed = [job_id for job_id, wanted in self._waiting.items() if wanted == model]
        for job_id in failed:
            del self._waiting[job_id]
            effects.append(Settle(job_id, error))

    def _end_slot(self, slot: Slot, effects: list[Effect], why: str) -> None:
        if slot.phase != "ending":
            slot.phase = "ending"
            effects.append(EndWorker(slot.epoch, politely=False, why=why))

    def _decide(self, effects: list[Effect]) -> None:
        """The numbered tree of the module's docstring."""
        oldest = next(iter(self._waiting.items()), None)
        slot = self.slot
        if slot is None:
            if oldest is not None:  # 1a
                self._start(oldest, None, effects)
            elif self.ending and not self._replaced:  # 1b
                effects.append(Exit())
        elif slot.phase == "loading":
            unwanted = slot.model not in self._waiting.values()
            if slot.tickets:  # 2a
                self._end_slot(slot, effects, why="its model is unloaded")
            elif oldest is not None and unwanted:  # 2b
                self._switch(slot, oldest, effects)
        elif slot.phase == "ready":
            if slot.tickets:  # 3a
                self._end_slot(slot, effects, why="its model is unloaded")
            elif oldest is None:
                if self.ending:  # 3a
                    self._end_slot(slot, effects, why="the daemon ends")
                # 3d: else it stays loaded
            elif oldest[1] == slot.model:  # 3b
                job_id, _ = oldest
                del self._waiting[job_id]
                slot.phase, slot.job_id = "running", job_id
                effects.append(Run(slot.epoch, job_id))
            else:  # 3c
                self._switch(slot, oldest, effects)
        self._keep_standby(effects)

    def _switch(self, slot: Slot, oldest: tuple[str, str], effects: list[Effect]) -> None:
        self._replaced.add(slot.epoch)
        self._start(oldest, slot.epoch, effects)
        effects.append(EndWorker(slot.epoch, politely=False, why=f"switch to {oldest[1]}"))

    def _start(self, oldest: tuple[str, str], replaces: int | None, effects: list[Effect]) -> None:
        job_id, model = oldest
        epoch, self.standby = self.standby or self._next_epoch(), None
        self.slot = Slot(epoch, model)
        effects.append(StartWorker(epoch, model, job_id, replaces))

    def _keep_standby(self, effects: list[Effect]) -> None:
        quiet = self.slot is None or self.slot.phase == "ready"
        if self._standbys and quiet and self.standby is None and not (self.ending or self._waiting):
            self.standby = self._next_epoch()
            effects.append(StartStandby(self.standby))

    def _end_standby(self, effects: list[Effect], politely: bool) -> None:
        if self.standby is not None:
            self._replaced.add(self.standby)
            effects.append(EndWorker(self.standby, politely, why="the daemon ends"))
            self.standby = None

    def _next_epoch(self) -> int:
        self.epoch += 1
        return self.epoch


def _cancelled() -> JobCancelled:
    return JobCancelled("The job was cancelled.")


def _stopped() -> JobCancelled:
    return JobCancelled("The job was cancelled because the daemon stops. Submit it again later.")
