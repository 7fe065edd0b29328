"""A supervisor on a stage: real sockets, and doubles of the template, the memory and processes.

What is tested with it is what the supervisor believes and does, not what processes do.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zmq

from hermetic_daemon import events, process, reports, supervisor
from hermetic_daemon.config import WorkerSection
from hermetic_daemon.memory import Memory
from hermetic_daemon.process import ChildProcess, ExitStatus, Grace
from hermetic_daemon.template import Template
from hermetic_wire import worker as wire
from hermetic_wire.messages import WorkerRow

from .clock import timed

__all__ = ["MARKERS", "MemoryDouble", "ProcessDouble", "Stage", "TemplateDouble", "on_stage"]

MARKERS = 1000
"""Epochs from here on only mark that something has been taken."""


class ProcessDouble(ChildProcess):
    """Records how it was ended, and dies when the test says so."""

    def __init__(self, pid: int, token: str, on_exit: Callable[[ExitStatus], None]) -> None:
        self.pid = pid
        self.token = token
        self._tell = on_exit
        self.ends: list[Grace | None] = []
        self.dead = False

    def end(self, grace: Grace | None, ask: Callable[[], None] | None = None) -> None:
        """Climbs no ladder."""
        self.ends.append(grace)

    def memory(self) -> tuple[int, int]:
        """None."""
        return 0, 0

    def die(self) -> None:
        """Be reaped; once."""
        if not self.dead:
            self.dead = True
            self._tell(ExitStatus(0, "itself", (), 0))


@dataclass(frozen=True)
class Order:
    """A worker that the template was asked for."""

    token: str
    on_exit: Callable[[ExitStatus], None]
    then: Callable[[ChildProcess | None], None]
    asked: Callable[[], None]


class TemplateDouble(Template):
    """Forks nothing by itself: `Stage.forked` and `Stage.not_forked` answer."""

    def __init__(self) -> None:
        self.serves = True
        self.orders: dict[int, Order] = {}
        self.given_up: list[int] = []
        self.renewed: list[str] = []

    @property
    def ready(self) -> bool:
        """As the test has it."""
        return self.serves

    def fork(
        self,
        epoch: int,
        token: str,
        on_exit: Callable[[ExitStatus], None],
        then: Callable[[ChildProcess | None], None],
        asked: Callable[[], None] = lambda: None,
    ) -> None:
        """Keeps the order."""
        assert epoch not in self.orders, "an epoch is asked for once"
        self.orders[epoch] = Order(token, on_exit, then, asked)

    def withdraw(self, epoch: int) -> None:
        """As the real one: what nobody was asked for yet never comes."""
        if not self.serves and epoch in self.orders:
            self.orders[epoch].then(None)

    def give_up(self, epoch: int) -> None:
        """Keeps the epoch."""
        self.given_up.append(epoch)

    def renew(self, why: str) -> None:
        """Keeps the words."""
        self.renewed.append(why)


class MemoryDouble(Memory):
    """A device with room for `room` bytes beside what lives, whose driver lets go when told."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.room = 0
        self.held: dict[int, int] = {}
        """Bytes by pid."""

    def allows_beside(self, size_bytes: int) -> bool:
        """Markers have no size."""
        return size_bytes <= self.room

    def held_bytes(self, pid: int) -> int | None:
        """As the test has it."""
        return self.held.get(pid)


