"""The waiting jobs in fair-share order: priority classes, in them apps by device seconds. Pure.

The order within a class is `priority_class.py`'s, that within an app `lines.py`'s.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter

from hermetic_wire.generation import Priority

from .events import Submitted
from .lines import LEAST_SECONDS, Key, Lane, Line, WaitingJob
from .priority_class import PriorityClass

__all__ = ["Waiting"]

_RANKS: dict[Priority, int] = {"high": 0, "normal": 1, "low": 2}


class Waiting:
    """All waiting jobs. `expected` tells the seconds that a job of a model takes."""

    def __init__(self, expected: Callable[[str], float]) -> None:
        self._expected = expected
        self._classes = {rank: PriorityClass() for rank in sorted(_RANKS.values())}
        self._jobs: dict[str, WaitingJob] = {}
        self._by_app: Counter[str] = Counter()
        self._by_model: dict[str, dict[str, WaitingJob]] = {}
        self._aside: set[str] = set()
        self._numbers = itertools.count()
        self._expiries: list[tuple[float, int, WaitingJob]] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job: WaitingJob) -> bool:
        """Whether this very one waits: its id may have come again since it left."""
        return self._jobs.get(job.id) is job

    def get(self, job_id: str) -> WaitingJob | None:
        """The waiting job of that id."""
        return self._jobs.get(job_id)

    def count_of(self, app: str) -> int:
        """Jobs of one app."""
        return self._by_app[app]

    def jobs(self) -> list[WaitingJob]:
        """All, in no order that means anything."""
        return list(self._jobs.values())

    def jobs_for(self, model: str) -> list[WaitingJob]:
        """All that want the model."""
        return list(self._by_model.get(model, {}).values())

    def has_for(self, model: str) -> bool:
        """Whether one wants the model."""
        return model in self._by_model

    # Coming and going.

    def submit(self, submitted: Submitted, now: float) -> None:
        """A job that has never waited here."""
        line = self._class(submitted).lines.get(submitted.app)
        if line is None:
            line = Line(submitted.app, self._expected)
        job = WaitingJob(
            submitted,
            next(self._numbers),
            line,
            expires_at=submitted.expires_at,
            deaths=list(submitted.deaths),
        )
        if job.expires_at is not None:
            heapq.heappush(self._expiries, (job.expires_at, job.number, job))
        self.add(job, now if submitted.at is None else submitted.at)

    def add(self, job: WaitingJob, now: float) -> None:
        """In its place by age: it comes, or waits again."""
        app = job.submitted.app
        group = self._class(job.submitted)
        group.lines[app] = job.line
        job.line.add(job, aside=job.model in self._aside)
        group.update(job.line, now)
        self._jobs[job.id] = job
        self._by_app[app] += 1
        self._by_model.setdefault(job.model, {})[job.id] = job

    def remove(self, job: WaitingJob, now: float) -> None:
        """It waits no more, and is not begun."""
        del self._jobs[job.id]
        self._by_app[job.submitted.app] -= 1
        if not self._by_app[job.submitted.app]:
            del self._by_app[job.submitted.app]
        same = self._by_model[job.model]
        del same[job.id]
        if not same:
            del self._by_model[job.model]
        job.line.remove(job)
        group = self._class(job.submitted)
        group.update(job.line, now)
        group.note_first(now)  # it may have been the first

    def expire(self, now: float) -> list[WaitingJob]:
        """The jobs whose time to begin is over; they wait until `remove`."""
        expired = []
        while (wake_at := self.wake_at) is not None and wake_at <= now:
            expired.append(heapq.heappop(self._expiries)[2])
        return expired

    def _is_over(self, job: WaitingJob) -> bool:
        return job.expires_at is None or job not in self

    @property
    def wake_at(self) -> float | None:
        """When the next job expires."""
        while self._expiries and self._is_over(self._expiries[0][2]):
            heapq.heappop(self._expiries)
        return self._expiries[0][0] if self._expiries else None

    def set_aside(self, model: str, now: float) -> None:
        """No worker may be started for the model: its jobs are out of the order for now."""
        self._aside.add(model)
        for group, line in self._lines_for(model):
            line.set_aside(model)
            group.update(line, now)
        self._note_firsts(now)

    def bring_back(self, model: str, now: float) -> None:
        """One may be started again."""
        self._aside.discard(model)
        for group, line in self._lines_for(model):
            line.bring_back(model)
            group.update(line, now)

    def _lines_for(self, model: str) -> list[tuple[PriorityClass, Line]]:
        lines = {id(job.line): job for job in self._by_model.get(model, {}).values()}
        return [(self._class(job.submitted), job.line) for job in lines.values()]

    # What the device's time is charged to.

    def begin(self, job: WaitingJob, extra: float, now: float) -> float:
        """It runs, and waits no more. Charges its line the seconds it is expected to take and
        `extra` ones for the load; returns the former."""
        group = self._class(job.submitted)
        expected = max(LEAST_SECONDS, self._expected(job.model))
        group.begin(job.line)
        group.charge(job.line, expected + extra)  # first: its next job may not be the class's first
        self.remove(job, now)
        job.expires_at = None
        self._note_firsts(now)
        return expected

    def _note_firsts(self, now: float) -> None:
        for group in self._classes.values():
            group.note_first(now)

    def end(self, job: WaitingJob, charged: float, seconds: float) -> None:
        """It does not run any more, after so many seconds."""
        more = max(LEAST_SECONDS, seconds) - charged
        self._class(job.submitted).end(job.line, more)

    def charge(self, job: WaitingJob, seconds: float) -> None:
        """Its line caused a load that it does not use."""
        self._class(job.submitted).charge(job.line, seconds)

    # The order.

    def first(self) -> WaitingJob | None:
        """The first in fair order that may run."""
        for group in self._classes.values():
            line = group.first()
            if line is not None:
                return line.jobs[0]
        return None

    def first_for(self, models: Sequence[str]) -> WaitingJob | None:
        """The first in fair order that wants one of the models."""
        wanted = [model for model in models if model in self._by_model]
        if not wanted:  # nothing to look through
            return None
        return self._foremost(
            line.lanes[model].jobs[0]
            for line in self._lines()
            for model in wanted
            if model in line.lanes
        )

    def first_urgent(self, since: float) -> WaitingJob | None:
        """Of those that have been the first of their class since then, or longer, the one that has
        been so for longest: by class, a lower one would starve where jobs take longer than that."""
        firsts = [line.jobs[0] for line in map(PriorityClass.first, self._classes.values()) if line]
        due = [(job.first_since, job) for job in firsts if job.first_since is not None]
        first_since, job = min(due, key=itemgetter(0), default=(since, None))
        return job if first_since <= since else None

    def overtake(self, job: WaitingJob, passes: Callable[[str], int]) -> bool:
        """Let the job go before those that come before it in fair order, if it may: if each was
        overtaken less often than `passes` has it for its model. Then it counts for each of them."""
        passed = list(self._lanes_before(job))
        if any(lane.front_count >= passes(lane.model) for lane, _ in passed):
            return False
        for lane, number in passed:
            lane.pass_by(number)
        return True

    def _lanes_before(self, job: WaitingJob) -> Iterator[tuple[Lane, float]]:
        """The lanes of which jobs come before it in fair order: those older than that number."""
        rank, key = self._place(job)
        for higher in range(rank):
            for line in self._classes[higher].active.values():
                yield from line.front(len(line.jobs))
        for line in self._classes[rank].active.values():
            if line is job.line:
                yield from line.front(line.index(job))
            elif line.tag <= key[0]:
                yield from line.front(line.count_before(key))

    def _lines(self) -> Iterator[Line]:
        for group in self._classes.values():
            yield from group.active.values()

    def _foremost(self, jobs: Iterable[WaitingJob]) -> WaitingJob | None:
        return min(jobs, key=self._place, default=None)

    def _place(self, job: WaitingJob) -> tuple[int, Key]:
        rank = _RANKS[job.submitted.priority]
        return rank, job.line.key(job.line.index(job))

    def in_order(self) -> list[tuple[WaitingJob, int]]:
        """All jobs in fair order, each with how often it was overtaken; in the end those whose
        models may not be started now."""
        found = []
        for rank, group in self._classes.items():
            for line in group.lines.values():
                counts = {
                    job.id: count
                    for lanes in (line.lanes, line.aside)
                    for lane in lanes.values()
                    for job, count in zip(lane.jobs, lane.counts(), strict=True)
                }
                found += [
                    (False, rank, key, job, counts[job.id])
                    for key, job in zip(line.keys(), line.jobs, strict=True)
                ]
                found += [
                    (True, rank, (line.tag, job.number), job, counts[job.id])
                    for lane in line.aside.values()
                    for job in lane.jobs
                ]
        found.sort(key=lambda one: one[:3])
        return [(job, count) for *_, job, count in found]

    def _class(self, submitted: Submitted) -> PriorityClass:
        return self._classes[_RANKS[submitted.priority]]
