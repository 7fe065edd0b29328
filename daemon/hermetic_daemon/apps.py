"""The connected apps: who is behind a connection, and whether they are still there.

ZeroMQ tells of no disconnect. An app is gone when it says so, when its process has died (the kernel
tells), or when what it is sent cannot be delivered; whichever is noticed first.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass

from .door import Peer
from .jobs import App

__all__ = ["Apps", "Connection"]

MAX_CONNECTIONS = 4096
"""Of which the names are known; an older one is greeted again under no name."""


@dataclass(eq=False)
class Connection:
    """Who is behind a connection; to be held by whoever owes it an answer."""

    app: App
    gone: bool = False
    """Whether the app is known to be gone. Not where only its name is not known any more."""


class Apps:
    """Apps by connection; `on_gone` is told once of each connection whose app is gone."""

    def __init__(self, on_gone: Callable[[bytes], None]) -> None:
        self._on_gone = on_gone
        self._connections: dict[bytes, Connection] = {}
        self._watched: dict[int, int] = {}
        """The pidfd by pid."""
        self._loop = asyncio.get_running_loop()

    def greet(self, peer: Peer, name: str) -> Connection:
        """A connection has said its name, or another one."""
        app = App(name, peer.uid, peer.pid)
        known = self._connections.get(peer.identity)
        if known is not None:
            known.app = app
            return known
        connection = self._connections[peer.identity] = Connection(app)
        self._watch(peer.pid)
        if len(self._connections) > MAX_CONNECTIONS:
            del self._connections[next(iter(self._connections))]
        return connection

    def behind(self, peer: Peer) -> Connection:
        """Who speaks; without a name where it has said none."""
        return self._connections.get(peer.identity) or self.greet(peer, "")

    def lose(self, identity: bytes) -> None:
        """The connection is gone."""
        connection = self._connections.pop(identity, None)
        if connection is not None:
            connection.gone = True
            pid = connection.app.pid
            if all(other.app.pid != pid for other in self._connections.values()):
                self._unwatch(pid)
        self._on_gone(identity)

    def close(self) -> None:
        """Look after nobody any more."""
        for pid in tuple(self._watched):
            self._unwatch(pid)

    def _watch(self, pid: int) -> None:
        if pid in self._watched:
            return
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:  # of another PID namespace, or gone already: a lost message will tell
            return
        self._watched[pid] = descriptor
        self._loop.add_reader(descriptor, self._died, pid)

    def _unwatch(self, pid: int) -> None:
        descriptor = self._watched.pop(pid, None)
        if descriptor is not None:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)

    def _died(self, pid: int) -> None:
        self._unwatch(pid)
        for identity in [one for one, other in self._connections.items() if other.app.pid == pid]:
            self.lose(identity)
