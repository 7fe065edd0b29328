"""The news of all jobs of a user, on a connection of its own.

Of its own, because a daemon tells a connection that watches and follows everything twice.
"""

from __future__ import annotations

from hermetic_wire.messages import Done, Watch

from ._connection import Connection
from ._core import ALL_JOBS, Core
from ._updates import WatchUpdate
from ._watching import Watching

__all__ = ["Events"]


class Events:
    """One watch. Begins with the first `next` and lasts until it is closed or lost."""

    def __init__(self, connection: Connection, core: Core, app: str | None) -> None:
        """Made by AsyncClient only; the connection is this watch's alone."""
        self._connection = connection
        self._core = core
        self._app = app
        self._watching: Watching | None = None

    async def next(self) -> WatchUpdate:
        """The next news, waited for. Raises DaemonUnreachable once the daemon stays away."""
        if self._watching is None:
            watching = self._core.open_watch(self._app)
            request = Watch(seq=self._core.number(), app=self._app)
            await self._connection.ask(request, Done)
            self._watching = watching
        while (update := self._watching.take()) is None:
            await self._connection.news(ALL_JOBS)
        return update

    async def close(self) -> None:
        """Ends the watch; whoever waits for news gets DaemonUnreachable."""
        await self._connection.close()
