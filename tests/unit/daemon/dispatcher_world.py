"""A device, its workers and its jobs as the rest of the daemon would have them: it performs what
the dispatcher decides, and fails where that could not be done."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from hermetic_daemon.dispatcher import Dispatcher
from hermetic_daemon.events import (
    Answer,
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
)
from hermetic_wire.errors import HermeticError, WorkerDied

__all__ = ["CRASH", "Worker", "World"]

CRASH = WorkerDied("it ended", report="the last words")


@dataclass
class Worker:
    """A process."""

    model: str | None
    """None while it is a standby."""
    low_memory: bool = False
    ready: bool = False
    told_to_end: bool = False
    job: str | None = None
    cause: str | None = None


@dataclass
class World:
    """Time stands still until `advance`. `footprints` are the bytes that models really take."""

    dispatcher: Dispatcher
    residency: int = 1
    capacity: int | None = None
    footprints: dict[str, int] = field(default_factory=dict)
    now: float = 0.0
    workers: dict[int, Worker] = field(default_factory=dict)
    submitted: dict[str, Submitted] = field(default_factory=dict)
    ended: dict[str, HermeticError | None] = field(default_factory=dict)
    parked: set[str] = field(default_factory=set)
    deaths: dict[str, int] = field(default_factory=dict)
    cancel_asked: set[str] = field(default_factory=set)
    tickets: set[int | None] = field(default_factory=set)
    ticket_numbers: Iterator[int] = field(default_factory=itertools.count)
    measured: set[str] = field(default_factory=set)
    """Models whose footprints the dispatcher was told."""
    paused: bool = False
    exited: bool = False
    runs: list[str] = field(default_factory=list)
    starts: list[str] = field(default_factory=list)

    # Events.

    def send(self, event: Event) -> list[Effect]:
        """The event happens now."""
        effects = self.dispatcher.handle(event, self.now)
        for effect in effects:
            self._perform(effect)
        self._check()
        return effects

    def submit(self, *models: str, app: str = "app", **more: object) -> list[str]:
        """A job for each of the models; returns their ids."""
        ids = []
        for model in models:
            ids.append(f"job-{len(self.submitted)}")
            job = Submitted(ids[-1], model, app, **more)  # type: ignore[arg-type]
            self.submitted[job.job_id] = job
            self.deaths[job.job_id] = len(job.deaths)
            self.send(job)
        return ids

    def cancel(self, job_id: str) -> None:
        """Somebody wants it to end."""
        self.cancel_asked.add(job_id)
        self.send(CancelAsked(job_id))

    def unload(self, model: str) -> list[Effect]:
        """Somebody waits until the model is unloaded."""
        ticket = next(self.ticket_numbers)
        self.tickets.add(ticket)
        return self.send(UnloadAsked(model, ticket))

    def pause(self, paused: bool) -> None:
        """Begin no job, or begin jobs again."""
        self.paused = paused
        self.send(PauseAsked(paused))

    def load(self, error: HermeticError | None = None) -> int:
        """The worker that loads is ready, or says that it cannot be; returns its epoch."""
        (epoch,) = self.loading()
        worker = self.workers[epoch]
        assert worker.model is not None
        if error is not None:
            self.send(LoadFailed(epoch, error))
            return epoch
        worker.ready = True
        footprint = self.footprints.get(worker.model, 0)
        if footprint:
            self.measured.add(worker.model)
        self.send(Ready(epoch, footprint))
        return epoch

    def finish(
        self, seconds: float = 0.0, error: HermeticError | None = None, reusable: bool = True
    ) -> str:
        """The running job ends after so many seconds; returns its id."""
        ((epoch, job_id),) = self.running().items()
        self.advance(seconds)
        self.workers[epoch].job = None
        self.send(Finished(epoch, job_id, error, reusable))
        return job_id

    def lose(self, epoch: int, error: HermeticError = CRASH) -> list[Effect]:
        """The worker's process is gone."""
        del self.workers[epoch]
        return self.send(Gone(epoch, error))

    def bury(self) -> None:
        """All processes that were told to end have ended."""
        for epoch, worker in list(self.workers.items()):
            if worker.told_to_end:
                self.lose(epoch)

    def advance(self, seconds: float) -> None:
        """Time passes; the dispatcher is woken whenever it wants to be, and not for nothing."""
        until = self.now + seconds
        while (wake_at := self.dispatcher.wake_at) is not None and wake_at <= until:
            self.now = max(self.now, wake_at)
            self.send(Tick())
            after = self.dispatcher.wake_at
            assert after is None or after > self.now, "it would be woken again and again"
        self.now = until

    def work_off(self) -> None:
        """Everything takes its course until nothing happens any more."""
        for _ in range(10 * len(self.submitted) + 10 * len(self.workers) + 20):
            if self.running():
                self.finish()
            elif self.loading():
                self.load()
            elif any(worker.told_to_end for worker in self.workers.values()):
                self.bury()
            elif not self.exited and self.dispatcher.waiting_count and self.dispatcher.wake_at:
                self.advance(self.dispatcher.wake_at - self.now)
            else:
                return
        raise AssertionError("it does not come to an end")

    # What is the case.

    def holders(self) -> list[int]:
        """Workers that have a model and are to keep it."""
        return [
            epoch
            for epoch, worker in self.workers.items()
            if worker.model and not worker.told_to_end
        ]

    def loading(self) -> list[int]:
        """Those of them that are not ready."""
        return [epoch for epoch in self.holders() if not self.workers[epoch].ready]

    def running(self) -> dict[int, str]:
        """The jobs that run, by epoch; not those whose workers were told to end."""
        return {epoch: job for epoch in self.holders() if (job := self.workers[epoch].job)}

    def spare(self) -> list[int]:
        """Standbys that are to stay."""
        return [
            epoch
            for epoch, worker in self.workers.items()
            if worker.model is None and not worker.told_to_end
        ]

    def waiting(self) -> set[str]:
        """The jobs that wait."""
        return set(self.dispatcher.waiting)

    # Effects.

    def _perform(self, effect: Effect) -> None:
        match effect:
            case StartWorker():
                self._start(effect)
            case StartStandby(epoch):
                assert not self.spare(), "one is enough"
                assert not self.running(), "the device is quiet"
                self.workers[epoch] = Worker(None)
            case Run(epoch, job_id):
                worker = self.workers[epoch]
                assert worker.ready
                assert not worker.told_to_end
                assert not self.running(), "one job at a time"
                assert not self.paused
                assert worker.model == self.submitted[job_id].model, "never crossed"
                assert job_id not in self.ended
                assert job_id not in self.parked
                worker.job = job_id
                self.runs.append(job_id)
            case CancelRun(epoch, job_id):
                assert self.workers[epoch].job == job_id
                assert job_id in self.cancel_asked
            case EndWorker(epoch):
                self.workers[epoch].told_to_end = True
            case Requeue(job_id):
                assert job_id not in self.ended
                assert job_id not in self.cancel_asked, "what was cancelled is not tried again"
                self.deaths[job_id] += effect.death
                assert self.deaths[job_id] < 2
            case Park(job_id):
                assert job_id not in self.ended
                assert job_id not in self.parked
                assert job_id not in self.cancel_asked
                self.parked.add(job_id)
            case Settle(job_id, error):
                assert job_id in self.submitted
                assert job_id not in self.ended, "exactly one end"
                assert job_id not in self.parked
                self.ended[job_id] = error
            case Answer(ticket):
                self.tickets.remove(ticket)
            case Exit():
                assert not self.exited
                assert not self.workers
                assert set(self.submitted) == set(self.ended) | self.parked
                self.exited = True

    def _start(self, effect: StartWorker) -> None:
        assert not self.paused
        assert effect.model not in self.dispatcher.pauses(self.now)
        assert effect.epoch in self.spare() or not self.spare(), "the standby is taken first"
        assert set(effect.replaces) <= set(self.holders())
        if effect.job_id is not None:
            assert self.submitted[effect.job_id].model == effect.model
            self._check_choice(effect.job_id)
        self.workers[effect.epoch] = Worker(
            effect.model, low_memory=effect.low_memory, cause=effect.job_id
        )
        self.starts.append(effect.model)

    def _check_choice(self, job_id: str) -> None:
        """Nobody overtakes for whom a worker has to be started, unless it is due."""
        queue = self.dispatcher._waiting
        chosen = queue.first_urgent(self.now - self.dispatcher._max_wait) or queue.first()
        assert chosen is not None
        assert chosen.id == job_id

    def _check(self) -> None:
        holders = [self.workers[epoch] for epoch in self.holders()]
        models = [worker.model for worker in holders if worker.model]
        assert len(models) <= self.residency
        assert len(set(models)) == len(models), "one worker a model"
        if len(models) > 1:
            assert not any(worker.low_memory for worker in holders), "it is alone"
            if self.capacity is not None:
                known = [worker.model for worker in holders if worker.model in self.measured]
                assert len(known) == len(models), "what is not measured is alone"
                assert sum(self.footprints[model] for model in models) <= self.capacity
        assert len(self.loading()) <= 1
        assert len(self.running()) <= 1
        assert self.dispatcher.running == next(iter(self.running().values()), None)

    def end(self, mode: str, budget: float = 0.0) -> None:
        """The daemon is to end."""
        self.send(EndAsked(mode, budget))  # type: ignore[arg-type]  # one of the three
