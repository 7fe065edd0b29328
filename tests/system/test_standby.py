"""A worker that waits without a model: taken at the switch, made again, and missed by nobody."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hermetic import Client, Result
from hermetic_wire.messages import JobStep, WorkerRow
from support.daemon import RunningDaemon
from support.processes import gone, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

SERVING_SECONDS = 60.0
ORPHAN_SECONDS = 2.0
"""The promise: that long after a SIGKILL of the daemon nothing of it exists."""
SETTINGS: dict[str, Any] = {"seed": 11, "guidance": 7.5, "width": 64, "height": 64}
OTHER = {"tiny-sd15": "tiny-sdxl", "tiny-sdxl": "tiny-sd15"}


def running(tiny: dict[str, Path]) -> RunningDaemon:
    sections = [f'[models.{name}]\npath = "{path}"\n' for name, path in tiny.items()]
    config = '[worker]\nstandby = "on"\n' + "".join(sections)
    return RunningDaemon(config, start_method="fork")


@pytest.fixture(scope="module")
def keeping(tiny: dict[str, Path]) -> Iterator[RunningDaemon]:
    """A daemon that keeps a standby; one for all tests, because of its template."""
    with running(tiny) as daemon:
        yield daemon


def standbys(client: Client) -> list[WorkerRow]:
    return [row for row in client.workers() if row.state == "standby"]


def standby(client: Client) -> WorkerRow:
    """The one that waits, once it does."""
    until(lambda: len(standbys(client)) == 1, SERVING_SECONDS, "a standby waits")
    (row,) = standbys(client)
    return row


def gone_from(client: Client, pid: int) -> bool:
    return all(row.pid != pid for row in client.workers())


def draw(client: Client, model: str) -> Result:
    return client.generate("a red circle", model=model, steps=2, **SETTINGS)


def other_model(client: Client) -> str:
    """One that is not loaded, so that to draw it takes a switch."""
    loaded = {row.model for row in client.workers()}
    return next(name for name in OTHER if name not in loaded)


def test_the_standby_is_taken_at_the_switch_and_another_one_comes_when_it_is_quiet(
    keeping: RunningDaemon,
) -> None:
    with keeping.client() as client:
        draw(client, "tiny-sd15")
        for _ in range(2):
            waiting = standby(client)
            assert (waiting.model, waiting.start_method) == ("", "fork")
            assert "prepare" in waiting.timings
            result = draw(client, other_model(client))
            assert (result.worker.pid, result.worker.epoch) == (waiting.pid, waiting.epoch)
            assert "switch" in result.timings
            assert standby(client).pid != waiting.pid


def test_the_standby_draws_what_a_new_worker_draws(keeping: RunningDaemon) -> None:
    with keeping.client() as client:
        model = other_model(client)
        waiting = standby(client)
        first = draw(client, model)
        assert first.worker.pid == waiting.pid
        killed = standby(client).pid
        os.kill(killed, signal.SIGKILL)
        until(lambda: gone_from(client, killed), SERVING_SECONDS, "its end is noticed")
        client.unload(model)
        second = draw(client, model)
        assert second.worker.pid != first.worker.pid
        assert second.pixels == first.pixels


def test_a_standby_killed_in_mid_job_is_missed_by_nobody(keeping: RunningDaemon) -> None:
    with keeping.client() as client:
        draw(client, "tiny-sd15")
        waiting = standby(client)
        job = client.submit("a red circle", model="tiny-sd15", steps=100, **SETTINGS)
        next(update for update in job if isinstance(update, JobStep))
        os.kill(waiting.pid, signal.SIGKILL)
        until(lambda: not standbys(client), 20, "its death is known")
        assert job.result(60).images
        result = draw(client, "tiny-sdxl")
        assert result.images
        assert result.worker.pid != waiting.pid
        assert standby(client).pid != waiting.pid


def test_nothing_outlives_a_daemon_that_is_killed_and_another_ends_in_order(
    tiny: dict[str, Path],
) -> None:
    """Its template, the spare that was just waiting, the standby and the worker."""
    with running(tiny) as daemon:
        with daemon.client() as client:
            draw(client, "tiny-sd15")
            standby(client)
        left = [process.pid for process in daemon.processes()]
        assert len(left) >= 4
        daemon.kill()
        until(lambda: all(map(gone, left)), ORPHAN_SECONDS, "all are gone")
        assert not daemon.processes()
        daemon.restart()
        with daemon.client() as client:
            draw(client, "tiny-sd15")
            standby(client)
        left = [process.pid for process in daemon.processes()]
        assert len(left) >= 4
        assert daemon.end() == 0
        assert all(map(gone, left)), "they are gone before it is"
