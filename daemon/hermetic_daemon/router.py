"""A ROUTER socket in the asyncio loop: frames in by callback, frames out without waiting.

No receive is ever a future that could be cancelled in the middle and lose a message. A peer that
does not read is the only one that waits; one that is gone is told to the owner by `on_lost`.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Sequence
from pathlib import Path

import zmq

from hermetic_wire.codec import MAX_RAW_BYTES, Frame

from . import callbacks

__all__ = ["Router"]

DRAIN_BATCH = 64
"""Messages taken before the loop gets a turn."""
RETRY_SECONDS = 0.02
# Plain numbers: to calculate with the enumerations of pyzmq costs as much as a send.
_NOW = int(zmq.NOBLOCK)
_NOW_AND_MORE = int(zmq.NOBLOCK) | int(zmq.SNDMORE)
_READABLE = int(zmq.POLLIN)
_EVENTS = int(zmq.EVENTS)
_LARGE = 1 << 16
"""Bytes from which a frame is rather shared than copied."""
MAX_WAITING_BYTES = 1 << 30
"""Of all that is kept for a peer that does not read: the ends of 340 jobs with an image of 1024 x
1024 each, or news of a million. Past that it counts as lost, though its connection may live: nobody
tells it so, and it hears of its jobs when it follows them again."""
_MESSAGE_BYTES = 512
"""What a message takes beside its frames."""


class _Backlog:
    """What a peer has not read yet, in its order."""

    def __init__(self) -> None:
        self._messages: collections.deque[list[Frame | zmq.Frame]] = collections.deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def first(self) -> list[Frame | zmq.Frame]:
        """The message whose turn it is."""
        return self._messages[0]

    def add(self, message: list[Frame | zmq.Frame]) -> None:
        """Behind all others."""
        self._messages.append(message)
        self.bytes += _bytes_of(message)

    def remove_first(self) -> None:
        """It is sent."""
        self.bytes -= _bytes_of(self._messages.popleft())


class Router:
    """Binds `path` and speaks to many peers; `on_message(identity, frames)` gets what they say."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        path: Path,
        on_message: Callable[[bytes, list[zmq.Frame]], None],
        on_lost: Callable[[bytes], None],
    ) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._waiting: dict[bytes, _Backlog] = {}
        self._loop = asyncio.get_running_loop()
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.LINGER, 1000)
        # A hard stop for what no codec would take; below it the sender gets an error in words.
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_RAW_BYTES + (1 << 20))
        self._socket.bind(f"ipc://{path}")
        self._fd = int(self._socket.getsockopt(zmq.FD))
        self._draining = False
        self._loop.add_reader(self._fd, self._drain)

    def close(self) -> None:
        """Close the socket; what was sent has LINGER to leave."""
        self._loop.remove_reader(self._fd)
        self._socket.close()

    def send(self, peer: bytes, frames: Sequence[Frame | zmq.Frame]) -> None:
        """Send now, or as soon as the peer reads again. A peer that is gone is reported lost."""
        message = list(frames)
        if peer in self._waiting:
            self._keep(peer, message)
            return
        try:
            self._try(peer, message)
        except zmq.Again:
            self._waiting[peer] = _Backlog()
            self._keep(peer, message)
            self._loop.call_later(RETRY_SECONDS, self._retry, peer)
        except zmq.ZMQError:
            self._lose(peer)

    def _keep(self, peer: bytes, message: list[Frame | zmq.Frame]) -> None:
        backlog = self._waiting[peer]
        backlog.add(message)
        if backlog.bytes > MAX_WAITING_BYTES:
            self._lose(peer)

    def is_slow(self, peer: bytes) -> bool:
        """Whether messages already wait for the peer, so that mere progress may be left out."""
        return peer in self._waiting

    def _try(self, peer: bytes, message: list[Frame | zmq.Frame]) -> None:
        """Whether it can be sent is decided at the first frame: the others go with it."""
        self._socket.send(peer, _NOW_AND_MORE)
        *others, last = message
        for frame in others:
            self._socket.send(frame, _NOW_AND_MORE, copy=_is_small(frame))
        self._socket.send(last, _NOW, copy=_is_small(last))
        # The socket's descriptor is edge-triggered, and a send may have consumed the edge.
        if not self._draining and self._is_readable():
            self._draining = True
            self._loop.call_soon(self._drain)

    def _retry(self, peer: bytes) -> None:
        waiting = self._waiting.get(peer)
        try:
            while waiting:
                self._try(peer, waiting.first)
                waiting.remove_first()
        except zmq.Again:
            self._loop.call_later(RETRY_SECONDS, self._retry, peer)
        except zmq.ZMQError:
            self._lose(peer)
        else:
            self._waiting.pop(peer, None)

    def _lose(self, peer: bytes) -> None:
        self._waiting.pop(peer, None)
        self._on_lost(peer)

    def _drain(self) -> None:
        self._draining = True  # what is sent meanwhile has its answer looked for below
        for _ in range(DRAIN_BATCH):
            if self._socket.closed or not self._is_readable():
                self._draining = False
                return
            identity, *frames = self._receive()
            callbacks.call(self._loop, self._on_message, identity.bytes, frames)
        self._loop.call_soon(self._drain)

    def _is_readable(self) -> bool:
        """To ask costs a quarter of what it costs to be told by an exception."""
        return bool(int(self._socket.getsockopt(_EVENTS)) & _READABLE)

    def _receive(self) -> list[zmq.Frame]:
        """One whole message, which has to be there. As `recv_multipart`, which asks the socket
        after every frame whether that was the last, though the frame knows it."""
        frames = [self._socket.recv(_NOW, copy=False)]
        while frames[-1].more:
            frames.append(self._socket.recv(copy=False))
        return frames


def _is_small(frame: Frame | zmq.Frame) -> bool:
    if isinstance(frame, bytes):
        return len(frame) < _LARGE
    return not isinstance(frame, zmq.Frame) and memoryview(frame).nbytes < _LARGE


def _bytes_of(message: list[Frame | zmq.Frame]) -> int:
    sizes = (
        len(frame) if isinstance(frame, zmq.Frame) else memoryview(frame).nbytes
        for frame in message
    )
    return _MESSAGE_BYTES + sum(sizes)
