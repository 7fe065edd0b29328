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
    5b. of those that have been the first of their class for `max_wait`, the one for longest;
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
from typing import Literal

from hermetic_wire.errors import HermeticError

from .backoff import Backoff
from .device import Device
from .events import (
    Effect,
    Event,
    Exit,
    Park,
    Run,
    StartStandby,
    StartWorker,
    WorkerOptions,
)
from .forecast import Turn, ends, turns
from .lines import WaitingJob
from .slots import Slot
from .verdicts import cancelled

__all__ = ["Dispatcher"]


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
        self._device = Device(
            standbys=standbys,
            residency=residency,
            capacity_bytes=capacity_bytes,
            backoff=Backoff(backoff, backoff_limit),
            first_epoch=first_epoch,
        )
        self._waiting = self._device.waiting
        self._slots = self._device.slots
        self._averages = self._device.averages
        self._residency = residency
        self._options = options
        self._max_wait = max_wait
        self._now = 0.0
        """When the last event was."""

    # What the service asks.

    @property
    def epoch(self) -> int:
        """The newest worker's."""
        return self._device.epoch

    @property
    def ending(self) -> Literal["drain", "stop", "kill"] | None:
        """How the daemon ends; None while it serves."""
        return self._device.ending

    @property
    def paused(self) -> bool:
        """Whether no job is begun."""
        return self._device.paused

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
        moments = [self._waiting.wake_at, self._device.backoff.wake_at]
        for slot in self._slots:
            if slot.phase == "ready":
                moments.append(self.idle_until(slot.epoch))
            elif slot.phase == "running":
                moments.append(self._device.deadline)
        return min([moment for moment in moments if moment is not None], default=None)

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
        return self._device.backoff.pauses(now)

    def retry_in(self, model: str, now: float) -> float:
        """Seconds until a worker of the model may be started."""
        return self._device.backoff.seconds_left(model, now)

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
        if self._device.is_stale(event):
            return []
        effects: list[Effect] = []
        self._device.effects = effects
        self._now = now
        self._device.hear(event, now)
        self._device.pass_time(now)
        self._decide(now)
        return effects

    # The numbered tree of the module's docstring.

    def _decide(self, now: float) -> None:
        device = self._device
        if device.ending:  # 1
            self._wind_up(now)
        for slot in self._slots:
            if slot.tickets and slot.phase != "running":  # 2
                device.dismiss_worker(slot, why="its model is unloaded")
        if self._slots.in_phase("running") is None and not device.paused:  # 3
            self._work(now)
        self._rest(now)

    def _wind_up(self, now: float) -> None:
        device = self._device
        if device.ending != "drain" or device.paused:  # 1a
            for job in self._waiting.jobs():
                self._waiting.remove(job, now)
                device.do(Park(job.id))
        politely, why = device.ending != "kill", "the daemon ends"
        slot = self._slots.in_phase("running")
        over = device.deadline is not None and device.deadline <= now
        if slot and slot.job and (over or not politely):  # 1b
            if slot.cancelling:
                device.settle(slot.job, cancelled())
            else:
                device.do(Park(slot.job.id))
            device.dismiss_worker(slot, why, politely=politely)
        if not self._waiting:  # 1c
            device.dismiss_standby(why, politely)
            for slot in self._slots:
                if slot.phase != "running":
                    device.dismiss_worker(slot, why, politely=politely)
            if not self._slots and not device.leavers and not device.left:  # 1d
                device.left = True
                device.do(Exit())

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
                self._device.dismiss_worker(loading, why="nobody waits for it")
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
        models = [slot.model for slot in self._slots.loaded()]
        if first is None or first.model in models:
            return first  # 5c, with nobody before it
        loaded = self._waiting.first_for(models)
        if loaded is None or not self._waiting.overtake(loaded, self._averages.passes):
            return first  # 5d
        return loaded  # 5c

    def _run(self, slot: Slot, job: WaitingJob, now: float) -> None:
        if slot.cause and slot.cause is not job:  # it has left since: its app pays all the same
            self._waiting.charge(slot.cause, slot.load_seconds)
            slot.load_seconds = 0.0
        slot.charged = self._waiting.begin(job, slot.load_seconds, now)
        slot.phase, slot.job, slot.cause = "running", job, None
        slot.since, slot.load_seconds = now, 0.0
        self._device.do(Run(slot.epoch, job.id))

    def _start(self, model: str, job: WaitingJob | None, now: float) -> None:
        device = self._device
        leaving = self._slots.in_the_way_of(model, lambda one: self._options(one).pin)
        epoch, device.standby = device.standby or device.next_epoch(), None
        low_memory = device.low_memory(model)
        replaced = tuple(slot.epoch for slot in leaving)
        device.do(StartWorker(epoch, model, job.id if job else None, replaced, low_memory))
        for slot in leaving:
            device.dismiss_worker(slot, why=f"switch to {model}")
        self._slots.add(Slot(epoch, model, low_memory, job, since=now))

    def _rest(self, now: float) -> None:
        device = self._device
        for slot in self._slots:
            idle_until = self.idle_until(slot.epoch)
            if idle_until is not None and idle_until <= now:  # 6a
                device.dismiss_worker(slot, why="it was idle for its keep-alive")
        quiet = all(slot.phase == "ready" for slot in self._slots)
        if not quiet or device.paused or device.ending:
            return
        pinned = next(filter(self._has_room_again, device.come_back), None)
        if pinned is not None:  # 6b
            self._start(pinned, None, now)
        elif device.standbys and device.standby is None and not device.leavers:  # 6c
            device.standby = device.next_epoch()
            device.do(StartStandby(device.standby))

    def _has_room_again(self, model: str) -> bool:
        if not self._options(model).pin or self._slots.of(model) or model in self._device.backoff:
            return False
        return not self._slots.in_the_way_of(model, lambda one: self._options(one).pin)
