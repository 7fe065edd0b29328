"""The endpoint that apps talk to: owns it, tells who is speaking, decodes, answers.

It knows peers and messages, not jobs. Whatever a peer sends, it costs that peer an error and
nobody else anything.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq

from hermetic_wire import PROTOCOL
from hermetic_wire.codec import Frame, unpack
from hermetic_wire.errors import (
    DaemonRunning,
    HermeticError,
    InvalidConfiguration,
    ProtocolMismatch,
    to_body,
)
from hermetic_wire.messages import (
    FromApp,
    FromDaemon,
    Hello,
    Rejected,
    from_app,
    from_daemon,
)

from .router import Router

__all__ = ["Door", "Peer"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Peer:
    """An app's connection: its identity is the kernel's word (SO_PEERCRED), not its own."""

    identity: bytes
    uid: int
    pid: int

    def may_act_for(self, uid: int) -> bool:
        """Whether it may touch what belongs to `uid`: its own, or anything as root."""
        return self.uid in (uid, 0)


class Door:
    """A ROUTER on the endpoint. `on_request(peer, request)` gets what is well-formed."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        path: Path,
        on_request: Callable[[Peer, FromApp], None],
        on_lost: Callable[[bytes], None],
    ) -> None:
        self.path = path
        self._on_request = on_request
        self._lock = _own(path)
        self._router = Router(context, path, self._on_frames, on_lost)

    def close(self) -> None:
        """Answer nobody any more and free the endpoint."""
        self._router.close()
        self.path.unlink(missing_ok=True)
        os.close(self._lock)

    def send(self, identity: bytes, message: FromDaemon, raw: Sequence[Frame] = ()) -> None:
        """Send without waiting; pixels are not copied."""
        self._router.send(identity, from_daemon.encode(message, raw))

    def is_slow(self, identity: bytes) -> bool:
        """Whether the peer has not read what it was sent already."""
        return self._router.is_slow(identity)

    def reject(self, identity: bytes, seq: int | None, error: HermeticError) -> None:
        """Answer a request with an error."""
        self.send(identity, Rejected(seq=seq, error=to_body(error)))

    def _on_frames(self, identity: bytes, frames: list[zmq.Frame]) -> None:
        peer = _peer(identity, frames)
        if peer is None:
            logger.warning("dropped a message whose sender the kernel does not name")
            return
        header: Frame = frames[0].buffer
        try:
            request, _ = from_app.decode([frame.buffer for frame in frames])
            if isinstance(request, Hello) and request.v != PROTOCOL:
                raise ProtocolMismatch(
                    f"The app speaks protocol {request.v}, the daemon {PROTOCOL}. Install the "
                    "same version of Hermetic for both."
                )
        except HermeticError as error:
            logger.info("refused a message of pid %d: %s", peer.pid, error.message)
            self.reject(identity, _sequence_number(header), error)
        else:
            self._on_request(peer, request)


def _own(path: Path) -> int:
    """Take the endpoint for this process, for as long as it lives.

    A second bind would silently steal it from a running daemon, hence the lock first. Raises
    DaemonRunning where another daemon has it.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = path.parent.stat().st_uid
        if owner not in (os.getuid(), 0):
            raise InvalidConfiguration(
                f"The directory {path.parent} belongs to uid {owner}, who could replace the socket "
                "in it. Set HERMETIC_ENDPOINT to a directory of your own."
            )
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidConfiguration(
            f"The endpoint {path} cannot be made: {error.strerror}. Set HERMETIC_ENDPOINT to a "
            "place that can be written."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise DaemonRunning(
            f"A daemon (pid {pid}) serves {path} already. Use it, or end it: hermetic stop."
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _peer(identity: bytes, frames: list[zmq.Frame]) -> Peer | None:
    """From the property that libzmq takes of an ipc connection: `localhost:UID:GID:PID`."""
    if not frames:
        return None
    try:
        _, uid, _, pid = str(frames[0].get("Peer-Address")).split(":")
        return Peer(identity, int(uid), int(pid))
    except (ValueError, zmq.ZMQError):
        return None


def _sequence_number(header: Frame) -> int | None:
    """What a refused request called itself, as far as it can be told."""
    try:
        fields = unpack(header)
    except HermeticError:
        return None
    seq = fields.get("seq") if isinstance(fields, dict) else None
    return seq if isinstance(seq, int) and not isinstance(seq, bool) else None
