"""A worker never outlives its parent. Real processes; their ends are seen by pidfd."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hermetic_wire.generation import Parameter, TextToImage
from hermetic_wire.worker import ModelSpec, Run, Step
from hermetic_worker import guard

from .conftest import TOKEN, DaemonEnd

PATIENCE_MS = 5_000
MISBEHAVING = str(Path(__file__).parents[2] / "fakes" / "misbehaving_worker.py")

_PARENT = """
import subprocess, sys, time
worker = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, start_new_session=True)
worker.stdin.write(sys.argv[1].encode() + b"\\n")
worker.stdin.flush()
time.sleep(3600)
"""

_LEADER = """
import os, subprocess, sys
from hermetic_worker import guard
child = subprocess.Popen(["sleep", "3600"])
guard.watch_parent(0)
print(child.pid, flush=True)
child.wait()
"""


@pytest.fixture
def foster_parent(daemon_end: DaemonEnd) -> Iterator[subprocess.Popen[bytes]]:
    """A process that starts a misbehaving worker and waits; the test kills it."""
    worker = [sys.executable, MISBEHAVING, "--endpoint", daemon_end.endpoint, "--epoch", "1"]
    command = [sys.executable, "-c", _PARENT, TOKEN, *worker]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def _wait_for_end(pidfd: int) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(PATIENCE_MS))


@pytest.mark.parametrize("misfortune", [None, "hold_gil_at_step", "hang_at_step"])
def test_a_worker_whose_parent_is_killed_is_gone(
    daemon_end: DaemonEnd,
    foster_parent: subprocess.Popen[bytes],
    echo_task: Callable[..., TextToImage],
    misfortune: str | None,
) -> None:
    options: dict[str, Parameter] = {"ignore_sigterm": True}
    if misfortune is not None:
        options[misfortune] = 2
    spec = ModelSpec(name="m", architecture="misbehaving", options=options)
    hello, _ = daemon_end.make_ready(spec)
    daemon_end.send(Run(job_id="one", task=echo_task(steps=100, extra={"step_seconds": 0.1})))
    daemon_end.expect(Step)
    if misfortune is not None:
        assert foster_parent.stderr is not None
        while misfortune not in foster_parent.stderr.readline().decode():
            pass
    pidfd = os.pidfd_open(hello.pid)
    foster_parent.kill()
    try:
        assert _wait_for_end(pidfd)
    finally:
        os.close(pidfd)


def test_the_end_of_the_pipe_takes_the_whole_group() -> None:
    leader = subprocess.Popen(
        [sys.executable, "-c", _LEADER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert leader.stdin is not None
    assert leader.stdout is not None
    child = os.pidfd_open(int(leader.stdout.readline()))
    try:
        leader.stdin.close()
        assert leader.wait() == -signal.SIGKILL
        assert _wait_for_end(child)
    finally:
        leader.stdout.close()
        os.close(child)


def test_the_token_is_the_first_line_and_no_byte_more() -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, b"00ff\nrest")
        assert guard.read_token(reader) == "00ff"
        assert os.read(reader, 10) == b"rest"
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("sent", [b"", b"half a token", b"x" * 300])
def test_a_pipe_without_a_token_is_told(sent: bytes) -> None:
    reader, writer = os.pipe()
    os.write(writer, sent)
    os.close(writer)
    try:
        with pytest.raises(EOFError, match="token"):
            guard.read_token(reader)
    finally:
        os.close(reader)
