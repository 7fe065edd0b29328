"""The chaos worker does what its flags say: a test that leans on it leans on something."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from fakes.misbehaving_worker import COMPANIONS, ENVIRONMENT, FLAGS, MISFORTUNES, PLACES
from hermetic_wire.errors import MalformedMessage
from hermetic_wire.generation import Parameter, TextToImage
from hermetic_wire.worker import (
    Assign,
    Done,
    Failed,
    FromWorker,
    Hello,
    LoadFailed,
    Loading,
    ModelSpec,
    Ready,
    Run,
    Step,
)
from support.processes import until

from .conftest import TOKEN, DaemonEnd, StartedWorker, StartWorker

MakeTask = Callable[..., TextToImage]
Start = Callable[..., StartedWorker]
FAKES = Path(__file__).parents[2] / "fakes"
ENDS = {
    "crash": -signal.SIGSEGV,
    "exit": 137,
    "abort": -signal.SIGABRT,
    "kill": -signal.SIGKILL,
}
"""How the process ends that meets them."""


@pytest.fixture
def start(
    start_worker: StartWorker, daemon_end: DaemonEnd, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """Starts chaos workers of these options; whatever they leave behind is ended."""

    def start(**options: Parameter) -> StartedWorker:
        monkeypatch.setenv(ENVIRONMENT, json.dumps(options))
        return start_worker(str(FAKES / "misbehaving_worker.py"))

    yield start
    for process in related(daemon_end):
        process.kill()


def related(end: DaemonEnd) -> list[psutil.Process]:
    """The living processes that were started for this endpoint."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if end.endpoint in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def lead_to(state: str, end: DaemonEnd, task: TextToImage, **options: Parameter) -> None:
    """Say everything that has to be said for a worker to come into that state."""
    if state == "starting":
        return
    end.expect(Hello)
    spec = ModelSpec(name="chaos", architecture="misbehaving", options=options)
    end.send(Assign(model=spec, device="cpu"))
    if state == "loading":
        return
    all_until(end, Ready)
    if state != "ready":
        end.send(Run(job_id="one", task=task))


def lead_to_silence(state: str, end: DaemonEnd, task: TextToImage) -> None:
    """To that state, and hear what is said there until it is nothing at all."""
    lead_to(state, end, task)
    while True:
        end.receive()


def all_until(end: DaemonEnd, last: type[FromWorker]) -> list[FromWorker]:
    """What the worker says, to the first of that kind."""
    said = [end.receive()[0]]
    while not isinstance(said[-1], last):
        said.append(end.receive()[0])
    return said


def test_the_page_names_every_flag() -> None:
    page = sys.modules["fakes.misbehaving_worker"].__doc__ or ""
    words = set(page.replace("`", " ").split())
    lone = {flag for flag in FLAGS if not flag.endswith(tuple(PLACES.values()))}
    assert words >= {*MISFORTUNES, *PLACES, *PLACES.values(), *lone}
    assert set(COMPANIONS) <= lone


@pytest.mark.parametrize("state", PLACES)
def test_it_ends_in_every_state(
    start: Start, daemon_end: DaemonEnd, echo_task: MakeTask, state: str
) -> None:
    worker = start(**{f"exit_{PLACES[state]}": 2 if state == "running" else True})
    lead_to(state, daemon_end, echo_task(steps=2))
    assert worker.wait() == 137
    assert f"misfortune: exit_{PLACES[state]}" in worker.log()


@pytest.mark.parametrize("misfortune", ENDS)
def test_it_ends_in_every_way(
    start: Start, daemon_end: DaemonEnd, echo_task: MakeTask, misfortune: str
) -> None:
    worker = start()
    lead_to("running", daemon_end, echo_task(steps=2), **{f"{misfortune}_at_step": 2})
    assert daemon_end.expect(Step).step == 1
    assert worker.wait() == ENDS[misfortune]


