"""Kill, stop and wedge real processes: what the app sees, and that everyone else goes on."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from hermetic import Client, GenerationFailed, JobCancelled, Quarantined
from hermetic import LoadFailed as LoadFailedError
from hermetic_wire.messages import JobLoading, JobRetrying, JobRunning, JobStep
from support.daemon import RunningDaemon
from support.processes import gone, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

LONG: dict[str, Any] = {"steps": 1000, "step_seconds": 0.05}
ORPHAN_SECONDS = 2.0
"""The promise: that long after a SIGKILL of the daemon none of its workers exists."""


def model(name: str, **options: float) -> str:
    """A section for a model of the misbehaving worker."""
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in options.items())
    return f'[models.{name}]\narchitecture = "echo"\n[models.{name}.options]\n{lines}'


def impatient(seconds: float) -> str:
    """Deadlines short enough for a test."""
    return f"[worker]\nstep_seconds = {seconds}\nload_seconds = {seconds}\ncancel_seconds = 0.5\n"


@pytest.mark.parametrize("state", ["starting", "loading", "ready", "running"])
def test_the_daemon_is_killed_and_none_of_its_workers_survives(state: str) -> None:
    config = model("slow", load_seconds=60)
    with RunningDaemon(config) as daemon, daemon.client() as client:
        name = "slow" if state in ("starting", "loading") else "echo"
        job = client.submit("a", model=name, **LONG if state == "running" else {})
        if state == "ready":
            job.result(30)
        until(lambda: [row.state for row in client.workers()] == [state], 30, state)
        (worker,) = daemon.workers()
        daemon.kill()
        until(lambda: gone(worker.pid), ORPHAN_SECONDS, f"the {state} worker is gone")
        assert not daemon.workers()


def test_a_stopped_worker_does_not_survive_its_daemon(daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        client.load("echo").result(30)
        (worker,) = daemon.workers()
        worker.suspend()
        daemon.kill()
        until(lambda: gone(worker.pid), ORPHAN_SECONDS, "the stopped worker is gone")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_worker_is_killed_in_mid_job(client: Client, number: signal.Signals) -> None:
    job = client.submit("a", model="echo", steps=20, step_seconds=0.05)
    next(update for update in job if isinstance(update, JobStep))
    (row,) = client.workers()
    os.kill(row.pid, number)
    told = next(update for update in job if isinstance(update, JobRetrying))
    assert number.name in told.error.message
    report = told.error.report or ""
    assert f"epoch {row.epoch}, pid {row.pid}" in report
    assert f"job: {job.id}" in report
    assert "memory resident" in report
    assert job.result(30).worker.epoch == row.epoch + 1


def test_a_worker_is_killed_while_it_idles_and_the_next_job_does_not_notice(
    client: Client,
) -> None:
    first = client.generate("a", model="echo", seed=5)
    os.kill(first.worker.pid, signal.SIGKILL)
    until(lambda: not client.workers(), 10, "the worker is gone")
    assert client.generate("a", model="echo", seed=5).pixels == first.pixels


def test_a_worker_is_killed_while_it_loads() -> None:
    with RunningDaemon(model("slow", load_seconds=60)) as daemon, daemon.client() as client:
        job = client.submit("a", model="slow")
        waiting = client.submit("b", model="echo")
        next(update for update in job if isinstance(update, JobLoading))
        until(lambda: [row.state for row in client.workers()] == ["loading"], 30, "it loads")
        (row,) = client.workers()
        os.kill(row.pid, signal.SIGKILL)
        told = next(update for update in job if isinstance(update, JobRetrying))
        assert "loading" in told.error.message
        assert waiting.result(30).images, "while the model of the other pauses"
        job.cancel()
        with pytest.raises(JobCancelled):
            job.result(30)


def test_a_pipeline_that_raises_costs_its_worker_and_nothing_else(client: Client) -> None:
    before = client.generate("a", model="echo").worker
    with pytest.raises(GenerationFailed) as failed:
        client.generate("a", model="echo", steps=4, fail_at_step=2)
    assert failed.value.report
    assert client.generate("a", model="echo").worker.epoch == before.epoch + 1


def test_a_stderr_flood_neither_blocks_the_worker_nor_fills_the_report() -> None:
    config = model("loud", flood_stderr=4_000_000, exit_at_step=2)
    with RunningDaemon(config, misbehaving=True) as daemon, daemon.client() as client:
        with pytest.raises(Quarantined) as died:
            client.generate("a", model="loud", steps=4)
        assert len(died.value.report or "") < 200_000


def test_cancel_ends_a_queued_a_loading_and_a_running_job() -> None:
    with RunningDaemon(model("slow", load_seconds=60)) as daemon, daemon.client() as client:
        running = client.submit("a", model="echo", **LONG)
        next(update for update in running if isinstance(update, JobStep))
        loading = client.submit("b", model="slow")
        queued = client.submit("c", model="echo")
        for job in (queued, running):
            job.cancel()
            with pytest.raises(JobCancelled):
                job.result(30)
        next(update for update in loading if isinstance(update, JobLoading))
        loading.cancel()
        with pytest.raises(JobCancelled):
            loading.result(30)
        assert client.generate("next", model="echo").images


def test_a_cancelled_job_leaves_its_worker_usable(client: Client) -> None:
    job = client.submit("a", model="echo", **LONG)
    running = next(update for update in job if isinstance(update, JobRunning))
    job.cancel()
    with pytest.raises(JobCancelled):
        job.result(30)
    assert client.generate("next", model="echo").worker.pid == running.pid


def test_cancel_is_a_guarantee_even_against_a_worker_that_hangs_and_ignores_sigterm() -> None:
    config = impatient(60) + model("deaf", ignore_sigterm=True, hang_at_step=2)
    with RunningDaemon(config, misbehaving=True) as daemon, daemon.client() as client:
        job = client.submit("a", model="deaf", steps=4)
        until(lambda: "misfortune: hang_at_step" in daemon.log.read_text(), 30, "it hangs")
        (row,) = client.workers()
        job.cancel()
        with pytest.raises(JobCancelled):
            job.result(30)
        assert gone(row.pid)
        assert "rung: kill" in daemon.log.read_text()
        assert client.generate("next", model="echo").images


def test_a_worker_that_cannot_be_started_is_an_error_in_words() -> None:
    environment = {"HERMETIC_WORKER__COMMAND": "/nonexistent/python -m hermetic_worker"}
    with RunningDaemon(environment=environment) as daemon, daemon.client() as client:
        with pytest.raises(LoadFailedError, match="/nonexistent/python"):
            client.generate("a", model="echo")
        assert client.status().state == "serving"
