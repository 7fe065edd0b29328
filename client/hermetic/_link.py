"""One connection of its own socket: from a daemon that listens to a connection that is lost.

Never reconnects by itself: a new daemon gets a new link, so that nothing an old one said or was
sent can reach the new conversation.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

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
    """A DEALER socket and the monitor that tells of its end."""

    def __init__(self, context: zmq.asyncio.Context, path: Path) -> None:
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
        self._poller = zmq.asyncio.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._socket.connect(f"ipc://{path}")

    async def send(self, frames: Sequence[Frame]) -> None:
        """Hands the message to ZeroMQ, which never has to wait here."""
        # Without a high-water mark there is one reason to wait: the peer is gone, and `receive` is
        # about to say so.
        with contextlib.suppress(zmq.Again):
            await self._socket.send_multipart(frames, flags=zmq.NOBLOCK)

    async def receive(self) -> list[memoryview] | None:
        """The next message, its frames where ZeroMQ put them; None once the link is lost.

        May be cancelled: it waits in poll, never in a receive, which could lose a message.
        """
        while True:
            ready = dict(await self._poller.poll())
            # What has come is read before the end is believed.
            if self._socket in ready:
                frames = await self._socket.recv_multipart(flags=zmq.NOBLOCK, copy=False)
                return [memoryview(frame.buffer) for frame in frames]
            if self._monitor in ready:
                await recv_monitor_message(self._monitor)
                return None

    def close(self, *, polite: bool = False) -> None:
        """Ends the link; a polite end lets what was sent last go out."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=_FAREWELL_MS if polite else 0)
