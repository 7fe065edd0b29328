"""One template's process and the socket to it: asks for workers, takes them over, ends.

A worker arrives as a pidfd beside its message, and is this process's own child as soon as whoever
forked it has ended.
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

__all__ = ["Forker", "OnExit", "Order", "Then"]

logger = logging.getLogger(__name__)

OnExit: TypeAlias = Callable[[ExitStatus], None]
Then: TypeAlias = Callable[[ChildProcess | None], None]
"""Takes the forked worker, or None where it has to be started otherwise."""

MAX_PACKET = 1 << 20


@dataclass
class Order:
    """A worker that was asked for."""

    epoch: int
    token: str
    on_exit: OnExit
    then: Then
    asked: Callable[[], None]
    pipes: Pipes | None = None
    """Once the template has been asked."""


@dataclass(eq=False)
class Forker:
    """One template's process and the socket to it."""

    config: WorkerSection
    setup: Setup
    changed: Callable[[Forker], None]
    state: Literal["starting", "serving", "gone"] = "starting"
    reason: str = ""
    refused: bool = False
    forks: int = 0
    died_of_it: bool = False
    """Whether it ended while it was asked for a worker."""
    asked: dict[int, Order] = field(default_factory=dict)
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

    def ask(self, order: Order) -> None:
        """Send the request; the worker comes back as a packet of its own."""
        order.pipes = Pipes()
        request = ForkRequest(order.epoch, order.token).encode()
        self.asked[order.epoch] = order
        self.forks += 1
        order.asked()
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
        if not isinstance(message, Forked):
            for descriptor in descriptors:
                os.close(descriptor)
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
        order = self.asked.get(forked.epoch)
        if order is None or order.pipes is None or len(descriptors) != 1:
            for descriptor in descriptors:
                os.close(descriptor)
            self.fail(f"it forked epoch {forked.epoch} unasked, or its descriptor was lost")
            return
        del self.asked[forked.epoch]
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
        self.died_of_it = bool(orders)
        self.changed(self)
        for order in orders:
            if order.pipes is not None:
                order.pipes.close()
            order.then(None)

    def _read_last_words(self) -> None:
        """Its death may be noticed before its Refused has been read; a worker that it forked in
        its last moment is not lost either."""
        with suppress(OSError, MalformedMessage, MessageTooLarge):
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
