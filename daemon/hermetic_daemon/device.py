"""The device as the dispatcher knows it, and what each event changes in it. Pure.

It says what follows from an event by itself: who is settled, who waits again. What is to be done
next is the dispatcher's to decide.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, assert_never

from hermetic_wire.errors import HermeticError, OutOfMemory

from .averages import Averages
from .backoff import Backoff
from .events import (
    Answer,
    Begun,
    CancelAsked,
    CancelRun,
    Effect,
    EndAsked,
    EndWorker,
    Event,
    Finished,
    Gone,
    LoadFailed,
    Park,
    PauseAsked,
    Ready,
    Requeue,
    Settle,
    Submitted,
    Tick,
    UnloadAsked,
)
from .lines import WaitingJob
from .slots import Slot, Slots
from .verdicts import cancelled, expired, quarantined
from .waiting import Waiting

__all__ = ["Device", "Leaver"]

MOST_DEATHS = 2
"""Workers that may end under one job."""
_HARSHNESS = {None: 0, "drain": 1, "stop": 2, "kill": 3}


@dataclass
class Leaver:
    """A worker that was told to end and is not gone yet; it has no slot any more."""

    model: str | None
    politely: bool
    tickets: list[int | None] = field(default_factory=list)


class Device:
    """The queue, the slots, and what is remembered of models; see `Dispatcher` for the terms."""

    def __init__(
        self,
        *,
        standbys: bool,
        residency: int,
        capacity_bytes: int | None,
        backoff: Backoff,
        first_epoch: int,
    ) -> None:
        self.effects: list[Effect] = []
        """What follows from the present event."""
        self.epoch = first_epoch
        self.standby: int | None = None
        self.standbys = standbys
        """Whether to start one: not again after one died, until a worker has become ready."""
        self.ending: Literal["drain", "stop", "kill"] | None = None
        self.deadline: float | None = None
        """When the running job's time is over, after a `stop`."""
        self.left = False
        """Exit was said."""
        self.paused = False
        self.averages = Averages()
        self.backoff = backoff
        self.waiting = Waiting(self.averages.job_seconds)
        self.slots = Slots(residency, capacity_bytes, self.averages.footprint)
        self.leavers: dict[int, Leaver] = {}
        self.come_back: dict[str, None] = {}
        """Models that were ready and were not unloaded by hand since, in the order of their first
        load: the pinned ones of them are loaded again."""
        self._wants_standbys = standbys
        self._capacity = capacity_bytes
        self._thrifty: dict[str, bool] = {}
        """Models whose load has run out of memory, and whether they were alone: then they are
        always loaded in the way that needs least, else for once."""
        self._short: dict[str, str] = {}
        """Model by job that ran out of memory and is to be tried again."""

    # Events.

    def is_stale(self, event: Event) -> bool:
        """Whether a worker says it that has nothing to say any more."""
        match event:
            case Gone():
                known = event.epoch in self.leavers or event.epoch == self.standby
                return not known and event.epoch not in self.slots
            case Ready() | LoadFailed():
                slot = self.slots.get(event.epoch)
                return slot is None or slot.phase != "loading"
            case Finished():
                slot = self.slots.get(event.epoch)
                return slot is None or slot.job is None or slot.job.id != event.job_id
            case _:
                return False

    def hear(self, event: Event, now: float) -> None:
        """It has happened now."""
        match event:
            case Begun() | Tick():
                pass  # the tree's turn
            case Submitted():
                self._accept(event, now)
            case PauseAsked():
                self.paused = event.paused
            case CancelAsked():
                self._cancel(event.job_id, now)
            case UnloadAsked():
                self._unload(event)
            case EndAsked():
                self._end(event, now)
            case Ready():
                self._settle_in(self.slots[event.epoch], event, now)
            case LoadFailed():
                self._fail_load(self.slots[event.epoch], event.error, now)
            case Finished():
                self._finish(self.slots[event.epoch], event, now)
            case Gone():
                self._bury(event, now)
            case _:
                assert_never(event)

    def _accept(self, event: Submitted, now: float) -> None:
        if self.left or self.ending in ("stop", "kill"):
            self.do(Park(event.job_id))
        elif len(event.deaths) >= MOST_DEATHS:
            self.do(Settle(event.job_id, quarantined(event.job_id, event.deaths)))
        else:
            self.waiting.submit(event, now)

    def _cancel(self, job_id: str, now: float) -> None:
        job = self.waiting.get(job_id)
        if job is not None:
            self._dismiss(job, cancelled(), now)
            return
        slot = self.slots.in_phase("running")
        if slot and slot.job and slot.job.id == job_id and not slot.cancelling:
            slot.cancelling = True
            self.do(CancelRun(slot.epoch, job_id))

    def _unload(self, event: UnloadAsked) -> None:
        if event.ticket is not None:
            self.come_back.pop(event.model, None)
        slot = self.slots.of(event.model)
        leaver = next((one for one in self.leavers.values() if one.model == event.model), None)
        holder = slot or leaver
        if holder is None:
            self.do(Answer(event.ticket, found=False))
        else:
            holder.tickets.append(event.ticket)

    def _end(self, event: EndAsked, now: float) -> None:
        if event.mode == "stop":
            deadline = now + event.budget
            self.deadline = deadline if self.deadline is None else min(deadline, self.deadline)
        if _HARSHNESS[event.mode] <= _HARSHNESS[self.ending]:
            return
        self.ending = event.mode
        if event.mode == "kill":
            for epoch, leaver in self.leavers.items():
                if leaver.politely:
                    leaver.politely = False
                    self.do(EndWorker(epoch, politely=False, why="the daemon ends"))

    def _settle_in(self, slot: Slot, event: Ready, now: float) -> None:
        self.standbys = self._wants_standbys
        slot.load_seconds = now - slot.since
        footprint = 0 if self.slots.is_solitary(slot.model) else event.footprint
        self.averages.loaded(slot.model, slot.load_seconds, footprint)
        self.come_back[slot.model] = None
        slot.phase, slot.since = "ready", now

    def _fail_load(self, slot: Slot, error: HermeticError, now: float) -> None:
        """One failed load answers everyone who waits for it; but where memory ran out, it is
        tried once more with all of the device's."""
        if isinstance(error, OutOfMemory) and not slot.low_memory:
            self._thrifty[slot.model] = len(self.slots) == 1
            self._free_the_device(slot)
            if slot.cause and slot.cause in self.waiting:
                self.do(Requeue(slot.cause.id, error, retry_after=0.0, death=False))
            return
        self.come_back.pop(slot.model, None)
        for job in self.waiting.jobs_for(slot.model):
            self._dismiss(job, error, now)
        self.dismiss_worker(slot, why="its load failed")

    def _finish(self, slot: Slot, event: Finished, now: float) -> None:
        job, seconds = slot.job, now - slot.since
        assert job is not None  # else the event is stale
        if event.error is None:
            self.backoff.recover(slot.model)
            if job.submitted.counts:
                self.averages.ran(slot.model, seconds)
        cancelling = slot.cancelling
        slot.job, slot.cancelling, slot.phase, slot.since = None, False, "ready", now
        slot.keep_alive = job.submitted.keep_alive
        if isinstance(event.error, OutOfMemory):
            self._run_short(slot, job, event.error, cancelling, now)
        else:
            self.settle(job, event.error)
        self.waiting.end(job, slot.charged, seconds)
        if not event.reusable and slot.epoch in self.slots:
            self.dismiss_worker(slot, why="it is not to be used again")

    def _run_short(
        self, slot: Slot, job: WaitingJob, error: OutOfMemory, cancelling: bool, now: float
    ) -> None:
        """Memory ran out under the job: once more, with all of the device's."""
        self._free_the_device(slot)
        if cancelling:
            self.settle(job, cancelled())
        elif slot.low_memory or job.id in self._short:
            self.settle(job, error)
        else:
            self._short[job.id] = job.model
            self.do(Requeue(job.id, error, retry_after=0.0, death=False))
            self.waiting.add(job, now)

    def _free_the_device(self, short: Slot) -> None:
        """Memory ran out in this slot: its model is not put beside another any more."""
        self.slots.isolate(short.model)
        self.averages.needs_at_least(short.model, self._capacity or 0)
        for slot in self.slots:
            self.dismiss_worker(slot, why="memory ran out")

    def _bury(self, event: Gone, now: float) -> None:
        leaver = self.leavers.pop(event.epoch, None)
        slot = self.slots.get(event.epoch)
        if leaver is not None:
            self._answer(leaver.tickets)
        elif slot is not None:
            self.slots.remove(slot)
            self._answer(slot.tickets)
            self._mourn(slot, event.error, now)
        else:
            self.standby, self.standbys = None, False

    def _mourn(self, slot: Slot, error: HermeticError, now: float) -> None:
        """Nobody has asked for this end. Who is to blame: the model, and the job that ran or that
        the load was for."""
        if slot.cancelling and slot.job:
            self.settle(slot.job, cancelled())
        elif slot.phase != "ready":
            pause = self.backoff.crash(slot.model, error, now)
            self.waiting.set_aside(slot.model, now)
            victim = slot.job or slot.cause
            if victim and (victim is slot.job or victim in self.waiting):
                self._collect_death(victim, error, pause, now)
        if slot.job:
            self.waiting.end(slot.job, slot.charged, now - slot.since)

    def _collect_death(
        self, job: WaitingJob, error: HermeticError, pause: float, now: float
    ) -> None:
        job.deaths.append(error)
        if len(job.deaths) >= MOST_DEATHS:
            if job in self.waiting:
                self.waiting.remove(job, now)
            self.settle(job, quarantined(job.id, job.deaths))
            return
        self.do(Requeue(job.id, error, retry_after=pause))
        if job not in self.waiting:
            self.waiting.add(job, now)

    def pass_time(self, now: float) -> None:
        """What happens by time alone."""
        for job in self.waiting.expire(now):
            self._dismiss(job, expired(job.id), now)
        for model in self.backoff.over(now):
            self.waiting.bring_back(model, now)

    def low_memory(self, model: str) -> bool:
        """Whether its next worker, which is being started, has to do with the least memory."""
        always = self._thrifty.get(model)
        if always is False:
            del self._thrifty[model]
        return always is not None or model in self._short.values()

    # What comes of it.

    def do(self, effect: Effect) -> None:
        """It is to be done."""
        self.effects.append(effect)

    def settle(self, job: WaitingJob, error: HermeticError | None) -> None:
        """Its one end; it waits no more already."""
        self._short.pop(job.id, None)
        self.do(Settle(job.id, error))

    def _dismiss(self, job: WaitingJob, error: HermeticError, now: float) -> None:
        """It waits, and ends without ever having a result."""
        self.waiting.remove(job, now)
        self.settle(job, error)

    def dismiss_worker(self, slot: Slot, why: str, politely: bool = False) -> None:
        """It is to end; its slot is free from now on."""
        self.slots.remove(slot)
        self.leavers[slot.epoch] = Leaver(slot.model, politely, slot.tickets)
        self.do(EndWorker(slot.epoch, politely, why))

    def dismiss_standby(self, why: str, politely: bool) -> None:
        """It is to end, where there is one."""
        if self.standby is not None:
            self.leavers[self.standby] = Leaver(None, politely)
            self.do(EndWorker(self.standby, politely, why))
            self.standby = None

    def _answer(self, tickets: list[int | None]) -> None:
        for ticket in tickets:
            self.do(Answer(ticket, found=True))

    def next_epoch(self) -> int:
        """The next worker's."""
        self.epoch += 1
        return self.epoch
