"""What apps ask at an awkward moment or too much of, and what they are answered."""

from __future__ import annotations

import asyncio
from contextlib import closing

import psutil
import pytest

from hermetic import (
    AsyncClient,
    Client,
    InvalidParameter,
    JobCancelled,
    JobStep,
    QueueFull,
    StoreUnavailable,
)
from hermetic_wire.generation import TextToImage
from hermetic_wire.messages import (
    Accepted,
    Cancel,
    Done,
    FromDaemon,
    JobFailed,
    Rejected,
    Submit,
    from_app,
)
from support.daemon import RunningDaemon
from support.raw_app import RawApp

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


def test_a_task_that_no_message_could_hold_is_refused_and_wedges_nothing(client: Client) -> None:
    """With its seeds filled in it would fit into none that goes to the worker."""
    prompts = ["a" * 262_000] * 4
    with pytest.raises(InvalidParameter, match=r"at most 983,040 are allowed"):
        client.submit(prompts, model="echo", n=16, width=8, height=8)
    assert client.generate("others go on", model="echo").images


def test_the_largest_task_is_done_like_any_other(client: Client) -> None:
    prompts = ["a" * 245_500] * 4
    made = client.generate(prompts, model="echo", n=16, width=8, height=8)
    assert len(made.images) == 64


def test_jobs_that_come_all_at_once_are_no_more_than_one_app_may_have() -> None:
    async def burst(daemon: RunningDaemon) -> list[object]:
        async with AsyncClient(daemon.endpoint, app="test") as client:
            await client.pause()
            jobs = [client.submit("a", model="echo") for _ in range(100)]
            return list(await asyncio.gather(*jobs, return_exceptions=True))

    with RunningDaemon("[daemon]\napp_queue_limit = 5\n") as daemon:
        told = asyncio.run(burst(daemon))
        refused = [one for one in told if isinstance(one, Exception)]
        assert len(refused) == 95
        assert {type(one) for one in refused} == {QueueFull}
        with daemon.client() as client:
            assert client.status().queued == 5


def test_a_job_can_be_cancelled_while_it_is_written_down(daemon: RunningDaemon) -> None:
    """Each cancel is sent right behind its submit, long before a commit can be over."""
    task = TextToImage(prompts=("a",), steps=1000, extra={"step_seconds": 0.02})
    told: list[FromDaemon] = []
    with closing(RawApp(daemon)) as app:
        for number in range(0, 40, 2):
            job_id = f"job-{number}"
            app.say(*from_app.encode(Submit(seq=number, job_id=job_id, model="echo", task=task)))
            app.say(*from_app.encode(Cancel(seq=number + 1, job_id=job_id)))
        while sum(isinstance(one, JobFailed) for one in told) < 20:
            told.append(app.hear())
            assert not isinstance(told[-1], Rejected)
    assert {one.state for one in told if isinstance(one, JobFailed)} == {"cancelled"}
    assert {one.seq for one in told if isinstance(one, Accepted)} == set(range(0, 40, 2))
    assert {one.seq for one in told if isinstance(one, Done)} == set(range(1, 40, 2))


def test_a_cancel_that_cannot_be_written_down_is_carried_out_and_not_promised() -> None:
    with RunningDaemon() as daemon, daemon.client() as client:
        job = client.submit("a", model="echo", steps=1000, step_seconds=0.02)
        next(update for update in job if isinstance(update, JobStep))
        psutil.Process(daemon.pid).rlimit(psutil.RLIMIT_FSIZE, (0, -1))  # a full disk
        with pytest.raises(StoreUnavailable, match=r"is being cancelled.*cancel it again"):
            job.cancel()
        with pytest.raises(JobCancelled):
            job.result(30)
        daemon.kill()
        daemon.restart()
        again = client.job(job.id)
        again.cancel()
        with pytest.raises(JobCancelled):
            again.result(30)
