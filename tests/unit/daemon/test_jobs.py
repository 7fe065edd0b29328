"""What is kept of ended jobs, and what is not."""

from __future__ import annotations

import pytest

from hermetic_daemon.jobs import App, Excess, Job, Jobs
from hermetic_daemon.overview import MAX_ROWS
from hermetic_wire import messages
from hermetic_wire.errors import GenerationFailed, UnknownJob
from hermetic_wire.generation import Image, Output, TextToImage
from hermetic_wire.messages import MAX_APP_NAME_BYTES

PIXEL = 3
"""Bytes."""


def ended(jobs: Jobs, name: str, pixels: int, at: float = 1.0) -> Job:
    job = Job(name, App("test", 0, 1), "echo", TextToImage(prompts=("a",)), 0.0)
    jobs.add(job)
    job.output = Output(images=(Image(width=pixels, height=1),) if pixels else ())
    job.ended_at = at
    jobs.close(job, "succeeded")
    return job


def test_a_job_that_is_forgotten_takes_its_pixels_along() -> None:
    jobs = Jobs(keep_jobs=2, keep_bytes=1 << 20, keep_seconds=1000)
    for number in range(5):
        ended(jobs, f"job-{number}", pixels=100)
    assert jobs.trim(2.0) == Excess(("job-0", "job-1", "job-2"))
    assert jobs.pixel_bytes == 200 * PIXEL
    with pytest.raises(UnknownJob):
        jobs.find("job-2")
    assert [job.id for job in jobs.newest_ended()] == ["job-4", "job-3"]


def test_a_forgotten_job_without_pixels_takes_nobody_elses() -> None:
    jobs = Jobs(keep_jobs=2, keep_bytes=1 << 20, keep_seconds=1000)
    ended(jobs, "without", pixels=0)
    kept = [ended(jobs, f"job-{number}", pixels=100) for number in range(2)]
    assert jobs.trim(2.0) == Excess(("without",))
    assert not any(job.dropped for job in kept)


def test_old_pixels_go_first_and_the_newest_stay_whatever_their_size() -> None:
    jobs = Jobs(keep_jobs=10, keep_bytes=150 * PIXEL, keep_seconds=1000)
    first, second, large = (
        ended(jobs, name, size) for name, size in (("a", 100), ("b", 40), ("c", 1000))
    )
    excess = jobs.trim(2.0)
    assert set(excess.pixels) == {"a", "b"}
    assert excess.jobs == ()
    assert (first.dropped, second.dropped, large.dropped) == (True, True, False)
    assert jobs.find("a") is first


def test_an_old_job_goes_even_when_there_is_room() -> None:
    jobs = Jobs(keep_jobs=10, keep_bytes=1 << 20, keep_seconds=60)
    ended(jobs, "old", pixels=1, at=10.0)
    ended(jobs, "new", pixels=1, at=50.0)
    assert jobs.trim(69.0) == Excess()
    assert jobs.trim(71.0) == Excess(("old",))
    assert jobs.trim(71.0) == Excess()


def test_a_job_that_was_begun_in_time_does_not_expire() -> None:
    """The next daemon begins it again: it was interrupted, or its pixels were lost."""
    job = Job("a", App("test", 0, 1), "echo", TextToImage(prompts=("a",)), 0.0, expires_at=5.0)
    assert job.arrival().expires_at is not None
    job.attempts = 1
    assert job.arrival().expires_at is None


def test_a_thousand_rows_fit_into_one_message_whatever_they_say() -> None:
    app = App("n" * MAX_APP_NAME_BYTES, 2**32 - 1, 2**31 - 1)
    job = Job("i" * 64, app, "m" * 64, TextToImage(prompts=("a",)), 0.5, "normal", 0.5)
    job.attempts = job.step = job.steps = 2**31
    job.started_at = job.ended_at = 0.5
    job.error = GenerationFailed("\N{ARTIST PALETTE}" * 10_000, retry_after=0.5)
    rows = (job.row(2**31, 0.5, 0.5),) * MAX_ROWS
    messages.from_daemon.encode(messages.Jobs(seq=2**63, jobs=rows, omitted=2**31))


def test_a_share_is_an_apps_and_not_its_processes() -> None:
    assert App("krita", 7, 1).share == App("krita", 7, 2).share
    assert App("krita", 7, 1).share != App("krita", 8, 1).share
    assert App("", 7, 1).share != App("", 7, 2).share
