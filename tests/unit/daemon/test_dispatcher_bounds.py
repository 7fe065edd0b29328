"""What affinity may cost and what it may not, over random jobs that come at random moments.

The claims and why they hold are in docs/dispatching.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermetic_daemon.dispatcher import Dispatcher
from hermetic_daemon.events import Finished, Submitted
from unit.daemon.dispatcher_world import World

ROUNDING = 1e-6


@dataclass(frozen=True)
class Job:
    """One that comes `after` seconds after the former and takes `seconds`."""

    after: float
    model: str
    seconds: float


JOBS = st.lists(
    st.builds(
        Job,
        after=st.sampled_from([0.0, 0.0, 0.0, 0.5, 3.0, 40.0]),
        model=st.sampled_from("abc"),
        seconds=st.sampled_from([0.1, 1.0, 2.5, 4.0]),
    ),
    min_size=1,
    max_size=40,
)


@dataclass
class Course:
    """How it went: when each job began, and how often a model was loaded."""

    begun: list[float]
    loads: int
    most_passes: int = 0


def arrivals(jobs: Sequence[Job]) -> list[float]:
    clock, found = 0.0, []
    for job in jobs:
        clock += job.after
        found.append(clock)
    return found


def first_come(jobs: Sequence[Job], switch: float) -> Course:
    """Strictly in the order of their coming."""
    clock, loaded, course = 0.0, "", Course([], 0)
    for job, came in zip(jobs, arrivals(jobs), strict=True):
        clock = max(clock, came)
        if job.model != loaded:
            clock, loaded, course.loads = clock + switch, job.model, course.loads + 1
        course.begun.append(clock)
        clock += job.seconds
    return course


def dispatched(jobs: Sequence[Job], switch: float, max_wait: float = 60.0) -> Course:
    """By the dispatcher, all of one app."""
    world = World(Dispatcher(max_wait=max_wait))
    course, coming = Course([0.0] * len(jobs), 0), list(zip(arrivals(jobs), jobs, strict=True))
    busy_until = 0.0

    def tend() -> None:
        """Note what has begun since, and when it will be over."""
        nonlocal busy_until
        if world.running() and len(world.runs) > len(world.ended):
            number = int(world.runs[-1].removeprefix("job-"))
            course.begun[number] = world.now
            busy_until = world.now + jobs[number].seconds
        elif world.loading():
            busy_until = world.now + switch
        passes = [world.dispatcher._averages.passes(model) for model in "abc"]
        course.most_passes = max(course.most_passes, *passes)

    while coming or world.loading() or world.running():
        busy = bool(world.loading() or world.running())
        if coming and not (busy and busy_until < coming[0][0]):
            came, job = coming.pop(0)
            world.advance(came - world.now)
            world.submit(job.model)
            if not busy:
                tend()
            continue
        world.advance(busy_until - world.now)
        if world.running():
            world.finish()
        else:
            world.load()
        world.bury()
        tend()
    assert len(world.ended) == len(jobs)
    course.loads = len(world.starts)
    return course


@given(jobs=JOBS, switch=st.sampled_from([0.05, 1.0, 8.0]), max_wait=st.sampled_from([5.0, 1e9]))
def test_one_app_never_sees_more_switches_than_first_come_first_served(
    jobs: list[Job], switch: float, max_wait: float
) -> None:
    assert dispatched(jobs, switch, max_wait).loads <= first_come(jobs, switch).loads


@given(jobs=JOBS, switch=st.sampled_from([0.05, 1.0, 8.0]))
def test_each_job_waits_at_most_k_jobs_and_one_switch_longer_than_first_come_first_served(
    jobs: list[Job], switch: float
) -> None:
    """K jobs that overtook it, and the switch to a model that would still be loaded otherwise."""
    course, fifo = dispatched(jobs, switch), first_come(jobs, switch)
    longest = max(job.seconds for job in jobs)
    allowed = course.most_passes * longest + switch + ROUNDING
    for ours, theirs in zip(course.begun, fifo.begun, strict=True):
        assert ours <= theirs + allowed


def test_that_one_switch_is_needed() -> None:
    """A B A, a rest, A: who had two of A in a row has B loaded when the last one comes."""
    jobs = [Job(0, "a", 1), Job(0, "b", 1), Job(0, "a", 1), Job(40, "a", 1)]
    course, fifo = dispatched(jobs, 8.0), first_come(jobs, 8.0)
    assert course.loads == fifo.loads == 3
    assert course.begun[3] == fifo.begun[3] + 8.0


@given(jobs=JOBS)
@settings(max_examples=30)
def test_nothing_that_waits_changes_what_a_free_device_does(jobs: list[Job]) -> None:
    """Where loads take no time, the device is never idle while a job waits."""
    course, fifo = dispatched(jobs, 0.0), first_come(jobs, 0.0)
    ends = [begun + job.seconds for begun, job in zip(course.begun, jobs, strict=True)]
    theirs = [begun + job.seconds for begun, job in zip(fifo.begun, jobs, strict=True)]
    assert max(ends) == pytest.approx(max(theirs))


@pytest.mark.parametrize(
    ("switch", "seconds", "passes"), [(0.035, 3.0, 1), (0.035, 0.1, 7), (8.5, 3.0, 16)]
)
def test_a_flood_delays_anothers_single_job_by_at_most_the_bound(
    switch: float, seconds: float, passes: int
) -> None:
    """1,000 jobs of one app: another's job waits for the one that runs, for at most K that
    overtake it, and for its own model's switch."""
    world = World(Dispatcher())
    world.dispatcher.teach("rare", seconds, switch, None)
    world.submit(*["common"] * 1000, app="flood")
    world.advance(switch)
    world.load()
    for _ in range(10):
        world.finish(seconds)
    world.advance(seconds / 3)
    (single,) = world.submit("rare", app="single")
    came = world.now
    while single not in world.runs:
        if world.loading():
            world.advance(switch)
            world.load()
        else:
            world.finish(min(seconds, seconds * 2 / 3 if world.now == came else seconds))
    assert world.now - came <= seconds * 2 / 3 + passes * seconds + switch + ROUNDING
    assert world.dispatcher.waiting_count > 950


def test_a_flood_of_the_same_model_delays_it_by_the_running_job_alone() -> None:
    world = World(Dispatcher())
    world.submit(*["echo"] * 1000, app="flood")
    world.load()
    for _ in range(10):
        world.finish(1.0)
    (single,) = world.submit("echo", app="single")
    world.finish(1.0)
    assert world.runs[-1] == single


def test_a_flood_costs_one_event_no_more_than_a_few_jobs_do() -> None:
    """Counted in calls of functions, not in seconds."""

    def calls_of(per_app: int) -> int:
        world = World(Dispatcher())
        for number in range(50):
            world.submit(*[f"model-{number % 3}"] * per_app, app=f"app-{number}")
        world.load()
        count = 0

        def note(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        ((epoch, job_id),) = world.running().items()
        sys.setprofile(note)
        try:
            world.dispatcher.handle(Submitted("new", "model-0", "app-7"), world.now)
            world.dispatcher.handle(Finished(epoch, job_id, None, reusable=True), world.now)
        finally:
            sys.setprofile(None)
        return count

    assert calls_of(200) <= 1.1 * calls_of(2)
