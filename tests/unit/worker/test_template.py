"""The template as the daemon sees it: what it refuses, how it ends, and who outlives whom."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from hermetic_wire.generation import TextToImage
from hermetic_wire.template import ForkRequest
from hermetic_wire.worker import ModelSpec, Quit
from support.processes import gone, until
from support.template import TOKEN, PlayedDaemon, adopting

from .conftest import DIFFUSERS

pytestmark = DIFFUSERS

FAKES = Path(__file__).parent.parent.parent / "fakes"
FAKE = str(FAKES / "poisonous_template.py")
ECHO = ModelSpec(name="echo", architecture="echo")
Start = Callable[..., PlayedDaemon]


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts light templates, with a misdeed or without; whoever is left is ended and counted."""
    started: list[PlayedDaemon] = []

    def start(*misdeed: str, **environment: str) -> PlayedDaemon:
        folder = tmp_path_factory.mktemp("t")
        program = (FAKE, "--light", *misdeed)
        started.append(PlayedDaemon(folder, program, environment=environment))
        return started[-1]

    with adopting():
        yield start
        for one in started:
            one.close()


# Another driver than there is.


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with libcuda.so.1 and libnvidia-ml.so.1 as they are where there is a GPU."""
    folder = tmp_path_factory.mktemp("driver")
    for source, library in (("libcuda.c", "libcuda.so.1"), ("libnvidia_ml.c", "libnvidia-ml.so.1")):
        command = ["cc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(folder / library)]
        subprocess.run([*command, str(FAKES / source)], check=True)
    return folder


def with_driver(driver: Path, log: Path) -> dict[str, str]:
    before = os.environ.get("LD_LIBRARY_PATH")
    path = f"{driver}:{before}" if before else str(driver)
    return {"LD_LIBRARY_PATH": path, "HERMETIC_TEST_DRIVER_LOG": str(log)}


def calls(log: Path) -> list[tuple[str, int, int]]:
    """Name, process and answer of every call that the driver was asked."""
    found = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [(name, int(pid), int(answer)) for name, pid, answer in found]


def test_importing_everything_leaves_the_driver_uninitialised(
    driver: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The real template with all its imports, and a worker of it, beside a driver that logs.

    What this proves with a CPU build of torch: nothing that is imported calls cuInit past torch,
    and the template does ask the driver before it serves. What it cannot prove: that torch itself
    does not. Such a build finds out by its own compilation that it has no CUDA and never opens
    libcuda or NVML, with PYTORCH_NVML_BASED_CUDA_CHECK or without it, so there is no second run
    without it here. tests/gpu/test_template_on_cuda.py has that half.
    """
    log = tmp_path / "calls"
    folder = tmp_path_factory.mktemp("t")
    with adopting(), PlayedDaemon(folder, environment=with_driver(driver, log)) as daemon:
        daemon.serving()
        assert calls(log) == [("cuDeviceGetCount", daemon.pid, 3)]
        daemon.fork(1)
        daemon.load(1, ECHO)
        assert "cuInit" not in {name for name, _, _ in calls(log)}


# Not clean, so not used.


def test_one_that_has_touched_cuda_is_refused(start: Start, driver: Path, tmp_path: Path) -> None:
    """Its children could not use the GPU, and `torch.cuda.is_initialized` would not tell."""
    log = tmp_path / "calls"
    reason = start("touch_cuda", **with_driver(driver, log)).refused()
    assert "cuDeviceGetCount says 0, not 3" in reason
    assert [name for name, _, _ in calls(log)] == ["cuInit", "cuDeviceGetCount"]


def test_one_that_has_computed_in_parallel_is_refused(start: Start) -> None:
    reason = start("compute", OMP_NUM_THREADS="2").refused()
    assert "the template has 2 threads" in reason
    assert "something has been computed in it" in reason


def test_a_child_that_hangs_in_its_first_computation_is_found_by_trying(start: Start) -> None:
    """The accident itself: OpenMP's threads are not forked, and the child waits for them."""
    daemon = start("compute_unnoticed", OMP_NUM_THREADS="2")
    assert "a forked child has not finished a computation in 2 s" in daemon.refused()


def test_one_with_a_second_thread_is_refused(start: Start) -> None:
    assert "the template has 2 threads" in start("start_thread").refused()


def test_one_that_holds_a_file_is_refused(start: Start) -> None:
    reason = start("open_descriptor").refused()
    assert "the template holds descriptor" in reason
    assert "/dev/zero" in reason


def test_one_that_becomes_unclean_while_it_serves_refuses_the_next_fork(start: Start) -> None:
    daemon = start("start_thread_later")
    daemon.serving()
    daemon.spare()
    os.kill(daemon.pid, signal.SIGUSR1)
    until(lambda: psutil.Process(daemon.pid).num_threads() == 2, 10, "the thread has started")
    daemon.fork(1)  # of the spare, which was forked before
    assert "the template has 2 threads" in daemon.refused()
    assert not gone(daemon.workers[1].pid)
    daemon.hello(1)


# How it ends.


def ends_in_order(daemon: PlayedDaemon, spare: int, code: int) -> None:
    assert daemon.wait() == code, daemon.log()
    assert gone(spare)


def test_the_end_of_its_socket_ends_it_in_order(start: Start) -> None:
    daemon = start()
    daemon.serving()
    spare = daemon.spare()
    daemon.control.shutdown(socket.SHUT_WR)
    ends_in_order(daemon, spare, 0)
    assert "Traceback" not in daemon.log()


