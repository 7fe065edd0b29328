"""A job as a program with an event loop holds it. Reads its mailbox, waits for its news."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from hermetic_wire.errors import ResultTimeout, from_body
from hermetic_wire.generation import JobState
from hermetic_wire.messages import JobFailed, JobSucceeded

from ._connection import Connection
from ._mailbox import Mailbox
from ._result import Result
from ._updates import JobUpdate

__all__ = ["AsyncJob"]


class AsyncJob:
    """A job that the daemon has accepted. Iterate it for its updates, await `result()`."""

    def __init__(
        self, connection: Connection, box: Mailbox, cancel: Callable[[str], Awaitable[str]]
    ) -> None:
        """Made by AsyncClient only."""
        self._connection = connection
        self._box = box
        self._cancel = cancel

    @property
    def id(self) -> str:
        """The job's id, good in any process."""
        return self._box.job_id

    @property
    def state(self) -> JobState:
        """What the daemon said last."""
        return self._box.state

    async def __aiter__(self) -> AsyncIterator[JobUpdate]:
        """Its updates, the last one JobSucceeded or JobFailed; a failed job raises nothing here.

        Where previews were asked for they come between the others, as Preview objects. Of waiting
        updates of one kind only the newest is kept, so a slow loop skips steps. Two loops at once
        share the updates. Raises DaemonUnreachable or UnknownJob for a job that is lost.
        """
        async for update in self._updates(None):
            yield update

    async def result(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - the job goes on after it
    ) -> Result:
        """Waits for the end, over restarts of the daemon too. Raises the error by which the job
        ended, or ResultTimeout after `timeout` seconds; then it goes on and may be asked again."""
        async with self._patience(timeout):
            while not self._box.over:
                await self._connection.news(self.id)
        self._box.check()
        match self._box.end:
            case JobSucceeded() as end:
                return Result(end, self._box.raw)
            case JobFailed(error=error):
                raise from_body(error)
            case None:
                raise AssertionError(f"job {self.id} is over and has no end")

    async def cancel(self) -> str:
        """Ends the job; returns what the daemon says. The end itself is an update."""
        return await self._cancel(self.id)

    async def _watch(
        self,
        timeout: float | None,  # noqa: ASYNC109 - as above
        on_update: Callable[[JobUpdate], None] | None,
    ) -> Result:
        if on_update is None:
            return await self.result(timeout)
        async for update in self._updates(timeout):
            on_update(update)
        return await self.result()

    async def _updates(
        self,
        timeout: float | None,  # noqa: ASYNC109 - as above
    ) -> AsyncIterator[JobUpdate]:
        """The updates until the end, all of them within `timeout` seconds."""
        clock = asyncio.get_running_loop().time
        deadline = None if timeout is None else clock() + timeout
        ended = False
        while not ended:
            update = await self._next(None if deadline is None else deadline - clock())
            ended = isinstance(update, (JobSucceeded, JobFailed))
            yield update

    async def _next(self, timeout: float | None) -> JobUpdate:  # noqa: ASYNC109 - as above
        """The next update, and the last one for ever. Raises ResultTimeout."""
        async with self._patience(timeout):
            while (update := self._box.take()) is None:
                await self._connection.news(self.id)
        return update

    @asynccontextmanager
    async def _patience(self, timeout: float | None) -> AsyncIterator[None]:  # noqa: ASYNC109
        try:
            async with asyncio.timeout(timeout):
                yield
        except TimeoutError as error:
            raise ResultTimeout(
                f"Job {self.id} did not end within the time given; it is {self.state} and goes on. "
                "Its id takes hold of it again."
            ) from error
