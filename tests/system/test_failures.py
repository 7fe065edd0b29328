"""The failure table of the design, line by line: what the app sees and what the daemon does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from hermetic import (
    Client,
    JobCancelled,
    JobExpired,
    JobInterrupted,
    OutOfMemory,
    Quarantined,
    StoreUnavailable,
    UnknownJob,
)
from hermetic_wire.messages import JobRetrying, JobRow, JobStep
from support.daemon import RunningDaemon
from support.processes import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

QUICKLY = "[worker]\nbackoff_seconds = 0.05\ncancel_seconds = 0.5\nstep_seconds = 2.0\n"
SLOWLY = "[worker]\nbackoff_seconds = 3600\nbackoff_limit_seconds = 3600\n"
LONG: dict[str, Any] = {"steps": 1000, "step_seconds": 0.05}


def model(name: str, **options: float | str) -> str:
    """A section for a model of the chaos worker."""
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in options.items())
    return f'[models.{name}]\narchitecture = "echo"\n[models.{name}.options]\n{lines}'


def once(directory: Path) -> dict[str, float | str]:
    """Options: the first attempt only."""
    return {"only_first_attempts": 1, "counter_file": str(directory / "count")}


def chaos(config: str) -> RunningDaemon:
    return RunningDaemon(config, misbehaving=True)


def row_of(client: Client, job_id: str) -> JobRow:
    return next(row for row in client.jobs() if row.id == job_id)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("crash_at_step", "SIGSEGV"),
        ("exit_at_step", "137"),
        ("kill_at_step", "SIGKILL"),
        ("hang_at_step", "next step"),
        ("hold_gil_at_step", "next step"),
        ("stop_at_step", "next step"),
        ("lose_device_at_step", "lost its device"),
    ],
)
def test_a_worker_ends_or_hangs_and_the_job_is_told_and_tried_once_more(
    how: str, words: str, tmp_path: Path
) -> None:
    config = QUICKLY + model("fragile", **{how: 2}, **once(tmp_path))
    with chaos(config) as daemon, daemon.client() as client:
        job = client.submit("a", model="fragile", steps=4, seed=5, step_seconds=0.01)
        seen = list(job)
        (told,) = [update for update in seen if isinstance(update, JobRetrying)]
        assert words in told.error.message
        assert told.error.report
        result = job.result(30)
        assert result.worker.epoch > 1, "by another worker"
        assert result.pixels == client.generate("a", model="echo", steps=4, seed=5).pixels
        assert row_of(client, job.id).attempts == 2


def test_a_model_whose_worker_has_crashed_pauses_and_the_others_go_on(tmp_path: Path) -> None:
    with chaos(SLOWLY + model("fragile", crash_at_step=1)) as daemon, daemon.client() as client:
        job = client.submit("a", model="fragile")
        next(update for update in job if isinstance(update, JobRetrying))
        assert client.generate("a", model="echo").images
        (waiting,) = [row for row in client.workers() if row.state == "waiting"]
        assert waiting.model == "fragile"
        assert 3000 < (waiting.retry_after or 0) <= 3600
        assert "SIGSEGV" in waiting.reason
        assert row_of(client, job.id).not_before
        job.cancel()
        with pytest.raises(JobCancelled):
            job.result(30)


def test_a_job_that_ends_a_second_worker_is_quarantined_also_after_a_restart() -> None:
    config = QUICKLY + model("fragile", crash_at_step=1, only_prompt="poison")
    with chaos(config) as daemon, daemon.client() as client:
        job = client.submit("poison", model="fragile")
        healthy = client.submit("water", model="fragile")
        with pytest.raises(Quarantined) as quarantined:
            job.result(30)
        assert (quarantined.value.report or "").count("SIGSEGV") >= 2
        assert healthy.result(30).images
        daemon.kill()
        daemon.restart()
        with pytest.raises(Quarantined):
            client.job(job.id).result(30)
        with pytest.raises(Quarantined):
            client.generate("poison", model="fragile", job_id=job.id)
        assert row_of(client, job.id).attempts == 2


def test_a_device_that_is_lost_in_every_load_costs_the_job_that_caused_them() -> None:
    config = QUICKLY + model("fragile", lose_device_in_load=True)
    with chaos(config) as daemon, daemon.client() as client:
        with pytest.raises(Quarantined) as quarantined:
            client.generate("a", model="fragile")
        assert (quarantined.value.report or "").count("illegal memory access") >= 2
        assert client.generate("a", model="echo").images


def test_a_worker_death_before_a_restart_counts_after_it() -> None:
    with chaos(SLOWLY + model("fragile", crash_at_step=1)) as daemon, daemon.client() as client:
        job = client.submit("a", model="fragile")
        next(update for update in job if isinstance(update, JobRetrying))
        daemon.kill()
        daemon.restart()
        with pytest.raises(Quarantined):
            job.result(30)


def test_memory_that_runs_out_is_retried_in_the_low_memory_profile() -> None:
    config = QUICKLY + model("large", out_of_memory_at_step=2)
    with chaos(config) as daemon, daemon.client() as client:
        job = client.submit("a", model="large", steps=4)
        (told,) = [update for update in job if isinstance(update, JobRetrying)]
        assert told.error.code == OutOfMemory.code
        assert job.result(30).images
        (row,) = client.workers()
        assert row.low_memory


def test_memory_that_runs_out_twice_is_an_error_with_figures() -> None:
    config = QUICKLY + model("large", out_of_memory_always=True)
    with chaos(config) as daemon, daemon.client() as client:
        with pytest.raises(OutOfMemory, match=r"GiB|MiB|bytes"):
            client.generate("a", model="large", steps=4)
        assert client.generate("a", model="echo").images


def test_a_daemon_that_dies_under_a_job_again_and_again_leaves_it_interrupted() -> None:
    with RunningDaemon() as daemon, daemon.client() as client:
        job = client.submit("a", model="echo", **LONG)
        for _ in range(3):
            until(lambda: row_of(client, job.id).step > 0, 30, "it runs")
            daemon.kill()
            daemon.restart()
        with pytest.raises(JobInterrupted, match="3 times"):
            job.result(30)


APP = """
import sys
from hermetic import Client
client = Client(sys.argv[1], app="gone soon")
for on_disconnect in ("keep", "cancel"):
    job = client.submit("a", model="echo", steps=60, step_seconds=0.05, on_disconnect=on_disconnect)
    print(job.id, flush=True)