@pytest.mark.parametrize(
    "packet",
    [b"fork", b"kill" + ForkRequest(1, TOKEN).encode()[4:]],
    ids=["short", "other-word"],
)
def test_a_packet_that_is_no_request_ends_it_with_a_refusal(packet: bytes, start: Start) -> None:
    daemon = start()
    daemon.serving()
    spare = daemon.spare()
    daemon.control.send(packet)
    assert f"has {len(ForkRequest(1, TOKEN).encode())} bytes" in daemon.refused()
    ends_in_order(daemon, spare, 1)


def test_a_request_without_descriptors_ends_it_with_a_refusal(start: Start) -> None:
    daemon = start()
    daemon.serving()
    spare = daemon.spare()
    daemon.control.send(ForkRequest(1, TOKEN).encode())
    assert "came with 0 descriptors, not 2" in daemon.refused()
    ends_in_order(daemon, spare, 1)


def test_a_spare_that_is_killed_ends_the_template_in_words(start: Start) -> None:
    """Nobody knows what happened to it, so nothing is forked after it."""
    daemon = start()
    daemon.serving()
    os.kill(daemon.spare(), signal.SIGKILL)
    assert "ended with -9" in daemon.refused()


def test_requests_that_wait_are_answered_in_their_order(start: Start) -> None:
    daemon = start()
    daemon.serving()
    lifelines = [daemon.request(epoch) for epoch in (5, 3, 4)]
    epochs = [daemon.take(lifeline).epoch for lifeline in lifelines]
    assert epochs == [5, 3, 4]
    assert [daemon.hello(epoch).pid for epoch in epochs] == [
        daemon.workers[epoch].pid for epoch in epochs
    ]


# Who outlives whom.


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlayedDaemon]:
    """One template for the tests that leave it alive."""
    with adopting(), PlayedDaemon(tmp_path_factory.mktemp("t"), (FAKE, "--light")) as daemon:
        daemon.serving()
        yield daemon


def draw(daemon: PlayedDaemon, epoch: int) -> list[bytes]:
    task = TextToImage(
        prompts=("a red circle",), width=8, height=8, steps=1, guidance=1.0, seeds=(1,)
    )
    return daemon.run(epoch, task)


def test_a_worker_is_the_daemons_own_child_in_a_session_of_its_own(serving: PlayedDaemon) -> None:
    worker = serving.fork(1)
    hello = serving.hello(1)
    assert (hello.pid, hello.token) == (worker.pid, TOKEN)
    assert psutil.Process(worker.pid).ppid() == os.getpid()
    assert os.getsid(worker.pid) == worker.pid
    assert worker.end() == -signal.SIGKILL


def test_a_worker_inherits_no_descriptor_of_the_template(serving: PlayedDaemon) -> None:
    """Its own are the streams; the rest is ZeroMQ's, which it has opened itself."""
    worker = serving.fork(2)
    serving.hello(2)
    theirs = {_target(serving.pid, "3"), _target(os.getpid(), str(serving.control.fileno()))}
    ours = {_target(worker.pid, name) for name in os.listdir(f"/proc/{worker.pid}/fd")}
    assert not ours & theirs
    assert _target(worker.pid, "0").startswith("pipe:")
    assert worker.end() == -signal.SIGKILL


def _target(pid: int, descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except FileNotFoundError:
        return ""


def test_a_worker_ends_in_order_when_it_is_told_to(serving: PlayedDaemon) -> None:
    worker = serving.fork(3)
    serving.load(3, ECHO)
    serving.send(3, Quit())
    assert worker.reap() == 0


def test_a_worker_ends_with_its_lifeline(serving: PlayedDaemon) -> None:
    worker = serving.fork(4)
    serving.hello(4)
    read, write = os.pipe()
    os.dup2(write, worker.lifeline)
    os.close(write)
    os.close(read)
    assert worker.reap() == -signal.SIGKILL


def test_a_worker_that_the_daemon_has_heard_of_is_in_no_group_but_its_own(
    serving: PlayedDaemon,
) -> None:
    worker = serving.fork(5)
    assert os.getpgid(worker.pid) == worker.pid
    serving.hello(5)


def test_a_template_killed_as_it_forks_takes_no_worker_along_that_was_told_of(start: Start) -> None:
    """The daemon kills the group of a dead template, in which a worker is born."""
    daemon = start("linger")
    daemon.serving()
    spare = psutil.Process(daemon.spare())
    lifeline = daemon.request(1)
    until(lambda: _all_are(psutil.STATUS_STOPPED, spare.children()), 10, "it is born")
    (newborn,) = spare.children()
    until(lambda: gone(spare.pid) or _all_are(psutil.STATUS_SLEEPING, [spare]), 10, "it rests")
    daemon.kill()
    os.killpg(daemon.pid, signal.SIGKILL)
    until(lambda: gone(newborn.pid), 10, "the newborn goes with the group")
    assert daemon.hear() == (None, [])
    os.close(lifeline)


def _all_are(status: str, processes: Sequence[psutil.Process]) -> bool:
    return [one.status() for one in processes] == [status]


def test_a_killed_template_takes_its_spare_along_and_no_worker(start: Start) -> None:
    daemon = start()
    daemon.serving()
    worker = daemon.fork(1)
    daemon.load(1, ECHO)
    before = draw(daemon, 1)
    spare = daemon.spare()
    daemon.kill()
    until(lambda: gone(spare), 10, "the spare dies with its template")
    assert not gone(worker.pid)
    assert draw(daemon, 1) == before
    daemon.send(1, Quit())
    assert worker.reap() == 0