@pytest.mark.parametrize("misfortune", ["hang", "hold_gil", "stop"])
def test_it_falls_silent_and_lives(
    start: Start, daemon_end: DaemonEnd, echo_task: MakeTask, misfortune: str
) -> None:
    worker = start(ignore_sigterm=True)
    lead_to("running", daemon_end, echo_task(steps=2), **{f"{misfortune}_at_step": 2})
    assert daemon_end.expect(Step).step == 1
    until(lambda: misfortune in worker.log(), 20, "it has met its misfortune")
    worker.terminate()
    (living,) = related(daemon_end)
    wanted = psutil.STATUS_STOPPED if misfortune == "stop" else psutil.STATUS_SLEEPING
    until(lambda: living.status() == wanted, 20, f"it is {wanted}")


@pytest.mark.parametrize("misfortune", ["grandchild", "double_fork"])
def test_it_leaves_a_process_behind(start: Start, daemon_end: DaemonEnd, misfortune: str) -> None:
    worker = start(**{f"{misfortune}_before_hello": True})
    assert worker.wait() == 1
    (left,) = related(daemon_end)
    assert left.pid != worker.pid
    assert (os.getpgid(left.pid) == worker.pid) is (misfortune == "grandchild")


@pytest.mark.parametrize("state", PLACES)
def test_it_sends_garbage_and_goes_on(
    start: Start, daemon_end: DaemonEnd, echo_task: MakeTask, state: str
) -> None:
    start(**{f"garbled_{PLACES[state]}": 1})
    with pytest.raises(MalformedMessage):
        lead_to_silence(state, daemon_end, echo_task())
    if state == "starting":
        daemon_end.expect(Hello)


def test_it_speaks_of_the_epoch_before(
    start: Start, daemon_end: DaemonEnd, echo_task: MakeTask
) -> None:
    start(stale_epoch_at_step=1)
    lead_to("running", daemon_end, echo_task(steps=1))
    said = [daemon_end.receive()[0] for _ in range(5)]
    assert [type(each) for each in said] == [Loading, Step, Done, Step, Done]
    assert [each.epoch for each in said] == [6, 6, 6, 7, 7]


@pytest.mark.parametrize(
    ("flag", "ends"),
    [
        ("stale_done", [(6, "one"), (7, "one")]),
        ("duplicate_done", [(7, "one"), (7, "one")]),
        ("done_for_another_job", [(7, "not-one"), (7, "one")]),
    ],
)
def test_it_ends_a_job_twice(
    start: Start,
    daemon_end: DaemonEnd,
    echo_task: MakeTask,
    flag: str,
    ends: list[tuple[int, str]],
) -> None:
    start(**{flag: True})
    lead_to("running", daemon_end, echo_task(steps=1))
    daemon_end.expect(Step)
    dones = [daemon_end.expect(Done) for _ in range(2)]
    assert [(done.epoch, done.job_id) for done in dones] == ends


def test_it_says_hello_wrongly(start: Start, daemon_end: DaemonEnd) -> None:
    start(wrong_token=True)
    assert daemon_end.expect(Hello).token != TOKEN
    start(hello_twice=True)
    assert [daemon_end.expect(Hello).token for _ in range(2)] == [TOKEN, TOKEN]
    worker = start(silent=True)
    until(lambda: "misfortune: silent" in worker.log(), 20, "it had its turn to speak")
    assert daemon_end.says_nothing()


def test_it_is_never_ready(start: Start, daemon_end: DaemonEnd, echo_task: MakeTask) -> None:
    start(never_ready=True)
    lead_to("loading", daemon_end, echo_task())
    assert [daemon_end.expect(Loading).stage for _ in range(4)][1:] == ["soon"] * 3


def test_its_shortage_of_memory_is_taken_for_one(
    start: Start, daemon_end: DaemonEnd, echo_task: MakeTask
) -> None:
    start(out_of_memory_at_step=2)
    lead_to("running", daemon_end, echo_task(steps=2))
    failed = all_until(daemon_end, Failed)[-1]
    assert isinstance(failed, Failed)
    assert failed.error.code == "out_of_memory"
    assert "20.00 GiB asked, 1.25 GiB free of 23.68 GiB" in failed.error.message
    start(out_of_memory_in_load=True)
    lead_to("loading", daemon_end, echo_task())
    short = all_until(daemon_end, LoadFailed)[-1]
    assert isinstance(short, LoadFailed)
    assert short.error.code == "out_of_memory"


