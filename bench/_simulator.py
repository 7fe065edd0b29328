"""A device in virtual time: the real dispatcher on it, or first come, first served."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from _arms import BenchError
from _traces import TraceJob
from hermetic_daemon.dispatcher import Dispatcher
from hermetic_daemon.events import (
    EndWorker,
    Event,
    Finished,
    Gone,
    Ready,
    Run,
    Settle,
    StartWorker,
    Submitted,
    Tick,
)
from hermetic_wire.errors import WorkerDied

__all__ = ["Course", "Device", "Turn", "dispatched", "first_come", "least_makespan"]


@dataclass(frozen=True)
class Device:
    """How long it takes to make a model ready, the end of the former one included."""

    load_seconds: Mapping[str, float]
    other_seconds: float
    """Of a model that is not named."""
    residency: int = 1

    def load(self, model: str) -> float:
        """Seconds."""
        return self.load_seconds.get(model, self.other_seconds)


@dataclass
class Turn:
    """One job's turn; times since the trace began."""

    job: TraceJob
    begun: float
    load: float = 0.0
    """Seconds before `begun` that its model was loaded for it."""

    @property
    def wait(self) -> float:
        """From its coming to its beginning, the load included."""
        return self.begun - self.job.at

    @property
    def end(self) -> float:
        """When it was done."""
        return self.begun + self.job.seconds


@dataclass
class Course:
    """How a trace went, in the order of the turns."""

    turns: list[Turn] = field(default_factory=list)
    loads: int = 0

    @property
    def makespan(self) -> float:
        """Seconds from the first job's coming to the last one's end."""
        return max(turn.end for turn in self.turns) - min(turn.job.at for turn in self.turns)


def first_come(jobs: Sequence[TraceJob], device: Device) -> Course:
    """In the order of their coming; at a change of model the one unused for longest goes."""
    course, clock, loaded = Course(), 0.0, list[str]()
    for job in jobs:
        clock, load = max(clock, job.at), 0.0
        if job.model in loaded:
            loaded.remove(job.model)
        else:
            load = device.load(job.model)
            course.loads += 1
        loaded = [*loaded, job.model][-device.residency :]
        course.turns.append(Turn(job, clock + load, load))
        clock = course.turns[-1].end
    return course


def least_makespan(jobs: Sequence[TraceJob], device: Device) -> float:
    """A lower bound: nobody, whatever he knows of the future, is done earlier.

    Whoever comes at or after a moment runs after it, all on one device; and each of their models
    has to be loaded after it, but for as many as may be loaded at that moment. The bound is the
    largest of all moments at which a job comes. Before the first of them nothing is loaded.
    """
    ordered = sorted(jobs, key=lambda job: -job.at)
    first, bound, work = ordered[-1].at, 0.0, 0.0
    loads: dict[str, float] = {}
    for at, group in itertools.groupby(ordered, key=lambda job: job.at):
        for job in group:
            work += job.seconds
            loads[job.model] = device.load(job.model)
        spared = 0 if at == first else device.residency
        least = sorted(loads.values())[: max(0, len(loads) - spared)]
        bound = max(bound, at + work + sum(least))
    return bound - first


def dispatched(
    jobs: Sequence[TraceJob], device: Device, dispatcher: Dispatcher | None = None
) -> Course:
    """As the daemon's dispatcher has it: what it decides is done, in virtual time."""
    simulation = _Simulation(jobs, device, dispatcher or Dispatcher(residency=device.residency))
    return simulation.run()


class _Simulation:
    def __init__(self, jobs: Sequence[TraceJob], device: Device, dispatcher: Dispatcher) -> None:
        self._device = device
        self._dispatcher = dispatcher
        self._jobs = {f"job-{number}": job for number, job in enumerate(jobs)}
        self._coming: list[tuple[float, int, Event]] = []
        self._numbers = itertools.count()
        self._models: dict[int, str] = {}
        self._cause_of: dict[str, float] = {}
        """By job, the seconds of the load that it caused."""
        self._settled = 0
        self._course = Course()
        for job_id, job in self._jobs.items():
            self._expect(job.at, Submitted(job_id, job.model, job.app, job.priority, at=job.at))

    def run(self) -> Course:
        """To the end of the last job."""
        while self._coming:
            moment, _, event = heapq.heappop(self._coming)
            while (wake_at := self._dispatcher.wake_at) is not None and wake_at < moment:
                self._handle(Tick(), wake_at)
            self._handle(event, moment)
        if self._settled != len(self._jobs):
            raise BenchError(f"{len(self._jobs) - self._settled} jobs were never begun")
        return self._course

    def _expect(self, moment: float, event: Event) -> None:
        heapq.heappush(self._coming, (moment, next(self._numbers), event))

    def _handle(self, event: Event, now: float) -> None:
        for effect in self._dispatcher.handle(event, now):
            match effect:
                case StartWorker(epoch, model, job_id):
                    seconds = self._device.load(model)
                    self._course.loads += 1
                    if job_id is not None:
                        self._cause_of[job_id] = seconds
                    self._expect(now + seconds, Ready(epoch))
                case Run(epoch, job_id):
                    job = self._jobs[job_id]
                    load = self._cause_of.pop(job_id, 0.0)
                    self._course.turns.append(Turn(job, now, load))
                    self._expect(now + job.seconds, Finished(epoch, job_id, None, reusable=True))
                case EndWorker(epoch):
                    self._expect(now, Gone(epoch, WorkerDied("as it was told to")))
                case Settle():
                    self._settled += 1
                case _:
                    raise BenchError(f"nothing should lead to {effect}")
