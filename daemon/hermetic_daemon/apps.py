"""The connected apps: who is behind a connection, and whether they are still there.

ZeroMQ tells of no disconnect. An app is gone when it says so, when its process has died (the kernel
tells), or when what it is sent cannot be delivered; whichever is noticed first.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from .door import Peer
from .jobs import App

__all__ = ["Apps"]

MAX_CONNECTIONS = 4096
"""Of which the names are known; an older one is greeted again under no name."""


class Apps:
    """Apps by connection; `on_gone` is told once of each connection whose app is gone."""

    def __init__(self, on_gone: Callable[[bytes], None]) -> None:
        self._on_gone = on_gone
        self._apps: dict[bytes, App] = {}
        self._watched: dict[int, int] = {}
        """The pidfd by pid."""
        self._loop = asyncio.get_running_loop()

    def greet(self, peer: Peer, name: str) -> None:
        """A connection has said its name."""
        self._apps[peer.identity] = App(name, peer.uid, peer.pid)
        self._watch(peer.pid)
        if len(self._apps) > MAX_CONNECTIONS:
            del self._apps[next(iter(self._apps))]

    def behind(self, peer: Peer) -> App:
        """Who speaks; without a name where it has said none."""
        if peer.identity not in self._apps:
            self.greet(peer, "")
        return self._apps[peer.identity]

    def has(self, identity: bytes) -> bool:
        """Whether the connection is known, and its app not known to be gone."""
        return identity in self._apps

    def lose(self, identity: bytes) -> None:
        """The connection is gone."""
        app = self._apps.pop(identity, None)
        if app is not None and all(other.pid != app.pid for other in self._apps.values()):
            self._unwatch(app.pid)
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
        for identity in [one for one, app in self._apps.items() if app.pid == pid]:
            self.lose(identity)
