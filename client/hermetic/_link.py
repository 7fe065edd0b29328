"""One connection of its own socket: from a daemon that listens to a connection that is lost.

Never reconnects by itself: a new daemon gets a new link, so that nothing an old one said or was
sent can reach the new conversation.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path

import zmq

from hermetic_wire.codec import Frame
from hermetic_wire.errors import DaemonUnreachable

__all__ = ["Link", "probe"]

_ENDS = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_READABLE = int(zmq.POLLIN)
"""A plain number: to calculate with the enumerations of pyzmq costs more than to ask."""
_HEARTBEAT_MS = 5_000
_HEARTBEAT_TIMEOUT_MS = 20_000
"""A daemon that is stopped, not dead, is noticed after this; a busy one answers all the same,
because heartbeats are its I/O thread's."""
_NEVER_MS = 3_600_000
"""A lost link is closed long before ZeroMQ would reconnect it. Not -1, which means never: with it
zmq_ctx_term hangs for ever when a daemon dies in the handshake (libzmq 4.3.5)."""
_FAREWELL_MS = 200
"""How long closing may wait for what was sent last, such as a Cancel."""


def probe(path: Path) -> None:
    """Raises DaemonUnreachable, at once and in words, unless somebody listens at the socket.

    ZeroMQ itself would retry silently for ever.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as plain:
            plain.setblocking(False)
            plain.connect(str(path))
    except BlockingIOError:
        return  # its backlog is full: busy, but there
    except OSError as error:
        raise DaemonUnreachable(_why_not(path, error)) from error


def _why_not(path: Path, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"The daemon's socket {path} may not be used by this user; its group may."
    if isinstance(error, FileNotFoundError):
        found = f"There is no daemon's socket at {path}."
    elif isinstance(error, ConnectionRefusedError):
        found = f"No daemon listens at {path} any more."
    else:
        found = f"{path} cannot be connected to: {error.strerror}."
    return (
        f"{found} Start a daemon with `hermetic serve`, or set HERMETIC_ENDPOINT to where one is."
    )


class Link:
    """A DEALER socket and the monitor that tells of its end; both wake one event loop.

    Plain sockets and their descriptors: a message costs no future and no poll of both sockets.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], path: Path) -> None:
        """Starts to connect; what is sent before the handshake is done waits for it."""
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.RECONNECT_IVL, _NEVER_MS)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
        # At its high-water mark ZeroMQ blocks or drops. Here every message is awaited by somebody,
        # so their number is bounded by what the app asked for.
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._monitor = self._socket.get_monitor_socket(_ENDS)
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._descriptors = [int(one.getsockopt(zmq.FD)) for one in (self._socket, self._monitor)]
        for descriptor in self._descriptors:
            self._loop.add_reader(descriptor, self._woken.set)
        self._socket.connect(f"ipc://{path}")

    async def send(self, frames: Sequence[Frame]) -> None:
        """Hands the message to ZeroMQ, which never has to wait here."""
        # Without a high-water mark there is one reason to wait: the peer is gone, and `receive` is
        # about to say so.
        with contextlib.suppress(zmq.Again):
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        if _is_readable(
            self._socket
        ):  # its descriptor is edge-triggered, and a send takes the edge
            self._woken.set()

    async def receive(self) -> list[memoryview] | None:
        """The next message, its frames where ZeroMQ put them; None once the link is lost.

        May be cancelled: it waits for an event, never in a receive, which could lose a message.
        """
        while True:
            self._woken.clear()
            if (frames := self._read()) is not None:
                return frames
            if _is_readable(self._monitor):
                # Before the end is believed, what may have come with it since is read. The monitor
                # goes on telling of the end until nothing is left.
                return self._read()
            await self._woken.wait()

    def _read(self) -> list[memoryview] | None:
        if not _is_readable(self._socket):
            return None
        frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        return [memoryview(frame.buffer) for frame in frames]

    def close(self, *, polite: bool = False) -> None:
        """Ends the link; a polite end lets what was sent last go out."""
        for descriptor in self._descriptors:
            self._loop.remove_reader(descriptor)
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=_FAREWELL_MS if polite else 0)


def _is_readable(one: zmq.Socket[bytes]) -> bool:
    return bool(int(one.getsockopt(zmq.EVENTS)) & _READABLE)
