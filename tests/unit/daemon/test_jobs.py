"""What is kept of ended jobs, and what is not."""

from __future__ import annotations

import pytest

from hermetic_daemon.jobs import App, Job, Jobs
from hermetic_wire.errors import UnknownJob
from hermetic_wire.generation import TextToImage


def ended(jobs: Jobs, name: str, pixels: int) -> Job:
    job = Job(name, App("test", 0, 1), "echo", TextToImage(prompts=("a",)), 0.0)
    jobs.add(job)
    job.pixels = [bytes(pixels)] if pixels else None
    jobs.close(job, "succeeded", 1.0)
    return job


def test_a_job_that_is_forgotten_takes_its_pixels_along() -> None:
    jobs = Jobs(keep_jobs=2, keep_bytes=1 << 20)
    kept = [ended(jobs, f"job-{number}", pixels=100) for number in range(5)]
    assert [job.pixels is None for job in kept] == [True, True, True, False, False]
    with pytest.raises(UnknownJob):
        jobs.find("job-2")
    assert [job.id for job in jobs.newest_ended()] == ["job-4", "job-3"]


def test_a_forgotten_job_without_pixels_takes_nobody_elses() -> None:
    jobs = Jobs(keep_jobs=2, keep_bytes=1 << 20)
    ended(jobs, "without", pixels=0)
    kept = [ended(jobs, f"job-{number}", pixels=100) for number in range(2)]
    assert all(job.pixels for job in kept)


def test_old_pixels_go_first_and_the_newest_stay_whatever_their_size() -> None:
    jobs = Jobs(keep_jobs=10, keep_bytes=150)
    first, second, large = (
        ended(jobs, name, size) for name, size in (("a", 100), ("b", 40), ("c", 1000))
    )
    assert (first.pixels, second.pixels) == (None, None)
    assert large.pixels
    assert jobs.find("a") is first
