"""The client for event loops. What it shares with the blocking one is tested there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hermetic import (
    AsyncClient,
    GenerationFailed,
    JobSucceeded,
    JobUpdate,
    ResultTimeout,
    UnknownJob,
    _connection,
)
from hermetic._link import probe
from hermetic_wire.messages import Cancel, JobRunning, Submit
from unit.client.fake_daemon import FakeDaemon


def test_many_jobs_at_once_keep_their_results(daemon: FakeDaemon) -> None:
    async def scenario() -> list[int]:
        async with AsyncClient(daemon.path) as client:
            results = await asyncio.gather(
                *(client.generate("a", model="demo-sd15", seed=seed) for seed in range(30))
            )
        return [result.pixels[0][0] for result in results]

    assert asyncio.run(scenario()) == list(range(30))


def test_a_job_is_iterated_and_awaited(daemon: FakeDaemon) -> None:
    async def scenario() -> None:
        async with AsyncClient(daemon.path) as client:
            job = await client.submit("a", model="demo-sd15")
            updates = [update async for update in job]
            again = [update async for update in await client.job(job.id)]
            assert isinstance(updates[-1], JobSucceeded)
            assert updates[-1] == again[-1]
            assert (await (await client.load("demo-sd15")).result()).images == []
            with pytest.raises(GenerationFailed):
                await client.generate("fail", model="demo-sd15")
            with pytest.raises(ResultTimeout):
                await client.generate("wait", model="demo-sd15", timeout=0.01)

    asyncio.run(scenario())


def test_a_cancelled_generate_cancels_its_job(daemon: FakeDaemon) -> None:
    async def scenario() -> None:
        running = asyncio.Event()

        def note(update: JobUpdate) -> None:
            if isinstance(update, JobRunning):
                running.set()

        async with AsyncClient(daemon.path) as client:
            drawing = asyncio.create_task(
                client.generate("wait", model="demo-sd15", job_id="mine", on_update=note)
            )
            await running.wait()
            drawing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await drawing

    asyncio.run(scenario())
    assert daemon.await_request(Submit).job_id == "mine"
    assert daemon.await_request(Cancel).job_id == "mine"


def test_a_job_given_up_while_the_daemon_is_away_is_cancelled_when_it_is_back(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        running, away = asyncio.Event(), asyncio.Event()

        def note(update: JobUpdate) -> None:
            if isinstance(update, JobRunning):
                running.set()

        def look(path: Path) -> None:
            away.set()
            probe(path)

        async with AsyncClient(daemon.path) as client:
            drawing = asyncio.create_task(
                client.generate("wait", model="demo-sd15", job_id="mine", on_update=note)
            )
            await running.wait()
            monkeypatch.setattr(_connection, "probe", look)
            daemon.stop()
            await away.wait()
            drawing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await drawing
            daemon.start()
            cancel = await asyncio.to_thread(daemon.await_request, Cancel)
            assert cancel.job_id == "mine"

    asyncio.run(scenario())


def test_a_job_given_up_before_its_daemon_could_accept_it_is_cancelled_by_the_next(
    daemon: FakeDaemon,
) -> None:
    async def scenario() -> None:
        async with AsyncClient(daemon.path) as client:
            await client.status()
            daemon.mute = True
            drawing = asyncio.create_task(client.generate("wait", model="demo-sd15", job_id="mine"))
            await asyncio.to_thread(daemon.await_request, Submit)
            daemon.stop()
            drawing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await drawing
            daemon.mute = False
            daemon.start()
            cancel = await asyncio.to_thread(daemon.await_request, Cancel)
            assert cancel.job_id == "mine"

    asyncio.run(scenario())


def test_a_job_is_submitted_while_it_is_asked_for_in_vain(daemon: FakeDaemon) -> None:
    async def scenario() -> None:
        async with AsyncClient(daemon.path) as client:
            await client.status()
            asking = asyncio.create_task(client.job("mine"))
            drawing = asyncio.create_task(client.submit("a", model="demo-sd15", job_id="mine"))
            with pytest.raises(UnknownJob):
                await asking
            result = await (await drawing).result(timeout=10)
            assert len(result.images) == 1

    asyncio.run(scenario())


def test_an_app_that_raises_a_timeout_of_its_own_gets_that(daemon: FakeDaemon) -> None:
    def fall(update: JobUpdate) -> None:
        if isinstance(update, JobSucceeded):
            raise TimeoutError("of the app")

    async def scenario() -> None:
        async with AsyncClient(daemon.path) as client:
            with pytest.raises(TimeoutError, match="of the app"):
                await client.generate("a", model="demo-sd15", on_update=fall)

    asyncio.run(scenario())


def test_a_client_that_was_never_used_is_closed(daemon: FakeDaemon) -> None:
    async def scenario() -> None:
        async with AsyncClient(daemon.path):
            pass

    asyncio.run(scenario())
