"""Start, serve, end: what a user does with the daemon on an ordinary day."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest

from hermetic import (
    Client,
    DaemonUnreachable,
    QueueFull,
    ResultDropped,
    ShuttingDown,
    UnknownJob,
)
from hermetic_daemon.overview import MAX_ROWS
from hermetic_wire.messages import JobEnded, JobLoading, JobRunning, JobStep, JobSucceeded
from support.daemon import RunningDaemon
from support.processes import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


def test_a_job_yields_its_image_and_tells_who_made_it(client: Client) -> None:
    result = client.generate("a red circle", model="echo", seed=7, steps=3)
    assert [image.size for image in result.images] == [(64, 64)]
    assert list(result.seeds) == [7]
    (worker,) = client.workers()
    assert (result.worker.pid, result.worker.epoch) == (worker.pid, worker.epoch)
    assert worker.model == "echo"


def test_the_same_seed_gives_the_same_image_and_another_another(client: Client) -> None:
    first, again, other = (
        client.generate("a", model="echo", seed=seed).images[0].tobytes() for seed in (1, 1, 2)
    )
    assert first == again != other


def test_progress_ends_in_exactly_one_terminal_update(client: Client) -> None:
    job = client.submit("a", model="echo", steps=5, step_seconds=0.02)
    updates = list(job)
    assert isinstance(updates[-1], JobSucceeded)
    assert not any(isinstance(update, JobSucceeded) for update in updates[:-1])
    steps = [update.step for update in updates if isinstance(update, JobStep)]
    assert steps == sorted(steps)
    assert steps[-1] == 5


def test_a_job_is_taken_hold_of_again_by_another_process(
    daemon: RunningDaemon, client: Client
) -> None:
    job = client.submit("a", model="echo", seed=3)
    expected = job.result(30).images[0].tobytes()
    with daemon.client("another") as other:
        assert other.job(job.id).result(30).images[0].tobytes() == expected


def test_the_same_job_id_is_the_same_job(client: Client) -> None:
    first = client.submit("a", model="echo", job_id="mine").result(30)
    again = client.submit("b", model="echo", job_id="mine").result(30)
    assert first.seeds == again.seeds
    assert [row.id for row in client.jobs()] == ["mine"]


def test_unload_returns_when_the_process_is_gone(daemon: RunningDaemon, client: Client) -> None:
    client.load("echo").result(30)
    (worker,) = client.workers()
    client.unload("echo")
    assert not psutil.pid_exists(worker.pid)
    assert client.workers() == []


def test_a_switch_ends_one_process_and_begins_another(daemon: RunningDaemon) -> None:
    with RunningDaemon('[models.second]\narchitecture = "echo"\n') as two, two.client() as client:
        first = client.generate("a", model="echo").worker
        second = client.generate("a", model="second").worker
        third = client.generate("a", model="echo").worker
        assert len({first.pid, second.pid, third.pid}) == 3
        assert [first.epoch, second.epoch, third.epoch] == [1, 2, 3]
        assert [each.pid for each in two.workers()] == [third.pid]


def test_a_second_daemon_is_refused_and_the_first_serves_on(
    daemon: RunningDaemon, client: Client
) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "hermetic_daemon", "--endpoint", str(daemon.endpoint)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 69
    assert f"(pid {daemon.pid})" in second.stderr
    assert client.generate("a", model="echo").images


def test_drain_finishes_what_was_accepted_and_refuses_what_is_new(
    daemon: RunningDaemon, client: Client
) -> None:
    jobs = [client.submit("a", model="echo", steps=3, step_seconds=0.05) for _ in range(3)]
    assert jobs[-1].state == "queued"
    client.stop("drain")
    with pytest.raises(ShuttingDown):
        client.generate("late", model="echo")
    for job in jobs:
        assert job.result(30).images
    assert daemon.process.wait(30) == 0


def test_stop_ends_the_daemon_and_what_ran_and_waited_goes_on_in_the_next(
    daemon: RunningDaemon, client: Client
) -> None:
    running = client.submit("a", model="echo", steps=20, step_seconds=0.05)
    next(update for update in running if isinstance(update, JobStep))
    waiting = client.submit("b", model="echo")
    client.stop()
    assert daemon.process.wait(30) == 0
    daemon.restart()
    for job in (running, waiting):
        assert job.result(30).images


def test_a_full_queue_is_an_error_at_once_with_a_retry_hint() -> None:
    config = "[daemon]\nqueue_limit = 2\n"
    with RunningDaemon(config) as daemon, daemon.client() as client:
        running = client.submit("a", model="echo", steps=1000, step_seconds=0.05)
        next(update for update in running if isinstance(update, JobRunning))
        for _ in range(2):
            client.submit("b", model="echo")
        with pytest.raises(QueueFull) as refused:
            client.submit("one too many", model="echo").result(30)
        assert refused.value.retry_after


def test_a_client_without_a_daemon_is_told_how_to_start_one(daemon: RunningDaemon) -> None:
    daemon.end()
    with daemon.client() as client, pytest.raises(DaemonUnreachable, match="hermetic serve"):
        client.status()


def test_a_client_outlives_its_daemon(daemon: RunningDaemon, client: Client) -> None:
    before = client.generate("a", model="echo", job_id="before")
    daemon.kill()
    daemon.restart()
    after = client.generate("a", model="echo", seed=before.seeds[0])
    assert after.pixels == before.pixels
    assert after.worker.epoch > before.worker.epoch
    assert client.job("before").result(30).pixels == before.pixels


def test_a_keep_alive_that_was_shortened_counts_for_the_worker_that_is_idle_now() -> None:
    model = '[models.mine]\narchitecture = "echo"\nkeep_alive = '
    with RunningDaemon(model + "-1\n") as daemon, daemon.client() as client:
        client.generate("a", model="mine")
        daemon.configure(model + "0.1\n")
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: not client.workers(), 10, "it has ended")


def test_an_end_that_falls_into_a_restart_is_heard_however_many_jobs_wait() -> None:
    """More of them than one listing holds."""
    with RunningDaemon() as daemon, daemon.client() as client, daemon.client() as watching:
        client.pause()
        for _ in range(MAX_ROWS + 1):
            client.submit("a", model="echo")
        watch = watching.events()
        next(watch)
        client.submit("a", model="echo", job_id="late", expires_in=1.0)
        late = time.monotonic() + 1.0
        next(told for told in watch if told.job_id == "late")
        daemon.kill()
        until(lambda: time.monotonic() > late, 10, "its time is over")
        daemon.restart_and_fail("finish.after_commit")  # it has ended, and nobody was told
        daemon.restart()
        ended = next(told for told in watch if isinstance(told, JobEnded))
        assert (ended.job_id, ended.job.state) == ("late", "failed")


def test_results_beyond_the_budget_are_dropped_in_words() -> None:
    config = "[daemon]\nkeep_bytes = 1\nkeep_jobs = 3\n"
    with RunningDaemon(config) as daemon, daemon.client() as client:
        ids = [client.generate("a", model="echo").job_id for _ in range(4)]
        until(lambda: len(client.jobs()) == 3, 10, "the oldest is forgotten")
        assert client.job(ids[-1]).result(30).images
        with pytest.raises(ResultDropped):
            client.job(ids[1]).result(30)
        with pytest.raises(UnknownJob):
            client.job(ids[0]).result(30)


def test_the_queue_moves_and_those_who_wait_hear_it(client: Client) -> None:
    running = client.submit("a", model="echo", steps=8, step_seconds=0.05)
    waiting = [client.submit("b", model="echo") for _ in range(2)]
    rows = {row.id: row for row in client.jobs()}
    assert [rows[job.id].position for job in waiting] in ([1, 2], [0, 1])
    for job in (running, *waiting):
        job.result(30)
    until(lambda: not any(row.position for row in client.jobs()), 10, "nobody waits any more")


def test_who_takes_hold_of_a_loading_job_hears_at_once_that_it_loads() -> None:
    config = '[models.slow]\narchitecture = "echo"\noptions = { load_seconds = 60 }\n'
    with RunningDaemon(config) as daemon, daemon.client() as client, daemon.client() as other:
        job = client.submit("a", model="slow")
        until(lambda: [row.state for row in client.workers()] == ["loading"], 30, "it loads")
        assert isinstance(next(iter(other.job(job.id))), JobLoading)
        job.cancel()
