"""The worker's end of the socket to the daemon: messages out, messages in. Decides nothing.

A Channel belongs to the thread that made it, which is the main thread of a worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import zmq

from hermetic_wire.codec import Frame
from hermetic_wire.errors import MalformedMessage, MessageTooLarge
from hermetic_wire.worker import FromWorker, ToWorker, from_worker, to_worker

__all__ = ["LINGER_MS", "Channel", "Link", "ProtocolBroken", "Waker"]

LINGER_MS = 1000
"""How long the last words may take to leave when the worker ends in order."""


class ProtocolBroken(Exception):
    """The daemon said what it may not say, in words; there is nothing left to talk about."""


class Waker(Protocol):
    """What ends a wait besides a message: `stopping.StopRequest`."""

    def fileno(self) -> int: ...


class Link(Protocol):
    """What a worker's loop needs of its channel."""

    def send(self, message: FromWorker, raw: Sequence[Frame] = ()) -> None: ...

    def receive(self) -> ToWorker | None: ...

    def poll(self) -> ToWorker | None: ...


class Channel:
    """A DEALER socket with a Context of its own (a Context never crosses a fork)."""

    def __init__(self, endpoint: str, waker: Waker) -> None:
        """Connects to `endpoint`, such as `ipc:///run/hermetic/workers.sock`."""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        # Without IMMEDIATE what is sent before the connection stands would be queued for a
        # daemon that may not exist.
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.connect(endpoint)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(waker.fileno(), zmq.POLLIN)

    def send(self, message: FromWorker, raw: Sequence[Frame] = ()) -> None:
        """Queue the message; large frames are sent without a copy.

        The caller gives the frames away: each is kept alive until it has left, and none may be
        written to again (a reused buffer once corrupted a message).
        """
        self._socket.send_multipart(from_worker.encode(message, raw), copy=False)

    def receive(self) -> ToWorker | None:
        """The next message, however long it takes; None when the waker ended the wait.

        Raises ProtocolBroken for what is no message to a worker.
        """
        return self._take() if self._ready(None) else None

    def poll(self) -> ToWorker | None:
        """A message that is here already, or None. Raises as `receive` does."""
        return self._take() if self._ready(0) else None

    def wait(self, timeout_ms: int) -> None:
        """Until the daemon says anything, the waker ends the wait, or the time is over."""
        self._ready(timeout_ms)

    def close(self) -> None:
        """Let the last messages leave, for at most LINGER_MS, and end."""
        self._context.destroy(linger=LINGER_MS)

    def _ready(self, timeout_ms: int | None) -> bool:
        return any(source is self._socket for source, _ in self._poller.poll(timeout_ms))

    def _take(self) -> ToWorker:
        try:
            message, _ = to_worker.decode(self._socket.recv_multipart())
        except (MalformedMessage, MessageTooLarge) as error:
            raise ProtocolBroken(error.message) from error
        return message
