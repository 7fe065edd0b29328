"""Workers as real processes: birth, ends, and what they do not import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from hermetic_wire.generation import Parameter, TextToImage
from hermetic_wire.worker import Cancel, Cancelled, Done, Failed, ModelSpec, Quit, Run, Step
from hermetic_worker.loop import End
from support.processes import gone

from .conftest import TOKEN, DaemonEnd, StartWorker

MakeTask = Callable[..., TextToImage]
ECHO = ModelSpec(name="echo", architecture="echo")
MISBEHAVING = str(Path(__file__).parents[2] / "fakes" / "misbehaving_worker.py")


def test_a_whole_life(
    daemon_end: DaemonEnd, start_worker: StartWorker, echo_task: MakeTask
) -> None:
    process = start_worker()
    hello, ready = daemon_end.make_ready(ECHO)
    assert (hello.epoch, hello.token, hello.pid) == (7, TOKEN, process.pid)
    assert hello.version == version("hermetic")
    assert ready.device == "cpu"
    daemon_end.send(Run(job_id="one", task=echo_task(steps=2)))
    assert [daemon_end.expect(Step).step for _ in range(2)] == [1, 2]
    done, frames = daemon_end.receive()
    assert isinstance(done, Done)
    assert [len(frame) for frame in frames] == [16 * 8 * 3]
    daemon_end.send(Quit())
    assert process.wait() == End.IN_ORDER
    assert process.out() == "", "standard output must stay empty"


def test_nothing_heavy_is_imported_before_hello(
    daemon_end: DaemonEnd, start_worker: StartWorker
) -> None:
    process = start_worker("-X", "importtime", "-m", "hermetic_worker")
    daemon_end.make_ready(ECHO)
    daemon_end.send(Quit())
    assert process.wait() == End.IN_ORDER
    imported = {line.rpartition("|")[2].strip() for line in process.log().splitlines()}
    assert "hermetic_worker.loop" in imported
    heavy = {"torch", "diffusers", "transformers", "accelerate", "numpy", "PIL"}
    assert not {name for name in imported if name.partition(".")[0] in heavy}


def test_a_worker_that_raised_tells_why_and_waits_to_be_ended(
    daemon_end: DaemonEnd, start_worker: StartWorker, echo_task: MakeTask
) -> None:
    process = start_worker()
    daemon_end.make_ready(ECHO)
    daemon_end.send(Run(job_id="one", task=echo_task(extra={"fail_at_step": 1})))
    failed = daemon_end.expect(Failed)
    assert failed.error.code == "generation_failed"
    assert failed.error.report is not None
    assert "told to fail at step 1" in failed.error.report
    assert not gone(process.pid), "whoever leaves at once may take the reason along"
    daemon_end.send(Quit())
    assert process.wait() == End.JOB_FAILED


def test_sigterm_ends_an_idle_worker(daemon_end: DaemonEnd, start_worker: StartWorker) -> None:
    process = start_worker()
    daemon_end.make_ready(ECHO)
    process.terminate()
    assert process.wait() == End.TERMINATED


def test_sigterm_ends_a_running_job_at_its_next_step(
    daemon_end: DaemonEnd, start_worker: StartWorker, echo_task: MakeTask
) -> None:
    process = start_worker()
    daemon_end.make_ready(ECHO)
    task = echo_task(steps=100_000, extra={"step_seconds": 0.001})
    daemon_end.send(Run(job_id="one", task=task))
    daemon_end.expect(Step)
    process.terminate()
    end, _ = daemon_end.end_of_job()
    assert isinstance(end, Cancelled)
    assert process.wait() == End.TERMINATED


def test_a_cancelled_worker_goes_on(
    daemon_end: DaemonEnd, start_worker: StartWorker, echo_task: MakeTask
) -> None:
    start_worker()
    daemon_end.make_ready(ECHO)
    task = echo_task(steps=100_000, extra={"step_seconds": 0.001})
    daemon_end.send(Run(job_id="one", task=task))
    daemon_end.expect(Step)
    daemon_end.send(Cancel(job_id="one"))
    daemon_end.send(Cancel(job_id="one"))  # an impatient second one crosses the job's end
    assert isinstance(daemon_end.end_of_job()[0], Cancelled)
    daemon_end.send(Run(job_id="two", task=echo_task()))
    assert isinstance(daemon_end.end_of_job()[0], Done)


def test_a_malformed_message_ends_the_worker_in_words(
    daemon_end: DaemonEnd, start_worker: StartWorker
) -> None:
    process = start_worker()
    daemon_end.make_ready(ECHO)
    daemon_end.send_frames([b"\xc1 no msgpack"])
    assert process.wait() == End.PROTOCOL
    assert "The daemon broke the protocol" in process.log()


def test_a_worker_of_a_pipe_that_ends_dies(
    daemon_end: DaemonEnd, start_worker: StartWorker
) -> None:
    process = start_worker()
    daemon_end.make_ready(ECHO)
    process.close_pipe()
    assert process.wait() == -signal.SIGKILL


def test_a_worker_may_be_told_to_misbehave(
    daemon_end: DaemonEnd, start_worker: StartWorker, echo_task: MakeTask
) -> None:
    process = start_worker(MISBEHAVING)
    options: dict[str, Parameter] = {"exit_at_step": 2, "flood_stderr": 10_000}
    daemon_end.make_ready(ModelSpec(name="bad", architecture="misbehaving", options=options))
    daemon_end.send(Run(job_id="one", task=echo_task(steps=3)))
    assert daemon_end.expect(Step).step == 1
    assert process.wait() == 137
    assert len(process.log()) >= 10_000


def _by_hand(*arguments: str, stdin: int = subprocess.DEVNULL) -> tuple[int, str]:
    program = [sys.executable, "-m", "hermetic_worker", *arguments]
    ended = subprocess.run(program, stdin=stdin, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def test_help_tells_who_starts_it() -> None:
    code, text = _by_hand("--help")
    assert code == 0
    assert "The Hermetic daemon starts this program" in text


def test_started_by_hand_it_explains_itself() -> None:
    code, text = _by_hand("--endpoint", "ipc:///nowhere", "--epoch", "1")
    assert code == 2
    assert "ended before it brought a token; see --help" in text


def test_started_from_a_terminal_it_explains_itself() -> None:
    leader, follower = os.openpty()
    try:
        code, text = _by_hand("--endpoint", "ipc:///nowhere", "--epoch", "1", stdin=follower)
    finally:
        os.close(leader)
        os.close(follower)
    assert code == 2
    assert "standard input is a terminal" in text


@pytest.mark.parametrize("missing", ["--endpoint", "--epoch"])
def test_a_missing_argument_is_named(missing: str) -> None:
    given = {"--endpoint": "ipc:///nowhere", "--epoch": "1"}
    del given[missing]
    code, text = _by_hand(*(word for pair in given.items() for word in pair))
    assert code == 2
    assert missing in text
