"""The supervisor against workers that say anything, in any order, under any name.

The sockets are real; the process is a double that only records how it was ended, because what is
tested is what the supervisor believes.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from hermetic_daemon import events, process, supervisor
from hermetic_daemon.config import WorkerSection
from hermetic_daemon.memory import Memory
from hermetic_daemon.process import ExitStatus, Grace
from hermetic_daemon.template import Template
from hermetic_wire import worker as wire
from hermetic_wire.errors import ErrorBody
from hermetic_wire.generation import Output, TextToImage
from hermetic_wire.template import Setup

EPOCH = 7
MARKERS = 1000
"""Epochs from here on only mark that something has been taken."""
JOB = "the-job"
SPEC = wire.ModelSpec(name="m", architecture="echo")
BODY = ErrorBody(code="generation_failed", message="raised")


@dataclass
class ProcessDouble:
    """Takes the place of a process."""

    birth_line: bytes
    on_exit: Callable[[ExitStatus], None]
    pid: int = 4242
    ends: list[Grace | None] = field(default_factory=list)

    def end(self, grace: Grace | None, ask: Callable[[], None] | None = None) -> None:
        self.ends.append(grace)

    def memory(self) -> tuple[int, int]:
        return 0, 0


def never() -> Setup:
    raise AssertionError("no template is started here")


class Stage:
    """A supervisor with one epoch started, and sockets that pretend to be its worker."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: str) -> None:
        self.processes: list[ProcessDouble] = []
        self._all_events: list[events.Event] = []
        self.reports: list[supervisor.Report] = []
        monkeypatch.setattr(process.ChildProcess, "start", self._start)
        self._context: zmq.Context[Any] = zmq.Context()
        self._path = Path(directory) / "workers"
        config = WorkerSection(start_method="exec")
        self.supervisor = supervisor.Supervisor(
            self._context,
            self._path,
            config,
            Template(config, never),
            Memory("cpu"),
            self._all_events.append,
            self.reports.append,
        )
        self._sockets: dict[str, Any] = {}
        self._markers = itertools.count(MARKERS)

    def _start(
        self, argv: object, environment: object, birth: bytes, on_exit: Callable[..., None]
    ) -> ProcessDouble:
        self.processes.append(ProcessDouble(birth, on_exit))
        return self.processes[-1]

    @property
    def token(self) -> str:
        return self.processes[0].birth_line.decode().strip()

    @property
    def events(self) -> list[events.Event]:
        """All that was told, except of the markers."""
        return [event for event in self._all_events if getattr(event, "epoch", 0) < MARKERS]

    async def say(self, who: str, frames: list[Any]) -> None:
        if who not in self._sockets:
            self._sockets[who] = self._context.socket(zmq.DEALER)
            self._sockets[who].connect(f"ipc://{self._path}")
        self._sockets[who].send_multipart(frames)

    async def hear_out(self) -> None:
        """Until everything that was said has been taken.

        Each socket says Hello for a marker epoch of its own, whose Assign comes back on it: a
        socket's messages keep their order, so what it said before has been taken by then.
        """
        for socket in self._sockets.values():
            marker = next(self._markers)
            spec = wire.ModelSpec(name=str(marker), architecture="echo")
            self.supervisor.ensure_ready(marker, spec, "cpu")
            socket.send_multipart(hello(self.processes[-1].birth_line.decode().strip(), marker))
            async with asyncio.timeout(20):
                while not await self._came_back(socket, spec):
                    pass

    async def _came_back(self, socket: Any, spec: wire.ModelSpec) -> bool:
        await asyncio.sleep(0)  # gives the supervisor's loop its turn
        try:
            message, _ = wire.to_worker.decode(socket.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            return False
        return isinstance(message, wire.Assign) and message.model == spec

    async def run_job(self) -> None:
        """The worker has become ready, as it should, and has been given the job."""
        await self.say("worker", hello(self.token))
        await self.say("worker", READY)
        await self.hear_out()
        assert self.events == [events.Ready(EPOCH)]
        self.supervisor.run(EPOCH, JOB, TextToImage(prompts=("a",)))

    def close(self) -> None:
        for socket in self._sockets.values():
            socket.close(0)
        self.supervisor.close()
        self._context.term()


def on_stage(monkeypatch: pytest.MonkeyPatch, play: Callable[[Stage], Any]) -> Stage:
    """Run a coroutine function on a stage of its own."""

    async def run() -> Stage:
        with tempfile.TemporaryDirectory(prefix="hm-") as directory:
            stage = Stage(monkeypatch, directory)
            try:
                stage.supervisor.ensure_ready(EPOCH, SPEC, "cpu")
                await play(stage)
            finally:
                for double in stage.processes:
                    double.on_exit(ExitStatus(0, "itself", (), 0))
                stage.close()
            return stage

    return asyncio.run(run())


def encode(message: wire.FromWorker) -> list[Any]:
    return list(wire.from_worker.encode(message))


def hello(token: str, epoch: int = EPOCH) -> list[Any]:
    return encode(wire.Hello(epoch=epoch, token=token, pid=4242, version="0"))


READY = encode(wire.Ready(epoch=EPOCH, device="cpu", memory={}, timings={}))
ENDS = [
    encode(wire.Done(epoch=EPOCH, job_id=JOB, output=Output())),
    encode(wire.Failed(epoch=EPOCH, job_id=JOB, error=BODY)),
    encode(wire.Cancelled(epoch=EPOCH, job_id=JOB)),
]

epochs = st.sampled_from([EPOCH, EPOCH - 1, EPOCH + 1, 0])
jobs = st.sampled_from([JOB, "another"])
anything = st.one_of(
    st.lists(st.binary(max_size=40), min_size=1, max_size=3),
    st.builds(lambda e: hello("0" * 32, e), epochs),
    st.builds(lambda e: encode(wire.Ready(epoch=e, device="cpu", memory={}, timings={})), epochs),
    st.builds(lambda e: encode(wire.Loading(epoch=e, stage="s", fraction=0.5)), epochs),
    st.builds(lambda e, j: encode(wire.Step(epoch=e, job_id=j, step=1, steps=2)), epochs, jobs),
    st.builds(lambda e, j: encode(wire.Done(epoch=e, job_id=j, output=Output())), epochs, jobs),
    st.builds(lambda e, j: encode(wire.Failed(epoch=e, job_id=j, error=BODY)), epochs, jobs),
    st.builds(lambda e, j: encode(wire.Cancelled(epoch=e, job_id=j)), epochs, jobs),
    st.builds(lambda e: encode(wire.LoadFailed(epoch=e, error=BODY)), epochs),
)


@settings(max_examples=60, deadline=None)
@given(noise=st.lists(st.tuples(st.sampled_from(["worker", "stranger"]), anything), max_size=12))
def test_whatever_is_said_a_run_has_at_most_one_end_and_strangers_have_none(
    noise: list[tuple[str, list[Any]]],
) -> None:
    async def play(stage: Stage) -> None:
        await stage.run_job()
        for who, frames in noise:
            await stage.say(who, frames)
        await stage.hear_out()

    with pytest.MonkeyPatch.context() as monkeypatch:
        stage = on_stage(monkeypatch, play)
    finished = [event for event in stage.events if isinstance(event, events.Finished)]
    assert len(finished) <= 1
    gone = [event for event in stage.events if isinstance(event, events.Gone)]
    assert [event.epoch for event in gone] == [EPOCH]
    assert all(getattr(event, "epoch", EPOCH) == EPOCH for event in stage.events)
    said_by_worker = [frames for who, frames in noise if who == "worker"]
    if not any(end in said_by_worker for end in ENDS):
        assert not finished, "only the worker itself can end its job"


def test_a_hello_without_the_token_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(stage: Stage) -> None:
        await stage.say("stranger", hello("f" * 32))
        await stage.say("stranger", READY)
        await stage.hear_out()
        assert stage.events == []
        await stage.say("worker", hello(stage.token))
        await stage.hear_out()  # two sockets have no order between them
        await stage.say("stranger", hello(stage.token))
        await stage.say("stranger", READY)
        await stage.hear_out()
        assert stage.events == []
        await stage.say("worker", READY)
        await stage.hear_out()
        assert stage.events == [events.Ready(EPOCH)]

    on_stage(monkeypatch, play)


def test_a_worker_that_sends_nonsense_is_killed_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play(stage: Stage) -> None:
        await stage.say("worker", hello(stage.token))
        await stage.say("worker", [b"\xc1"])
        await stage.hear_out()
        assert stage.processes[0].ends == [None]

    (gone,) = on_stage(monkeypatch, play).events
    assert isinstance(gone, events.Gone)
    assert "no message" in gone.error.message


def test_nothing_counts_that_a_worker_says_after_it_was_told_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play(stage: Stage) -> None:
        await stage.run_job()
        stage.supervisor.end(EPOCH, politely=False, why="a test")
        await stage.say("worker", ENDS[0])
        await stage.hear_out()
        assert stage.events == [events.Ready(EPOCH)]

    on_stage(monkeypatch, play)


def test_a_cancel_that_nobody_asked_for_is_somebody_elses_sigterm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play(stage: Stage) -> None:
        await stage.run_job()
        await stage.say("worker", ENDS[2])
        await stage.hear_out()
        finished = stage.events[-1]
        assert isinstance(finished, events.Finished)
        assert not finished.reusable
        assert finished.error is not None
        assert finished.error.code == "worker_died"

    on_stage(monkeypatch, play)


@pytest.mark.parametrize("first", range(3))
@pytest.mark.parametrize("second", range(3))
def test_a_second_end_of_a_job_and_the_end_of_another_count_for_nothing(
    monkeypatch: pytest.MonkeyPatch, first: int, second: int
) -> None:
    async def play(stage: Stage) -> None:
        await stage.run_job()
        await stage.say("worker", encode(wire.Cancelled(epoch=EPOCH, job_id="another")))
        await stage.hear_out()
        assert stage.events == [events.Ready(EPOCH)]
        for end in (first, second):
            await stage.say("worker", ENDS[end])
        await stage.hear_out()
        assert [type(event) for event in stage.events] == [events.Ready, events.Finished]

    on_stage(monkeypatch, play)
