"""The waiting jobs of one app in one priority class, and how often each was overtaken. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from operator import attrgetter
from typing import TypeAlias

from hermetic_wire.errors import HermeticError

from .events import Submitted

__all__ = ["LEAST_SECONDS", "Key", "Lane", "Line", "WaitingJob"]

LEAST_SECONDS = 0.001
"""The least that a job is charged: time that stands still would let nobody else have a turn."""

Key: TypeAlias = tuple[float, int]
"""A place in the fair order of one class: the tag, then the job's number."""

_number = attrgetter("number")


@dataclass(eq=False)
class WaitingJob:
    """A job from its submission to its end, also while it runs."""

    submitted: Submitted
    number: int
    """Jobs are numbered as they come: the lower is the older."""
    line: Line
    first_since: float | None = None
    """Since when it has been the first of its class."""
    overtaken: int = 0
    """How often until it left its lane; while it waits there, the lane knows."""
    expires_at: float | None = None
    """None once it has been begun."""
    deaths: list[HermeticError] = field(default_factory=list)
    passes_behind: int = 0
    """The lane's: the overtakings that reached this job and none behind it."""

    @property
    def id(self) -> str:
        """As the app knows it."""
        return self.submitted.job_id

    @property
    def model(self) -> str:
        """What it runs on."""
        return self.submitted.model


class Lane:
    """The jobs of a line that want the same model, oldest first, and their overtakings.

    Who overtakes a job overtakes those in front of it in its lane, too. So counts never grow from
    front to back; only their differences are kept, and to overtake a thousand jobs costs no more
    than to overtake one.
    """

    def __init__(self, line: Line, model: str) -> None:
        self.line = line
        self.model = model
        self.jobs: list[WaitingJob] = []
        self.front_count = 0
        """How often the first job was overtaken."""

    def add(self, job: WaitingJob) -> None:
        """In its place by number: behind all others, or before them where it waits again."""
        index = bisect_left(self.jobs, job.number, key=_number)
        job.passes_behind = 0 if index else max(0, job.overtaken - self.front_count)
        self.front_count += job.passes_behind
        self.jobs.insert(index, job)

    def remove(self, job: WaitingJob) -> None:
        """It does not wait any more; its own count stays with it."""
        index = bisect_left(self.jobs, job.number, key=_number)
        job.overtaken = self.front_count - sum(one.passes_behind for one in self.jobs[:index])
        if index:
            self.jobs[index - 1].passes_behind += job.passes_behind
        else:
            self.front_count -= job.passes_behind
        del self.jobs[index]

    def pass_by(self, number: float) -> None:
        """Each job older than that number has been overtaken once more."""
        index = bisect_left(self.jobs, number, key=_number)
        if index:
            self.jobs[index - 1].passes_behind += 1
            self.front_count += 1

    def counts(self) -> list[int]:
        """How often each job was overtaken, from front to back."""
        left, found = self.front_count, []
        for job in self.jobs:
            found.append(left)
            left -= job.passes_behind
        return found


class Line:
    """Its jobs that may run, oldest first, by model in lanes; lanes set aside are those whose
    model may not be started now.

    `tag` is the line's virtual time: the device seconds it was charged. The job at `index` has the
    tag that the line will have when it comes to be its turn, if all before it take as long as they
    do on average.
    """

    def __init__(self, app: str, expected: Callable[[str], float]) -> None:
        self.app = app
        self.tag = 0.0
        self.jobs: list[WaitingJob] = []
        self.lanes: dict[str, Lane] = {}
        self.aside: dict[str, Lane] = {}
        self._expected = expected

    def add(self, job: WaitingJob, *, aside: bool) -> None:
        """In its place by number."""
        lanes = self.aside if aside else self.lanes
        if job.model not in lanes:
            lanes[job.model] = Lane(self, job.model)
        lanes[job.model].add(job)
        if not aside:
            self.jobs.insert(self.index(job), job)

    def remove(self, job: WaitingJob) -> None:
        """It does not wait any more."""
        lanes = self.lanes if job.model in self.lanes else self.aside
        lane = lanes[job.model]
        lane.remove(job)
        if not lane.jobs:
            del lanes[job.model]
        if lanes is self.lanes:
            del self.jobs[self.index(job)]

    def set_aside(self, model: str) -> None:
        """Its jobs may not run now."""
        if model in self.lanes:
            self.aside[model] = self.lanes.pop(model)
            self.jobs = [job for job in self.jobs if job.model != model]

    def bring_back(self, model: str) -> None:
        """They may again, each in its old place."""
        if model in self.aside:
            self.lanes[model] = self.aside.pop(model)
            self.jobs = sorted([*self.jobs, *self.lanes[model].jobs], key=_number)

    def index(self, job: WaitingJob) -> int:
        """How many of its jobs that may run are older."""
        return bisect_left(self.jobs, job.number, key=_number)

    def key(self, index: int) -> Key:
        """The place of the job at `index` in fair order."""
        ahead = index * self._seconds_per_job() if index else 0.0
        return self.tag + ahead, self.jobs[index].number

    def keys(self) -> list[Key]:
        """The places of all its jobs that may run."""
        each = self._seconds_per_job() if self.jobs else 0.0
        return [(self.tag + index * each, job.number) for index, job in enumerate(self.jobs)]

    def count_before(self, key: Key) -> int:
        """How many of its jobs that may run come before that place in fair order."""
        if not self.jobs or self.key(0) >= key:
            return 0
        each = self._seconds_per_job()
        index = min(len(self.jobs), max(0, int((key[0] - self.tag) / each) - 1))
        while index < len(self.jobs) and (self.tag + index * each, self.jobs[index].number) < key:
            index += 1
        return index

    def front(self, count: int) -> Iterator[tuple[Lane, float]]:
        """The lanes that have some of the first `count` jobs: those older than that number."""
        if not count:
            return
        number = self.jobs[count].number if count < len(self.jobs) else inf
        for lane in self.lanes.values():
            if lane.jobs[0].number < number:
                yield lane, number

    def _seconds_per_job(self) -> float:
        total = sum(len(lane.jobs) * self._expected(lane.model) for lane in self.lanes.values())
        return max(LEAST_SECONDS, total / len(self.jobs))
