"""Decides which job runs next and what becomes of the device's workers. Events in, effects out.

It knows no clock, no socket, no process: the service performs what it returns, and what comes of
that returns as an event. docs/dispatching.md is its design note; the fair order is `waiting.py`.

After every event this tree is gone through from the top; the code carries the same numbers.

1.  The daemon is ending.
    1a. By `stop` or `kill`, or nothing may start: what waits is parked.
    1b. By `kill`, or the budget is over: the worker of the running job ends, the job is parked.
    1c. Nothing waits: the standby and every worker without a job end.
    1d. No worker lives any more: exit.
2.  A worker that runs nothing is to be unloaded: it ends.
3.  A job runs: wait.
4.  A worker is loading.
    4a. No job waits for its model while one waits for another: it ends for that; go on at 5.
    4b. Otherwise wait.
5.  A job may run, and nothing is paused. It is the first of these that there is:
    5a. the one for which a worker has become ready: a load is never made in vain;
    5b. the first in fair order that has been the first of its class for `max_wait`;
    5c. the first in fair order whose model is loaded, if no job before it was overtaken as often
        as that one's model allows; each of them has been overtaken once more, then;
    5d. the first in fair order.
    5e. Its model is loaded: run it. Otherwise start a worker, and end those that are in its way;
        their slots are free from now on.
6.  Nothing may run.
    6a. A worker has been idle for its keep-alive: it ends. This also holds while others work.
    6b. A pinned model that was loaded before has room again: load it.
    6c. No standby waits, where they are wanted: start one.

A new worker is the standby where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
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
    Exit,
    Finished,
    Gone,
    LoadFailed,
    Park,
    PauseAsked,
    Ready,
    Requeue,
    Run,
    Settle,
    StartStandby,
    StartWorker,
    Submitted,
    Tick,
    UnloadAsked,
    WorkerOptions,
)
from .forecast import Turn, ends, turns
from .lines import WaitingJob
from .slots import Slot, Slots
from .verdicts import cancelled, expired, quarantined
from .waiting import Waiting

__all__ = ["Dispatcher"]

MOST_DEATHS = 2
"""Workers that may end under one job."""
_HARSHNESS = {None: 0, "drain": 1, "stop": 2, "kill": 3}


@dataclass
class _Leaver:
    """A worker that was told to end and is not gone yet; it has no slot any more."""

    model: str | None
    politely: bool
    tickets: list[int | None] = field(default_factory=list)


class Dispatcher:
    """The queue and the slots of one device. All times are seconds, of the one clock that `now` is.

    `standbys` says whether one is kept waiting, `residency` how many models may be loaded at once,
    where the measured ones fit into `capacity_bytes` (None: where no memory is counted). `options`
    tells how long a model may stay. A job that is the first of its class for `max_wait` goes before
    all others; a model whose worker crashes pauses for `backoff`, doubled each time up to
    `backoff_limit`. `first_epoch` is the newest epoch that was used before.
    """

    def __init__(
        self,
        *,
        standbys: bool = False,
        residency: int = 1,
        capacity_bytes: int | None = None,
        options: Callable[[str], WorkerOptions] = lambda model: WorkerOptions(keep_alive=None),
        max_wait: float = 60.0,
        backoff: float = 1.0,
        backoff_limit: float = 300.0,
        first_epoch: int = 0,
    ) -> None:
        self.epoch = first_epoch
        """The newest worker's."""
        self.standby: int | None = None
        """The epoch of the worker that waits for a model."""
        self.ending: Literal["drain", "stop", "kill"] | None = None
        self.paused = False
        self._wants_standbys = standbys
        self._standbys = standbys
        """Whether to start one: not again after one died, until a worker has become ready."""
        self._residency = residency
        self._capacity = capacity_bytes
        self._options = options
        self._max_wait = max_wait
        self._averages = Averages()
        self._backoff = Backoff(backoff, backoff_limit)
        self._waiting = Waiting(self._averages.job_seconds)
        self._slots = Slots(residency, capacity_bytes, self._averages.footprint)
        self._leavers: dict[int, _Leaver] = {}
        self._deadline: float | None = None
        """When the running job's time is over, after a `stop`."""
        self._left = False
        self._come_back: dict[str, None] = {}
        """Models that were ready and were not unloaded by hand since, in the order of their first
        load: the pinned ones of them are loaded again."""
        self._thrifty: set[str] = set()
        """Models whose load has run out of memory: always loaded in the way that needs least."""
        self._short: dict[str, str] = {}
        """Model by job that ran out of memory and is to be tried again."""
        self._effects: list[Effect] = []
        self._now = 0.0
        """When the last event was."""

    # What the service asks.

    @property
    def waiting(self) -> list[str]:
        """The ids of the waiting jobs in the order in which they would run as things stand."""
        return [turn.job.id for turn in self._turns()]

    @property
    def waiting_count(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    def count_of(self, app: str) -> int:
        """How many jobs of the app wait."""
        return self._waiting.count_of(app)

    @property
    def running(self) -> str | None:
        """The id of the job that a worker has."""
        slot = self._slots.in_phase("running")
        return slot.job.id if slot and slot.job else None

    @property
    def wake_at(self) -> float | None:
        """When something changes by time alone, and a Tick is due. A job that has waited for
        `max_wait` changes nothing until the device is free, and that is an event."""
        moments = [self._waiting.wake_at, self._backoff.wake_at]
        moments += [self.idle_until(slot.epoch) for slot in self._slots]
        if self._slots.in_phase("running"):
            moments.append(self._deadline)
        return min((moment for moment in moments if moment is not None), default=None)

    def idle_until(self, epoch: int) -> float | None:
        """When the worker ends for being idle; None where it works, is wanted, or may stay."""
        slot = self._slots.get(epoch)
        if slot is None or slot.phase != "ready" or self._waiting.has_for(slot.model):
            return None
        options = self._options(slot.model)
        keep_alive = options.keep_alive if slot.keep_alive is None else slot.keep_alive
        if options.pin or keep_alive is None or keep_alive < 0:
            return None
        return slot.since + keep_alive

    def estimates(self, now: float) -> dict[str, float]:
        """Seconds until each waiting job and the running one will have ended, as far as times were
        measured; the jobs of models of which no job was measured are left out."""
        found, begins_in = {}, 0.0
        for slot in self._slots:
            job_seconds, load_seconds, _ = self._averages.learnt(slot.model)
            if slot.phase == "loading":
                begins_in = max(0.0, (load_seconds or 0.0) - (now - slot.since))
            elif slot.job is not None:
                begins_in = max(0.0, (job_seconds or 0.0) - (now - slot.since))
                if job_seconds is not None:
                    found[slot.job.id] = begins_in
        planned = self._turns()
        return found | ends(planned, self._averages, begins_in, lambda m: self.retry_in(m, now))

    def pauses(self, now: float) -> dict[str, tuple[float, HermeticError]]:
        """Models that pause: the seconds left, and what their last worker died of."""
        return self._backoff.pauses(now)

    def retry_in(self, model: str, now: float) -> float:
        """Seconds until a worker of the model may be started."""
        return self._backoff.seconds_left(model, now)

    def learnt(self, model: str) -> tuple[float | None, float | None, int | None]:
        """Measured: seconds of a job, seconds of a load, bytes on the device."""
        return self._averages.learnt(model)

    def teach(
        self,
        model: str,
        job_seconds: float | None,
        load_seconds: float | None,
        footprint: int | None,
    ) -> None:
        """What an earlier daemon has measured, as `learnt` told it."""
        self._averages.teach(model, job_seconds, load_seconds, footprint)

    def _turns(self) -> list[Turn]:
        """How the waiting jobs would follow each other if nothing else came."""
        awaited = self._awaited()
        urgent = self._waiting.first_urgent(self._now - self._max_wait)
        ahead = [job for job in (awaited, urgent) if job is not None]
        loaded = [slot.model for slot in sorted(self._slots, key=lambda slot: slot.since)]
        order = self._waiting.in_order()
        return list(turns(order, ahead, loaded, self._residency, self._averages.passes))

    # Events.

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What to do now that this happened. Events of an older epoch lead to nothing."""
        if self._is_stale(event):
            return []
        effects: list[Effect] = []
        self._effects = effects
        self._now = now
        self._hear(event, now)
        self._pass_time(now)
        self._decide(now)
        return effects

    def _is_stale(self, event: Event) -> bool:
        match event:
            case Gone():
                known = event.epoch in self._leavers or event.epoch == self.standby
                return not known and event.epoch not in self._slots
            case Ready() | LoadFailed():
                slot = self._slots.get(event.epoch)
                return slot is None or slot.phase != "loading"
            case Finished():
                slot = self._slots.get(event.epoch)
                return slot is None or slot.job is None or slot.job.id != event.job_id
            case _:
                return False

    def _hear(self, event: Event, now: float) -> None:
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
                self._settle_in(self._slots[event.epoch], event, now)
            case LoadFailed():
                self._fail_load(self._slots[event.epoch], event.error, now)
            case Finished():
                self._finish(self._slots[event.epoch], event, now)
            case Gone():
                self._bury(event, now)
            case _:
                assert_never(event)

    def _accept(self, event: Submitted, now: float) -> None:
        if self._left or self.ending in ("stop", "kill"):
            self._do(Park(event.job_id))
        elif len(event.deaths) >= MOST_DEATHS:
            self._do(Settle(event.job_id, quarantined(event.job_id, event.deaths)))
        else:
            self._waiting.submit(event, now)

    def _cancel(self, job_id: str, now: float) -> None:
        job = self._waiting.get(job_id)
        if job is not None:
            self._dismiss(job, cancelled(), now)
            return
        slot = self._slots.in_phase("running")
        if slot and slot.job and slot.job.id == job_id and not slot.cancelling:
            slot.cancelling = True
            self._do(CancelRun(slot.epoch, job_id))

    def _unload(self, event: UnloadAsked) -> None:
        if event.ticket is not None:
            self._come_back.pop(event.model, None)
        slot = self._slots.of(event.model)
        leaver = next((one for one in self._leavers.values() if one.model == event.model), None)
        holder = slot or leaver
        if holder is None:
            self._do(Answer(event.ticket, found=False))
        else:
            holder.tickets.append(event.ticket)

    def _end(self, event: EndAsked, now: float) -> None:
        if event.mode == "stop":
            deadline = now + event.budget
            self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)
        if _HARSHNESS[event.mode] <= _HARSHNESS[self.ending]:
            return
        self.ending = event.mode
        if event.mode == "kill":
            for epoch, leaver in self._leavers.items():
                if leaver.politely:
                    leaver.politely = False
                    self._do(EndWorker(epoch, politely=False, why="the daemon ends"))

    def _settle_in(self, slot: Slot, event: Ready, now: float) -> None:
        self._standbys = self._wants_standbys
        slot.load_seconds = now - slot.since
        footprint = 0 if self._slots.is_solitary(slot.model) else event.footprint
        self._averages.loaded(slot.model, slot.load_seconds, footprint)
        self._come_back[slot.model] = None
        slot.phase, slot.since = "ready", now

    def _fail_load(self, slot: Slot, error: HermeticError, now: float) -> None:
        """One failed load answers everyone who waits for it; but where memory ran out, it is
        tried once more with all of the device's."""
        if isinstance(error, OutOfMemory) and not slot.low_memory:
            self._thrifty.add(slot.model)
            self._free_the_device(slot)
            if slot.cause and slot.cause in self._waiting:
                self._do(Requeue(slot.cause.id, error, retry_after=0.0, death=False))
            return
        self._come_back.pop(slot.model, None)
        for job in self._waiting.jobs_for(slot.model):
            self._dismiss(job, error, now)
        self._dismiss_worker(slot, why="its load failed")

    def _finish(self, slot: Slot, event: Finished, now: float) -> None:
        job, seconds = slot.job, now - slot.since
        assert job is not None  # else the event is stale
        if event.error is None:
            self._backoff.recover(slot.model)
            if job.submitted.counts:
                self._averages.ran(slot.model, seconds)
        cancelling = slot.cancelling
        slot.job, slot.cancelling, slot.phase, slot.since = None, False, "ready", now
        slot.keep_alive = job.submitted.keep_alive
        if isinstance(event.error, OutOfMemory):
            self._run_short(slot, job, event.error, cancelling, now)
        else:
            self._settle(job, event.error)
        self._waiting.end(job, slot.charged, seconds)
        if not event.reusable and slot.epoch in self._slots:
            self._dismiss_worker(slot, why="it is not to be used again")

    def _run_short(
        self, slot: Slot, job: WaitingJob, error: OutOfMemory, cancelling: bool, now: float
    ) -> None:
        """Memory ran out under the job: once more, with all of the device's."""
        self._free_the_device(slot)
        if cancelling:
            self._settle(job, cancelled())
        elif slot.low_memory or job.id in self._short:
            self._settle(job, error)
        else:
            self._short[job.id] = job.model
            self._do(Requeue(job.id, error, retry_after=0.0, death=False))
            self._waiting.add(job, now)

    def _free_the_device(self, short: Slot) -> None:
        """Memory ran out in this slot: its model is not put beside another any more."""
        self._slots.isolate(short.model)
        self._averages.needs_at_least(short.model, self._capacity or 0)
        for slot in self._slots:
            self._dismiss_worker(slot, why="memory ran out")

    def _bury(self, event: Gone, now: float) -> None:
        leaver = self._leavers.pop(event.epoch, None)
        slot = self._slots.get(event.epoch)
        if leaver is not None:
            self._answer(leaver.tickets)
        elif slot is not None:
            self._slots.remove(slot)
            self._answer(slot.tickets)
            self._mourn(slot, event.error, now)
        else:
            self.standby, self._standbys = None, False

    def _mourn(self, slot: Slot, error: HermeticError, now: float) -> None:
        """Nobody has asked for this end. Who is to blame: the model, and the job that ran or that
        the load was for."""
        if slot.cancelling and slot.job:
            self._settle(slot.job, cancelled())
        elif slot.phase != "ready":
            pause = self._backoff.crash(slot.model, error, now)
            self._waiting.set_aside(slot.model, now)
            victim = slot.job or slot.cause
            if victim and (victim is slot.job or victim in self._waiting):
                self._collect_death(victim, error, pause, now)
        if slot.job:
            self._waiting.end(slot.job, slot.charged, now - slot.since)

    def _collect_death(
        self, job: WaitingJob, error: HermeticError, pause: float, now: float
    ) -> None:
        job.deaths.append(error)
        if len(job.deaths) >= MOST_DEATHS:
            if job in self._waiting:
                self._waiting.remove(job, now)
            self._settle(job, quarantined(job.id, job.deaths))
            return
        self._do(Requeue(job.id, error, retry_after=pause))
        if job not in self._waiting:
            self._waiting.add(job, now)

    def _pass_time(self, now: float) -> None:
        for job in self._waiting.expire(now):
            self._dismiss(job, expired(job.id), now)
        for model in self._backoff.over(now):
            self._waiting.bring_back(model, now)

    # The numbered tree of the module's docstring.

    def _decide(self, now: float) -> None:
        if self.ending:  # 1
            self._wind_up(now)
        for slot in self._slots:
            if slot.tickets and slot.phase != "running":  # 2
                self._dismiss_worker(slot, why="its model is unloaded")
        if self._slots.in_phase("running") is None and not self.paused:  # 3
            self._work(now)
        self._rest(now)

    def _wind_up(self, now: float) -> None:
        if self.ending != "drain" or self.paused:  # 1a
            for job in self._waiting.jobs():
                self._waiting.remove(job, now)
                self._do(Park(job.id))
        politely, why = self.ending != "kill", "the daemon ends"
        slot = self._slots.in_phase("running")
        over = self._deadline is not None and self._deadline <= now
        if slot and slot.job and (over or not politely):  # 1b
            if slot.cancelling:
                self._settle(slot.job, cancelled())
            else:
                self._do(Park(slot.job.id))
            self._dismiss_worker(slot, why, politely=politely)
        if not self._waiting:  # 1c
            if self.standby is not None:
                self._leavers[self.standby] = _Leaver(None, politely)
                self._do(EndWorker(self.standby, politely, why))
                self.standby = None
            for slot in self._slots:
                if slot.phase != "running":
                    self._dismiss_worker(slot, why, politely=politely)
            if not self._slots and not self._leavers and not self._left:  # 1d
                self._left = True
                self._do(Exit())

    def _work(self, now: float) -> None:
        loading = self._slots.in_phase("loading")
        if loading and self._waiting.has_for(loading.model):  # 4b
            return
        job = self._awaited() or self._pick(now)
        if job is None:
            return
        slot = self._slots.of(job.model)
        if slot is not None:  # 5e
            if loading:  # 4a
                self._dismiss_worker(loading, why="nobody waits for it")
            self._run(slot, job, now)
        else:
            self._start(job.model, job, now)

    def _awaited(self) -> WaitingJob | None:
        """The job for which a worker is loading or has become ready."""
        causes = (slot.cause for slot in self._slots)
        return next((job for job in causes if job and job in self._waiting), None)  # 5a

    def _pick(self, now: float) -> WaitingJob | None:
        urgent = self._waiting.first_urgent(now - self._max_wait)
        if urgent is not None:
            return urgent  # 5b
        first = self._waiting.first()
        loaded = self._waiting.first_for([slot.model for slot in self._slots.loaded()])
        if loaded in (None, first) or not self._waiting.overtake(loaded, self._averages.passes):
            return first  # 5d
        return loaded  # 5c

    def _run(self, slot: Slot, job: WaitingJob, now: float) -> None:
        if slot.cause and slot.cause is not job:  # it has left since: its app pays all the same
            self._waiting.charge(slot.cause, slot.load_seconds)
            slot.load_seconds = 0.0
        slot.charged = self._waiting.begin(job, slot.load_seconds, now)
        slot.phase, slot.job, slot.cause = "running", job, None
        slot.since, slot.load_seconds = now, 0.0
        self._do(Run(slot.epoch, job.id))

    def _start(self, model: str, job: WaitingJob | None, now: float) -> None:
        leaving = self._slots.in_the_way_of(model, lambda one: self._options(one).pin)
        epoch, self.standby = self.standby or self._next_epoch(), None
        low_memory = model in self._thrifty or model in self._short.values()
        replaced = leaving[0].epoch if leaving else None
        self._do(StartWorker(epoch, model, job.id if job else None, replaced, low_memory))
        for slot in leaving:
            self._dismiss_worker(slot, why=f"switch to {model}")
        self._slots.add(Slot(epoch, model, low_memory, job, since=now))

    def _rest(self, now: float) -> None:
        for slot in self._slots:
            idle_until = self.idle_until(slot.epoch)
            if idle_until is not None and idle_until <= now:  # 6a
                self._dismiss_worker(slot, why="it was idle for its keep-alive")
        quiet = all(slot.phase == "ready" for slot in self._slots)
        if not quiet or self.paused or self.ending:
            return
        pinned = next(filter(self._has_room_again, self._come_back), None)
        if pinned is not None:  # 6b
            self._start(pinned, None, now)
        elif self._standbys and self.standby is None and not self._leavers:  # 6c
            self.standby = self._next_epoch()
            self._do(StartStandby(self.standby))

    def _has_room_again(self, model: str) -> bool:
        if not self._options(model).pin or self._slots.of(model) or model in self._backoff:
            return False
        return not self._slots.in_the_way_of(model, lambda one: self._options(one).pin)

    # What comes of it.

    def _do(self, effect: Effect) -> None:
        self._effects.append(effect)

    def _settle(self, job: WaitingJob, error: HermeticError | None) -> None:
        self._short.pop(job.id, None)
        self._do(Settle(job.id, error))

    def _dismiss(self, job: WaitingJob, error: HermeticError, now: float) -> None:
        """It waits, and ends without ever having a result."""
        self._waiting.remove(job, now)
        self._settle(job, error)

    def _dismiss_worker(self, slot: Slot, why: str, politely: bool = False) -> None:
        """Its slot is free from now on."""
        self._slots.remove(slot)
        self._leavers[slot.epoch] = _Leaver(slot.model, politely, slot.tickets)
        self._do(EndWorker(slot.epoch, politely, why))

    def _answer(self, tickets: list[int | None]) -> None:
        for ticket in tickets:
            self._do(Answer(ticket, found=True))

    def _next_epoch(self) -> int:
        self.epoch += 1
        return self.epoch