sys.stdin.readline()
if sys.argv[2] == "close":
    client.close()
    sys.stdin.readline()
"""


@pytest.mark.parametrize("how", ["killed", "close"])
def test_an_app_that_goes_away_leaves_the_jobs_that_it_asked_to_keep(how: str) -> None:
    with (
        RunningDaemon() as daemon,
        daemon.client() as client,
        subprocess.Popen(
            [sys.executable, "-c", APP, str(daemon.endpoint), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as app,
    ):
        assert app.stdin is not None
        assert app.stdout is not None
        kept, cancelled = (app.stdout.readline().strip() for _ in range(2))
        if how == "killed":
            app.kill()
        else:
            app.stdin.write("\n")
            app.stdin.flush()
        until(lambda: row_of(client, cancelled).state == "cancelled", 30, "it is cancelled")
        assert client.job(kept).result(60).images
        app.kill()


def test_an_app_that_does_not_come_back_after_a_restart_loses_only_what_should_not_outlive_it() -> (
    None
):
    """The grace after a restart is long; an app that is back in time keeps its job."""
    with RunningDaemon() as daemon, daemon.client() as client:
        job = client.submit("a", model="echo", steps=60, step_seconds=0.05, on_disconnect="cancel")
        next(update for update in job if isinstance(update, JobStep))
        daemon.kill()
        daemon.restart()
        assert job.result(60).images


def limit_file_size(daemon: RunningDaemon, size: int) -> None:
    """The disk is full, as far as the daemon can tell: prlimit(2)."""
    psutil.Process(daemon.pid).rlimit(psutil.RLIMIT_FSIZE, (size, -1))


def test_a_full_disk_refuses_new_jobs_in_words_and_loses_none_that_it_has() -> None:
    with RunningDaemon() as daemon, daemon.client() as client:
        running = client.submit("a", model="echo", steps=40, step_seconds=0.05, seed=5)
        next(update for update in running if isinstance(update, JobStep))
        limit_file_size(daemon, 0)
        with pytest.raises(StoreUnavailable) as refused:
            client.submit("b", model="echo")
        assert refused.value.retry_after
        expected = running.result(30).pixels
        store = client.status().store
        assert store is not None
        assert store.state == "failing"
        assert store.reason
        limit_file_size(daemon, -1)
        until(lambda: _writes(client), 30, "the disk has room again")
        assert client.generate("b", model="echo").images
        daemon.kill()
        daemon.restart()
        assert client.job(running.id).result(30).pixels == expected


@pytest.mark.parametrize("steps", [1, 1000])
def test_a_job_that_has_begun_and_cannot_be_written_down_never_was(steps: int) -> None:
    """Whether it has ended by then or not: one that draws for 50 s does not keep the device."""
    with RunningDaemon() as daemon, daemon.client() as client:
        kept = client.generate("warm", model="echo")
        for _ in range(3):
            limit_file_size(daemon, 0)
            asked: dict[str, Any] = {"steps": steps, "step_seconds": 0.05 if steps > 1 else 0}
            with pytest.raises(StoreUnavailable):
                client.submit("a", model="echo", job_id="mine", **asked)
            with pytest.raises(UnknownJob):
                client.job("mine")
            limit_file_size(daemon, -1)
            until(lambda: _writes(client), 30, "the disk has room again")
            assert client.generate("b", model="echo", expires_in=30).images
        assert [row.state for row in client.jobs()] == ["succeeded"] * 4
        again = client.generate("a", model="echo", job_id="mine")
        daemon.kill()
        daemon.restart()
        assert client.job("mine").result(30).pixels == again.pixels
        assert kept.images


def _writes(client: Client) -> bool:
    store = client.status().store
    return store is not None and store.state == "writing"


def test_a_journal_that_cannot_be_read_stops_the_start_and_names_the_way_out() -> None:
    with RunningDaemon() as daemon:
        with daemon.client() as client:
            client.generate("a", model="echo")
        daemon.end()
        journal = daemon.directory / "state" / "jobs.sqlite3"
        journal.write_bytes(b"nothing like it " * 4096)
        with pytest.raises(AssertionError, match="--set-store-aside"):
            daemon.restart()
        daemon.restart("--set-store-aside")
        with daemon.client() as client:
            assert client.generate("a", model="echo").images
        kept = [file for file in daemon.directory.rglob("jobs.sqlite3") if file != journal]
        assert any(b"nothing like it" in file.read_bytes() for file in kept)


def test_the_same_job_twice_is_the_same_job_also_after_a_restart() -> None:
    with RunningDaemon() as daemon, daemon.client() as client:
        first = client.generate("a", model="echo", job_id="mine")
        daemon.kill()
        daemon.restart()
        again = client.generate("something else", model="echo", job_id="mine")
        assert again.pixels == first.pixels
        assert again.worker == first.worker
        assert len(client.jobs()) == 1


def test_a_daemon_that_is_killed_leaves_what_it_has_measured_to_the_next_one() -> None:
    """From its very first job on, though that ended just after a load had been written down."""
    with RunningDaemon() as daemon, daemon.client() as client:
        client.generate("a", model="echo", steps=4, step_seconds=0.02)
        client.generate("b", model="echo")  # is written down after what was measured of the first
        daemon.kill()
        daemon.restart()
        client.pause()
        job = client.submit("a", model="echo")
        estimate = row_of(client, job.id).estimate_s
        assert estimate is not None
        assert estimate > 0.08, "the job's own time and its load"


def test_a_job_that_does_not_start_in_time_expires() -> None:
    with RunningDaemon() as daemon, daemon.client() as client:
        running = client.submit("a", model="echo", **LONG)
        next(update for update in running if isinstance(update, JobStep))
        late = client.submit("b", model="echo", expires_in=0.2)
        with pytest.raises(JobExpired):
            late.result(30)
        running.cancel()


def test_a_paused_queue_takes_jobs_and_begins_none_also_after_a_restart() -> None:
    with RunningDaemon() as daemon, daemon.client() as client:
        client.pause()
        job = client.submit("a", model="echo")
        assert client.status().paused
        daemon.kill()
        daemon.restart()
        assert client.status().paused
        assert row_of(client, job.id).state == "queued"
        assert not client.workers()
        client.resume()
        assert job.result(30).images


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_jobs_outlive_the_daemon_and_their_app_just_waits(end: signal.Signals) -> None:
    with RunningDaemon() as daemon, daemon.client() as client:
        jobs = [
            client.submit("a", model="echo", steps=20, step_seconds=0.05, seed=seed)
            for seed in range(3)
        ]
        next(update for update in jobs[0] if isinstance(update, JobStep))
        os.kill(daemon.pid, end)
        daemon.revive()
        for seed, job in enumerate(jobs):
            assert job.result(60).seeds == [seed]


def test_sigterm_lets_the_running_job_finish_within_its_budget() -> None:
    environment = {"HERMETIC_DAEMON__DRAIN_SECONDS": "30"}
    with RunningDaemon(environment=environment) as daemon, daemon.client() as client:
        running = client.submit("a", model="echo", steps=10, step_seconds=0.05)
        waiting = client.submit("b", model="echo")
        next(update for update in running if isinstance(update, JobStep))
        daemon.process.send_signal(signal.SIGTERM)
        assert running.result(30).images
        daemon.revive()
        assert row_of(client, running.id).attempts == 1
        assert waiting.result(30).images


def test_a_hung_load_is_retried_and_then_quarantined() -> None:
    config = QUICKLY.replace("step_seconds", "load_seconds") + model("stuck", hang_in_load=True)
    with chaos(config) as daemon, daemon.client() as client:
        with pytest.raises(Quarantined, match="load"):
            client.generate("a", model="stuck")
        assert client.generate("next", model="echo").images


def test_a_job_that_loses_a_second_device_is_quarantined() -> None:
    config = QUICKLY + model("fragile", lose_device_at_step=2)
    with chaos(config) as daemon, daemon.client() as client:
        job = client.submit("a", model="fragile", steps=4)
        (told,) = [update for update in job if isinstance(update, JobRetrying)]
        assert "lost its device" in told.error.message
        with pytest.raises(Quarantined) as quarantined:
            job.result(30)
        assert (quarantined.value.report or "").count("AcceleratorError: CUDA error") >= 2
        assert row_of(client, job.id).attempts == 2


def test_a_device_that_is_lost_in_a_load_costs_no_job_that_waits_for_the_model(
    tmp_path: Path,
) -> None:
    config = QUICKLY + model("fragile", lose_device_in_load=True, **once(tmp_path))
    with chaos(config) as daemon, daemon.client() as client:
        client.pause()
        jobs = [client.submit("a", model="fragile") for _ in range(3)]
        client.resume()
        told = [update for update in jobs[0] if isinstance(update, JobRetrying)]
        assert len(told) == 1
        assert all(job.result(30).images for job in jobs)