class Stage:
    """A supervisor, and sockets that pretend to be its workers."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, directory: str, config: WorkerSection
    ) -> None:
        self.template, self.memory = TemplateDouble(), MemoryDouble()
        self.processes: dict[int, ProcessDouble] = {}
        """By epoch, markers included."""
        self.reports: list[reports.Report] = []
        self._all_events: list[events.Event] = []
        self._pids = itertools.count(4242)
        monkeypatch.setattr(process.ChildProcess, "start", self._start)
        self._context: zmq.Context[Any] = zmq.Context()
        self._path = Path(directory) / "workers"
        self.supervisor = supervisor.Supervisor(
            self._context,
            self._path,
            config,
            self.template,
            self.memory,
            self._all_events.append,
            self.reports.append,
        )
        self._sockets: dict[str, Any] = {}
        self._told: dict[str, list[wire.ToWorker]] = {}
        self._markers = itertools.count(MARKERS)

    def _start(
        self,
        argv: Sequence[str],
        environment: object,
        birth: bytes,
        on_exit: Callable[[ExitStatus], None],
    ) -> ProcessDouble:
        return self._begin(int(argv[-1]), birth.decode().strip(), on_exit)

    def _begin(
        self, epoch: int, token: str, on_exit: Callable[[ExitStatus], None]
    ) -> ProcessDouble:
        assert epoch not in self.processes, "an epoch has one process"
        self.processes[epoch] = ProcessDouble(next(self._pids), token, on_exit)
        return self.processes[epoch]

    def forked(self, epoch: int) -> ProcessDouble:
        """The template has forked what it was asked for."""
        order = self.template.orders[epoch]
        order.asked()
        process = self._begin(epoch, order.token, order.on_exit)
        order.then(process)
        return process

    def not_forked(self, epoch: int) -> None:
        """There is no template any more."""
        self.template.orders[epoch].then(None)

    @property
    def events(self) -> list[events.Event]:
        """All that was told, except of the markers."""
        return [event for event in self._all_events if getattr(event, "epoch", 0) < MARKERS]

    @property
    def rows(self) -> dict[int, WorkerRow]:
        """The living workers by epoch, except the markers."""
        return {row.epoch: row for row in self.supervisor.rows() if row.epoch < MARKERS}

    def told(self, who: str) -> list[wire.ToWorker]:
        """What has come back to that socket, as far as it was heard out."""
        return self._told.get(who, [])

    async def say(self, who: str, frames: list[Any]) -> None:
        """Send as the socket of that name."""
        if who not in self._sockets:
            self._sockets[who] = self._context.socket(zmq.DEALER)
            self._sockets[who].connect(f"ipc://{self._path}")
        self._sockets[who].send_multipart(frames)

    async def hear_out(self) -> None:
        """Until everything that was said has been taken.

        Each socket says Hello for a marker epoch of its own, whose Assign comes back on it: a
        socket's messages keep their order, so what it said before has been taken by then.
        """
        for who, socket in self._sockets.items():
            marker = next(self._markers)
            spec = wire.ModelSpec(name=str(marker), architecture="echo")
            self.supervisor.ensure_ready(marker, spec, "cpu")
            token = self.processes[marker].token
            hello = wire.Hello(epoch=marker, token=token, pid=1, version="0")
            socket.send_multipart(list(wire.from_worker.encode(hello)))
            async with asyncio.timeout(20):
                while not await self._came_back(who, spec):
                    pass
            self.processes[marker].die()

    async def _came_back(self, who: str, spec: wire.ModelSpec) -> bool:
        await asyncio.sleep(0)  # gives the supervisor's loop its turn
        try:
            message, _ = wire.to_worker.decode(self._sockets[who].recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            return False
        if isinstance(message, wire.Assign) and message.model == spec:
            return True
        self._told.setdefault(who, []).append(message)
        return False

    def close(self) -> None:
        """Every process dies."""
        for double in self.processes.values():
            double.die()
        for socket in self._sockets.values():
            socket.close(0)
        self.supervisor.close()
        self._context.term()


def on_stage(
    monkeypatch: pytest.MonkeyPatch,
    play: Callable[[Stage], Coroutine[Any, Any, None]],
    config: WorkerSection | None = None,
) -> Stage:
    """Run a coroutine function on a stage of its own, on a clock that can be put forward."""

    async def run() -> Stage:
        with tempfile.TemporaryDirectory(prefix="hm-") as directory:
            stage = Stage(monkeypatch, directory, config or WorkerSection())
            try:
                await play(stage)
            finally:
                stage.close()
            return stage

    return timed(run())
