"""A badly brought up app: frames as they are, without the client library."""

from __future__ import annotations

import zmq

from hermetic_wire.codec import Frame
from hermetic_wire.messages import FromDaemon, Rejected, from_daemon

from .daemon import RunningDaemon

__all__ = ["RawApp"]


class RawApp:
    """Says whatever it likes, and leaves without a word."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"ipc://{daemon.endpoint}")

    def say(self, *frames: Frame) -> None:
        """Send these frames as one message."""
        self._socket.send_multipart(list(frames))

    def hear(self) -> FromDaemon:
        """The next message."""
        assert self._socket.poll(10_000), "the daemon does not answer"
        message, _ = from_daemon.decode(self._socket.recv_multipart())
        return message

    def refusal(self, *frames: Frame) -> Rejected:
        """What is answered to these frames."""
        self.say(*frames)
        answer = self.hear()
        assert isinstance(answer, Rejected)
        return answer

    def close(self) -> None:
        """Be gone: the daemon is not told."""
        self._socket.close()
        self._context.term()
