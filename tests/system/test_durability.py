"""kill -9 of the daemon at every commit and every state of its protocols: nothing is lost.

The points are those of `hermetic_daemon.faults`, all of them, each reached on purpose.
"""

from __future__ import annotations

import concurrent.futures
import json
import secrets
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from hermetic import Client, DaemonUnreachable, Job, JobCancelled
from hermetic_daemon.faults import POINTS
from hermetic_worker.pipelines.echo import colour
from support.daemon import RunningDaemon

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

SIDE = 80
"""Of an image: too large for the journal, so that there is a file."""
LONG: dict[str, Any] = {"steps": 1000, "step_seconds": 0.02}


def config(directory: Path) -> str:
    """One model that is well, and one whose worker dies under the first job it is given."""
    once = {"crash_at_step": 1, "only_first_attempts": 1, "counter_file": str(directory / "count")}
    options = "".join(f"{name} = {json.dumps(value)}\n" for name, value in once.items())
    return (
        "[daemon]\nkeep_jobs = 2\n[worker]\nbackoff_seconds = 0.05\n"
        f'[models.fragile]\narchitecture = "echo"\n[models.fragile.options]\n{options}'
    )


def submit(client: Client, model: str, **asked: Any) -> Job:
    """A job that is accepted in the end. Who finds no daemon comes again, under the same id."""
    job_id = secrets.token_hex(16)
    while True:
        try:
            return client.submit("a", model=model, job_id=job_id, **asked)
        except DaemonUnreachable:
            time.sleep(0.01)  # the pace of an app that asks again


def draw(client: Client, model: str, seed: int) -> bytes:
    """One job from beginning to end, waited for whatever happens to the daemon meanwhile."""
    job = submit(client, model, seed=seed, steps=2, step_seconds=0.03, width=SIDE, height=SIDE)
    (pixels,) = job.result(100).pixels
    return bytes(pixels)


def be_cancelled(client: Client) -> bool:
    """Whether a job that was cancelled ends so."""
    job = submit(client, "echo", **LONG)
    job.cancel()
    try:
        job.result(100)
    except JobCancelled:
        return True
    return False


@pytest.mark.parametrize("point", [point for point in POINTS if point != "recovered"])
def test_the_daemon_is_killed(point: str, tmp_path: Path) -> None:
    with (
        RunningDaemon(
            config(tmp_path), misbehaving=True, environment={"HERMETIC_FAULT": point}
        ) as daemon,
        concurrent.futures.ThreadPoolExecutor() as threads,
    ):
        first = daemon.process
        reviving = threads.submit(daemon.revive)
        with daemon.client() as client:
            for seed in range(4):  # more than are kept
                assert draw(client, "echo", seed) == bytes(colour("a", seed)) * SIDE**2
            assert draw(client, "fragile", 9) == bytes(colour("a", 9)) * SIDE**2
            assert be_cancelled(client)
            reviving.result(100)
            assert draw(client, "echo", 5)
            assert first.returncode == -signal.SIGKILL, f"{point} was reached"
            assert {row.state for row in client.jobs()} <= {"succeeded", "cancelled"}


def test_the_daemon_is_killed_when_it_has_just_recovered() -> None:
    with RunningDaemon() as daemon, daemon.client() as client:
        jobs = [submit(client, "echo", steps=40, step_seconds=0.02) for _ in range(2)]
        daemon.kill()
        daemon.restart_and_fail("recovered")
        daemon.restart()
        for job in jobs:
            assert job.result(100).images
