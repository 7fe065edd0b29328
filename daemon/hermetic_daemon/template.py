"""The templates, one after the other: starts them, asks them for workers, replaces them.

A template that refuses itself is not asked again until something changes; one that dies is started
again, more patiently each time. Whoever asks while there is none is told so, and starts a new
interpreter instead. No worker depends on the template that it came from.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, assert_never

from hermetic_wire.errors import MalformedMessage, MessageTooLarge
from hermetic_wire.messages import TemplateStatus
from hermetic_wire.template import (
    Forked,
    ForkRequest,
    FromTemplate,
    Refused,
    Serving,
    Setup,
    from_template,
)
from hermetic_wire.template import setup as setups

from .config import WorkerSection
from .process import ChildProcess, ExitStatus, Pipes

__all__ = ["Template"]

logger = logging.getLogger(__name__)

OnExit: TypeAlias = Callable[[ExitStatus], None]
Then: TypeAlias = Callable[[ChildProcess | None], None]
"""Takes the forked worker, or None where it has to be started otherwise."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0
"""Seconds between the death of a template and the next start; doubled from one to the other."""
MAX_PACKET = 1 << 20


@dataclass
class _Order:
    """A worker that was asked for."""

    epoch: int
    token: str
    on_exit: OnExit
    then: Then
    pipes: Pipes | None = None
    """Once the template has been asked."""


