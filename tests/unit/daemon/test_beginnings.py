"""That a job runs is told late, or not at all, and never out of its turn."""

from __future__ import annotations

from collections.abc import Callable, Coroutine

from hermetic_daemon.beginnings import DELAY_SECONDS, Beginnings
from hermetic_daemon.jobs import App, Job
from hermetic_wire.generation import TextToImage
from hermetic_wire.messages import JobRunning
from support.clock import ClockLoop, advance, timed

Told = list[tuple[str, int]]
"""Job and epoch."""
Play = Callable[[Beginnings, Told], Coroutine[None, None, None]]
LONG = 60.0
"""Seconds, against which those of the test itself do not count."""


def begin(beginnings: Beginnings, name: str, epoch: int = 1) -> None:
    job = Job(name, App("test", 0, 1), "echo", TextToImage(prompts=("a",)), 0.0)
    beginnings.put(job, JobRunning(job_id=name, epoch=epoch, pid=7))


def follow(play: Play) -> Told:
    """What was told in the end."""
    told: Told = []

    async def run() -> None:
        loop = ClockLoop.get_running()
        await play(Beginnings(loop, lambda job, news: told.append((job.id, news.epoch))), told)

    timed(run())
    return told


def test_of_a_job_that_runs_for_a_moment_it_is_told() -> None:
    async def play(beginnings: Beginnings, told: Told) -> None:
        begin(beginnings, "a")
        begin(beginnings, "b")
        assert told == []
        await advance(DELAY_SECONDS)

    assert follow(play) == [("a", 1), ("b", 1)]


def test_of_a_job_that_has_ended_nothing_is_told() -> None:
    async def play(beginnings: Beginnings, told: Told) -> None:
        begin(beginnings, "a")
        begin(beginnings, "b")
        beginnings.drop("a")
        beginnings.drop("unknown")
        await advance(LONG)

    assert follow(play) == [("b", 1)]


def test_other_news_of_the_job_come_after_its_beginning() -> None:
    async def play(beginnings: Beginnings, told: Told) -> None:
        begin(beginnings, "a")
        begin(beginnings, "b")
        beginnings.tell_now("b")
        assert told == [("b", 1)]
        beginnings.tell_now("b")
        await advance(LONG)

    assert follow(play) == [("b", 1), ("a", 1)]


def test_a_job_that_begins_again_is_told_of_once_and_does_not_hold_up_the_others() -> None:
    async def play(beginnings: Beginnings, told: Told) -> None:
        begin(beginnings, "a", epoch=1)
        begin(beginnings, "b", epoch=1)
        begin(beginnings, "a", epoch=2)
        await advance(LONG)
        begin(beginnings, "c", epoch=3)
        await advance(LONG)

    assert follow(play) == [("b", 1), ("a", 2), ("c", 3)]