def test_its_lost_device_is_taken_for_the_death_of_a_worker(
    start: Start, daemon_end: DaemonEnd, echo_task: MakeTask
) -> None:
    start(lose_device_at_step=2)
    lead_to("running", daemon_end, echo_task(steps=2))
    failed = all_until(daemon_end, Failed)[-1]
    start(lose_device_in_load=True)
    lead_to("loading", daemon_end, echo_task())
    unloaded = all_until(daemon_end, LoadFailed)[-1]
    for told in (failed, unloaded):
        assert isinstance(told, Failed | LoadFailed)
        assert told.error.code == "worker_died"
        assert "illegal memory access was encountered. Its process" in told.error.message


@pytest.mark.parametrize(
    ("flag", "end"), [("out_of_memory_at_step", Done), ("out_of_memory_always", Failed)]
)
def test_the_low_memory_profile_helps_unless_nothing_does(
    start: Start, daemon_end: DaemonEnd, echo_task: MakeTask, flag: str, end: type[FromWorker]
) -> None:
    start(**{flag: 1})
    daemon_end.expect(Hello)
    spec = ModelSpec(name="chaos", architecture="misbehaving")
    daemon_end.send(Assign(model=spec, device="cpu", low_memory=True))
    all_until(daemon_end, Ready)
    daemon_end.send(Run(job_id="one", task=echo_task(steps=1)))
    assert isinstance(daemon_end.end_of_job()[0], end)


def test_only_the_first_workers_misbehave(
    start: Start, daemon_end: DaemonEnd, echo_task: MakeTask, tmp_path: Path
) -> None:
    options: dict[str, Parameter] = {
        "exit_at_step": 1,
        "only_first_attempts": 2,
        "counter_file": str(tmp_path / "count"),
    }
    for _ in range(2):
        worker = start(**options)
        lead_to("running", daemon_end, echo_task())
        assert worker.wait() == 137
    start(**options)
    lead_to("running", daemon_end, echo_task())
    assert isinstance(daemon_end.end_of_job()[0], Done)


def test_only_one_prompt_is_poison(
    start: Start, daemon_end: DaemonEnd, echo_task: MakeTask
) -> None:
    worker = start(exit_at_step=1, only_prompt="poison")
    lead_to("running", daemon_end, echo_task(prompts=("water",)))
    assert isinstance(daemon_end.end_of_job()[0], Done)
    daemon_end.send(Run(job_id="two", task=echo_task(prompts=("poison",))))
    assert worker.wait() == 137


def test_it_keeps_memory_of_every_job(
    start: Start, daemon_end: DaemonEnd, echo_task: MakeTask
) -> None:
    start(leak_mb_per_job=40)
    lead_to("running", daemon_end, echo_task(steps=1))
    before, _ = daemon_end.end_of_job()
    daemon_end.send(Run(job_id="two", task=echo_task(steps=1)))
    after, _ = daemon_end.end_of_job()
    assert isinstance(before, Done)
    assert isinstance(after, Done)
    assert after.output.memory["resident"] - before.output.memory["resident"] >= 30 << 20


ASK_NVML = """
import pynvml
pynvml.nvmlInit()
gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
print(*[one.pid for one in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)], memory.used)
"""


def test_its_device_memory_is_in_the_books_after_its_end(
    start: Start,
    daemon_end: DaemonEnd,
    echo_task: MakeTask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library, books = tmp_path / "libnvidia-ml.so.1", tmp_path / "books"
    command = ["cc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([*command, str(FAKES / "libnvidia_ml.c")], check=True)
    monkeypatch.setenv("HERMETIC_TEST_NVML_HELD", str(books))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    worker = start(hold_device_memory=True, exit_at_step=1)
    lead_to("running", daemon_end, echo_task())
    assert worker.wait() == 137

    def ask() -> str:
        return subprocess.check_output([sys.executable, "-c", ASK_NVML], text=True).strip()

    assert ask() == f"{worker.pid} {1 << 30}"
    books.write_text("")
    assert ask() == "0"
