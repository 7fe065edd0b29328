"""What is said of a course: makespan, waits, switches, fairness."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from _simulator import Course, Turn

__all__ = ["Outcome", "fairness", "outcome"]


@dataclass(frozen=True)
class Outcome:
    """Of one trace, one device and one way to choose; times in seconds."""

    makespan: float
    waits: Sequence[float]
    smallest_app_wait: float
    """The mean wait of the app that has the fewest jobs."""
    switches: int
    """How often a model was made ready."""
    fairness: float

    @property
    def mean_wait(self) -> float:
        """Of all jobs."""
        return fmean(self.waits)

    @property
    def p99_wait(self) -> float:
        """By nearest rank."""
        return sorted(self.waits)[math.ceil(0.99 * len(self.waits)) - 1]

    @property
    def worst_wait(self) -> float:
        """Of all jobs."""
        return max(self.waits)


def outcome(course: Course) -> Outcome:
    """Its figures."""
    return Outcome(
        makespan=course.makespan,
        waits=[turn.wait for turn in course.turns],
        smallest_app_wait=_smallest_app_wait(course.turns),
        switches=course.loads,
        fairness=fairness(course.turns),
    )


def _smallest_app_wait(turns: Sequence[Turn]) -> float:
    waits: dict[str, list[float]] = {}
    for turn in turns:
        waits.setdefault(turn.job.app, []).append(turn.wait)
    return fmean(min((len(own), own) for own in waits.values())[1])


def fairness(turns: Sequence[Turn]) -> float:
    """Jain's index, (sum x)^2 / (n sum x^2): 1 where all apps have the same, 1/n where one has all.

    x is what an app had over what it was entitled to: the device's seconds (loads that it caused
    included) while it and at least one other app had a job there, over as many seconds, each
    divided by the number of apps that had one. Priority classes count for nothing in it. 1 where
    no two apps ever wanted the device at once.
    """
    had: dict[str, float] = {}
    entitled: dict[str, float] = {}
    for seconds, present, user in _stretches(turns):
        if len(present) > 1:
            had[user] = had.get(user, 0.0) + seconds
            for app in present:
                entitled[app] = entitled.get(app, 0.0) + seconds / len(present)
    shares = [had.get(app, 0.0) / entitled[app] for app in entitled]
    if not any(shares):
        return 1.0
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def _stretches(turns: Sequence[Turn]) -> Iterator[tuple[float, list[str], str]]:
    """Stretches of time in which nothing changes: their seconds, the apps that have a job there,
    and the one that has the device; nobody has it in vain, so one that has is always there."""
    changes: list[tuple[float, str, int, int]] = []
    for turn in turns:
        app = turn.job.app
        changes += [(turn.job.at, app, 1, 0), (turn.begun - turn.load, app, 0, 1)]
        changes += [(turn.end, app, -1, -1)]
    jobs: Counter[str] = Counter()
    holds: Counter[str] = Counter()
    changes.sort()
    for (moment, app, more_jobs, more_holds), (until, *_) in pairwise(changes):
        jobs[app] += more_jobs
        holds[app] += more_holds
        user = next((one for one in holds if holds[one] > 0), None)
        if until > moment and user is not None:
            yield until - moment, [one for one in jobs if jobs[one]], user
