"""One who watches all jobs, over all daemons: how often the end of each was announced."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import zmq

from hermetic_wire.messages import Hello, JobEnded, Watch, from_app, from_daemon

__all__ = ["Watcher"]


class Watcher:
    """Asks for all news on a bare connection; `hear` reads what has come."""

    def __init__(self, endpoint: Path) -> None:
        self.ended: Counter[str] = Counter()
        """By the job's id."""
        self._endpoint = endpoint
        self._context = zmq.Context()
        self._socket = self._connected()

    def begin_again(self) -> None:
        """With a new daemon; what the former one said last is read before."""
        self.hear()
        self._socket.close()
        self._socket = self._connected()

    def hear(self) -> None:
        """Without waiting."""
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            message, _ = from_daemon.decode(frames)
            if isinstance(message, JobEnded):
                self.ended[message.job_id] += 1

    def close(self) -> None:
        """Enough."""
        self._socket.close()
        self._context.term()

    def _connected(self) -> zmq.Socket[bytes]:
        found = self._context.socket(zmq.DEALER)
        found.setsockopt(zmq.LINGER, 0)
        found.setsockopt(zmq.RCVHWM, 0)
        found.connect(f"ipc://{self._endpoint}")
        found.send_multipart(from_app.encode(Hello(seq=1, app="watcher")))
        found.send_multipart(from_app.encode(Watch(seq=2)))
        return found