class Template:
    """What the supervisor asks for workers."""

    def __init__(self, config: WorkerSection, setup: Callable[[], Setup]) -> None:
        """`setup` is asked anew for each process, so that it knows the catalog of its time."""
        self._config = config
        self._setup = setup
        self._current: _Generation | None = None
        self._next: _Generation | None = None
        self._retired: set[_Generation] = set()
        self._queue: list[_Order] = []
        """Asked for while the first template starts."""
        self._pause = FIRST_PAUSE
        self._restart: asyncio.TimerHandle | None = None
        self._closed = False
        self._ended: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Have a template made, if workers are to be forked at all."""
        if self._config.start_method == "fork" and not self._closed:
            self._restart = None
            self._next = self._generation()

    @property
    def expecting(self) -> bool:
        """Whether a worker has been asked for that has not come yet."""
        return any(one.asked for one in self._generations())

    def fork(self, epoch: int, token: str, on_exit: OnExit, then: Then) -> None:
        """Ask for a worker. `then` is called once, at once where no template can be asked."""
        order = _Order(epoch, token, on_exit, then)
        if self._current is not None and self.ready:
            self._current.ask(order)
            if self._next is None and self._current.forks >= self._config.template_forks:
                self.renew(f"it has forked {self._current.forks} workers")
        elif self._next is not None and not self._has_one:
            self._queue.append(order)
        else:
            then(None)

    def renew(self, why: str) -> None:
        """Make another template; the present one serves until that is ready."""
        if self._config.start_method != "fork" or self._closed:
            return
        logger.info("the template is made anew: %s", why)
        if self._restart is not None:
            self._restart.cancel()
        if self._next is not None:
            self._retire(self._next)
        self._next = None
        self.start()

    def give_up(self, epoch: int) -> None:
        """The template that should have forked this epoch hangs: kill it."""
        for generation in self._generations():
            if epoch in generation.asked:
                generation.fail("it does not fork")

    async def close(self) -> None:
        """End all templates; returns when they are gone."""
        self._closed = True
        if self._restart is not None:
            self._restart.cancel()
        for generation in self._generations():
            generation.fail("the daemon ends")
        while self._generations():
            self._ended = asyncio.get_running_loop().create_future()
            await self._ended

    @property
    def ready(self) -> bool:
        """Whether a fork can be had at once."""
        return self._current is not None and self._current.state == "serving"

    def status(self) -> TemplateStatus:
        """As `hermetic status` shows it."""
        if self._config.start_method != "fork":
            return TemplateStatus(state="off", reason='start_method = "exec"')
        generation = self._current if self._has_one else self._next or self._current
        if generation is not None:
            return generation.status()
        return TemplateStatus(state="waiting", reason="it is about to be started")

    @property
    def _has_one(self) -> bool:
        return self._current is not None and self._current.state != "gone"

    def _generations(self) -> list[_Generation]:
        present = [one for one in (self._current, self._next) if one is not None]
        return [*(one for one in present if one.state != "gone"), *self._retired]

    def _generation(self) -> _Generation | None:
        try:
            return _Generation(self._config, self._setup(), self._changed)
        except OSError as error:
            logger.error("no template can be started: %s", error)
            self._pause_and_start()
            self._answer_queue()
            return None

    def _changed(self, generation: _Generation) -> None:
        """A template has become ready, or is gone."""
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        if generation.state == "serving":
            self._take_over(generation)
        elif generation in self._retired:
            self._retired.discard(generation)
        elif generation is self._next:
            # The one before it, if any, goes on: it is clean.
            self._next = None
            if not self._has_one:
                self._current = generation
            self._answer_queue()
            if not generation.refused:
                self._pause_and_start()
        elif generation is self._current and self._next is None:
            self._pause_and_start()

    def _take_over(self, generation: _Generation) -> None:
        if generation is not self._next:
            return
        if self._current is not None and self._has_one:
            self._retire(self._current)
        self._current, self._next, self._pause = generation, None, FIRST_PAUSE
        self._answer_queue()

    def _answer_queue(self) -> None:
        orders, self._queue = self._queue, []
        for order in orders:
            self.fork(order.epoch, order.token, order.on_exit, order.then)

    def _retire(self, generation: _Generation) -> None:
        self._retired.add(generation)
        generation.retire()

    def _pause_and_start(self) -> None:
        if self._closed or self._restart is not None:
            return
        self._restart = asyncio.get_running_loop().call_later(self._pause, self.start)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


@dataclass(eq=False)
class _Generation:
    """One template's process and the socket to it."""

    config: WorkerSection
    setup: Setup
    changed: Callable[[_Generation], None]
    state: Literal["starting", "serving", "gone"] = "starting"
    reason: str = ""
    refused: bool = False
    forks: int = 0
    asked: dict[int, _Order] = field(default_factory=dict)
    """By epoch: asked for and not come yet."""
    _told: Serving | None = None
    _retiring: bool = False

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = self.config.template_command
        try:
            self._process = ChildProcess.serve(
                argv, os.environ, _memory_file(self.setup), control.detach(), self._on_exit
            )
        except OSError:
            self._control.close()
            raise
        self._control.setblocking(False)
        self._loop.add_reader(self._control, self._read)
        self._patience = self._loop.call_later(
            self.config.template_seconds,
            self.fail,
            f"it was not ready within {self.config.template_seconds:g} s",
        )
        logger.info("template: pid %d started", self._process.pid)

    def ask(self, order: _Order) -> None:
        """Send the request; the worker comes back as a packet of its own."""
        order.pipes = Pipes()
        request = ForkRequest(order.epoch, order.token).encode()
        self.asked[order.epoch] = order
        self.forks += 1
        descriptors = [order.pipes.child_stdin, order.pipes.child_stderr]
        try:
            socket.send_fds(self._control, [request], descriptors)
        except OSError as error:
            self.fail(f"it cannot be asked: {error}")

    def retire(self) -> None:
        """End it once what it was asked for has come."""
        self._retiring = True
        if self.state == "serving" and self.asked:
            return
        self._process.end(None)

    def fail(self, reason: str) -> None:
        """It is of no use any more: kill it, and its end will be told."""
        self.reason = self.reason or reason
        self._process.end(None)

    def status(self) -> TemplateStatus:
        """This process, as `hermetic status` shows it."""
        told = self._told
        return TemplateStatus(
            state="refused" if self.refused else "waiting" if self.state == "gone" else self.state,
            reason=self.reason,
            pid=self._process.pid if self.state != "gone" else 0,
            forks=self.forks,
            private_bytes=_private_bytes(self._process.pid) if self.state != "gone" else 0,
            skeletons=told.skeletons if told else {},
            timings=told.timings if told else {},
        )

    def _read(self) -> None:
        try:
            packet, descriptors, *_ = socket.recv_fds(self._control, MAX_PACKET, 1)
        except BlockingIOError:
            return
        except OSError:
            packet, descriptors = b"", []
        if not packet:
            self._loop.remove_reader(self._control)  # its end will be told by its pidfd
            return
        try:
            message, _ = from_template.decode([packet])
        except (MalformedMessage, MessageTooLarge) as error:
            self.fail(f"it sent what is no message: {error.message}")
            return
        self._hear(message, descriptors)

    def _hear(self, message: FromTemplate, descriptors: list[int]) -> None:
        match message:
            case Serving():
                self._patience.cancel()
                self.state, self._told = "serving", message
                logger.info("template: serving after %.2f s", sum(message.timings.values()))
                for model, found in message.skeletons.items():
                    if found != "ready":
                        logger.warning("template: %s will be loaded whole: %s", model, found)
                self.changed(self)
            case Refused():
                self.reason, self.refused = message.reason, self._told is None
            case Forked():
                self._welcome(message, descriptors)
            case _:
                assert_never(message)

    def _welcome(self, forked: Forked, descriptors: list[int]) -> None:
        order = self.asked.pop(forked.epoch, None)
        if order is None or order.pipes is None or len(descriptors) != 1:
            for descriptor in descriptors:
                os.close(descriptor)
            self.fail(f"it forked epoch {forked.epoch}, which nobody asked for")
            return
        process = ChildProcess.adopt(forked.pid, descriptors[0], order.pipes, order.on_exit)
        order.then(process)
        if self._retiring and not self.asked:
            self._process.end(None)

    def _on_exit(self, exit: ExitStatus) -> None:
        self._read_last_words()
        self.state = "gone"
        self._patience.cancel()
        self._loop.remove_reader(self._control)
        self._control.close()
        if not self._retiring:
            self.reason = self.reason or f"it died: {exit.words}"
            logger.warning("template: %s", self.reason)
            for line in exit.stderr:
                logger.warning("template: %s", line)
        orders, self.asked = list(self.asked.values()), {}
        self.changed(self)
        for order in orders:
            if order.pipes is not None:
                order.pipes.close()
            order.then(None)

    def _read_last_words(self) -> None:
        """Its death may be noticed before its Refused has been read; a worker that it forked in
        its last moment is not lost either."""
        with suppress(OSError):
            while True:
                packet, descriptors, *_ = socket.recv_fds(self._control, MAX_PACKET, 1)
                if not packet:
                    return
                message, _ = from_template.decode([packet])
                self._hear(message, descriptors)


def _memory_file(setup: Setup) -> int:
    """A descriptor that reads the set-up to its end; of any size, unlike a packet or a pipe."""
    (content,) = setups.encode(setup)
    descriptor = os.memfd_create("hermetic-setup", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as stream:
        stream.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _private_bytes(pid: int) -> int:
    """What exists in memory because of this process alone: its anonymous pages, proc(5)."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    line = next((each for each in rollup.splitlines() if each.startswith("Anonymous:")), "")
    return int(line.split()[1]) * 1024 if line else 0
