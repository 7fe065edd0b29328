"""Watching all jobs: over restarts, beside followed jobs, and until it is closed."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from hermetic import (
    AsyncClient,
    Client,
    DaemonUnreachable,
    JobEnded,
    JobForgotten,
    JobStep,
    JobSubmitted,
    JobSucceeded,
)
from hermetic_wire.messages import Bye, JobRunning, Watch
from unit.client.fake_daemon import FakeDaemon, row


def test_a_watcher_hears_of_open_jobs_then_of_what_happens(
    daemon: FakeDaemon, client: Client
) -> None:
    events = client.events(app="easel")
    assert next(events) == JobSubmitted(job_id="j", job=row("j"))
    assert daemon.await_request(Watch).app == "easel"
    daemon.say(JobRunning(job_id="j", epoch=1, pid=2))
    assert next(events) == JobRunning(job_id="j", epoch=1, pid=2)
    daemon.say(JobEnded(job_id="j", job=row("j", "succeeded")))
    assert next(events) == JobEnded(job_id="j", job=row("j", "succeeded"))


def test_a_watcher_over_a_restart_misses_no_end(daemon: FakeDaemon, client: Client) -> None:
    daemon.rows = [row("ends"), row("stays")]
    events = client.events()
    assert [next(events).job_id for _ in range(2)] == ["ends", "stays"]

    daemon.stop()
    daemon.rows = [row("stays"), row("ends", "failed", 9.0), row("never heard of", "failed", 9.0)]
    daemon.start()
    assert next(events) == JobSubmitted(job_id="stays", job=row("stays"))
    assert next(events) == JobEnded(job_id="ends", job=row("ends", "failed", 9.0))
    daemon.say(JobStep(job_id="stays", step=1, steps=2))
    assert next(events) == JobStep(job_id="stays", step=1, steps=2)


def test_a_watcher_hears_of_an_end_that_is_past_the_list(
    daemon: FakeDaemon, client: Client
) -> None:
    daemon.rows = [row("ends"), row("stays")]
    events = client.events()
    assert [next(events).job_id for _ in range(2)] == ["ends", "stays"]

    daemon.stop()
    daemon.listed = 1
    daemon.rows = [row("stays"), row("ends", "failed", 9.0)]
    daemon.start()
    assert next(events) == JobSubmitted(job_id="stays", job=row("stays"))
    assert next(events) == JobEnded(job_id="ends", job=row("ends", "failed", 9.0))


def test_a_watcher_hears_of_a_job_that_is_not_known_any_more(
    daemon: FakeDaemon, client: Client
) -> None:
    daemon.rows = [row("gone"), row("stays")]
    events = client.events()
    assert [next(events).job_id for _ in range(2)] == ["gone", "stays"]

    daemon.stop()
    daemon.rows = [row("stays")]
    daemon.start()
    assert next(events) == JobSubmitted(job_id="stays", job=row("stays"))
    assert next(events) == JobForgotten(job_id="gone")


def test_a_watcher_that_has_heard_nothing_yet_over_a_restart(
    daemon: FakeDaemon, client: Client
) -> None:
    daemon.rows = []
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, client.events())
        daemon.await_request(Watch)
        daemon.stop()
        daemon.rows = [row("new")]
        daemon.start()
        assert first.result() == JobSubmitted(job_id="new", job=row("new"))


def test_a_watch_takes_nothing_from_a_job_that_is_followed(client: Client) -> None:
    events = client.events()
    next(events)
    kinds = [type(update) for update in client.submit("a", model="demo-sd15")]
    assert kinds[-1] is JobSucceeded
    assert kinds.count(JobSucceeded) == 1


def test_leaving_a_watch_ends_its_connection(daemon: FakeDaemon, client: Client) -> None:
    for update in client.events():
        assert isinstance(update, JobSubmitted)
        break
    daemon.await_request(Bye)
    assert client.status().pid == 1


def test_closing_the_client_ends_its_watches(daemon: FakeDaemon) -> None:
    client = Client(daemon.path)
    events = client.events()
    next(events)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, events)
        client.close()
        with pytest.raises((DaemonUnreachable, RuntimeError), match="closed"):
            waiting.result()


def test_a_watch_of_a_daemon_that_stays_away(daemon: FakeDaemon) -> None:
    with Client(daemon.path, reconnect_timeout=0.05) as client:
        events = client.events()
        next(events)
        daemon.stop()
        try:
            with pytest.raises(DaemonUnreachable, match="did not come back"):
                next(events)
        finally:
            daemon.start()


def test_an_event_loop_watches_too(daemon: FakeDaemon) -> None:
    async def scenario() -> None:
        async with AsyncClient(daemon.path) as client:
            async for update in client.events():
                assert update == JobSubmitted(job_id="j", job=row("j"))
                break
            assert (await client.status()).pid == 1

    asyncio.run(scenario())
