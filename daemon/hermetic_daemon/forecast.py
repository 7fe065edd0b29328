"""In what order the waiting jobs would run if nothing else came, and when each would end. Pure."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from .averages import Averages
from .lines import WaitingJob

__all__ = ["Turn", "ends", "turns"]


@dataclass(frozen=True)
class Turn:
    """One job's turn on the device."""

    job: WaitingJob
    loads: bool
    """Whether its model has to be loaded for it."""


def turns(
    order: Sequence[tuple[WaitingJob, int]],
    urgent: Sequence[WaitingJob],
    loaded: Iterable[str],
    residency: int,
    passes: Callable[[str], int],
) -> Iterator[Turn]:
    """The turns of jobs that stand in fair order, each with how often it was overtaken.

    The `urgent` of them come first. Then each is overtaken by those whose model is `loaded` as
    often as `passes` allows. What models need of memory is left out of account, and so is the age
    at which other jobs become urgent.
    """
    places = {id(job): place for place, job in reversed(list(enumerate(urgent)))}
    order = sorted(order, key=lambda one: places.get(id(one[0]), len(places)))
    by_model: dict[str, deque[int]] = {}
    for index, (job, _) in enumerate(order):
        by_model.setdefault(job.model, deque()).append(index)
    resident = list(loaded)
    overtakers: list[int] = []
    done = bytearray(len(order))

    def may_be_passed(index: int) -> bool:
        job, count = order[index]
        behind = len(overtakers) - bisect_right(overtakers, index)
        return id(job) not in places and count + behind < passes(job.model)

    for first, (job, _) in enumerate(order):
        while not done[first]:
            index = first
            if job.model not in resident:
                fronts = [waiting[0] for waiting in by_model.values() if waiting]
                index = min((i for i in fronts if order[i][0].model in resident), default=first)
                if not all(may_be_passed(i) for i in fronts if i < index):
                    index = first
            model = order[index][0].model
            loads = model not in resident
            if loads:
                resident = [*resident, model][-residency:]
            if index != first:
                insort(overtakers, index)
            done[index] = 1
            by_model[model].popleft()
            yield Turn(order[index][0], loads)


def ends(
    planned: Iterable[Turn],
    averages: Averages,
    begins_in: float,
    not_before: Callable[[str], float],
) -> dict[str, float]:
    """Seconds until each job will have ended, if the device is free for the first in `begins_in`;
    without the jobs of models of which no job was measured yet. `not_before` tells the seconds
    until a model may be loaded."""
    found, clock = {}, begins_in
    for turn in planned:
        model = turn.job.model
        if turn.loads:
            clock = max(clock, not_before(model)) + averages.load_seconds(model)
        clock += averages.job_seconds(model)
        if averages.learnt(model)[0] is not None:
            found[turn.job.id] = clock
    return found
