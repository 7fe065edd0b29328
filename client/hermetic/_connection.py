"""Drives the Core over links: connects when first needed, comes back when the daemon does.

One task owns the link and reads it; whoever asks waits for a future that the task settles.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path

import zmq

from hermetic_wire.codec import Frame
from hermetic_wire.errors import DaemonUnreachable, HermeticError, to_body
from hermetic_wire.messages import FromApp, Reply

from ._core import Answered, Core, Event, Expected, Moved, expect
from ._link import Link, probe

__all__ = ["Connection"]

_FIRST_RETRY_S = 0.02
_LAST_RETRY_S = 0.5


class Connection:
    """The way from one event loop to the daemon at `path`; budgets are in seconds."""

    def __init__(
        self, path: Path, core: Core, *, connect_timeout: float, reconnect_timeout: float
    ) -> None:
        self._path = path
        self._core = core
        self._connect_timeout = connect_timeout
        self._reconnect_timeout = reconnect_timeout
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._link: Link | None = None
        self._life: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] | None = None
        self._answers: dict[int, asyncio.Future[Reply]] = {}
        self._news: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._closed = False

    async def ask(self, request: FromApp, kind: type[Expected]) -> Expected:
        """The reply to a request. Raises what the daemon refused it with, or DaemonUnreachable."""
        await self._open()
        frames = self._core.ask(request)
        answer = asyncio.get_running_loop().create_future()
        self._answers[request.seq] = answer
        try:
            await self._send(frames)
            return expect(kind, await answer)
        finally:
            del self._answers[request.seq]
            self._core.forget(request.seq)

    async def tell(self, request: FromApp) -> None:
        """Sends a request whose reply nobody waits for.

        To a daemon that is away it is sent when that is back, as every request is that has no
        reply; dropped where none is there and none is waited for.
        """
        if self._was_opened():
            await self._send(self._core.ask(request))

    async def news(self, job_id: str) -> None:
        """Returns when the job's mailbox, or for ALL_JOBS the watch, may have something new."""
        await self._news[job_id].wait()

    async def close(self) -> None:
        """Says goodbye and ends the connection; whoever still waits gets DaemonUnreachable."""
        self._closed = True
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait([self._life])
        if self._link is not None:
            await self._link.send(self._core.bye())
        self._drop_link(polite=True)
        self._abandon(_closed())
        if self._context is not None:
            self._context.term()

    async def _open(self) -> None:
        """Waits until a link is there or being made again. Raises DaemonUnreachable."""
        while True:
            if self._closed:
                raise RuntimeError("This client is closed; make a new one.")
            if self._life is None or self._life.done():
                self._opened = asyncio.get_running_loop().create_future()
                self._life = asyncio.create_task(self._live(self._opened))
                self._life.add_done_callback(self._explain)
            assert self._opened is not None
            await asyncio.shield(self._opened)
            # A link may be lost, with nobody waiting for anything, before this is woken.
            if self._was_opened():
                return

    def _was_opened(self) -> bool:
        """Whether a link is there, or was and is being made again."""
        opened = self._opened is not None and self._opened.done()
        return opened and self._life is not None and not self._life.done()

    async def _live(self, opened: asyncio.Future[None]) -> None:
        """One life: from the first link until nothing is awaited of a daemon that went away."""
        # Seen, also when the one who asked has left meanwhile.
        opened.add_done_callback(lambda future: future.cancelled() or future.exception())
        try:
            link = await self._connect()
        except HermeticError as error:
            opened.set_exception(error)
            return
        opened.set_result(None)
        while True:
            await self._serve(link)
            self._drop_link()
            self._dispatch(self._core.disconnected())
            if not self._core.busy:
                return
            try:
                link = await self._reconnect()
            except HermeticError as error:
                self._abandon(error)
                return
            for frames in self._core.resume():
                await link.send(frames)

    def _explain(self, life: asyncio.Task[None]) -> None:
        """Whatever ended a life, a bug here included, nobody may wait for it for ever."""
        reason: HermeticError = _closed()
        if not life.cancelled() and (error := life.exception()) is not None:
            reason = HermeticError(f"The client's connection failed: {error!r}.")
            self._drop_link()
            self._abandon(reason)
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(reason)

    async def _connect(self) -> Link:
        """A greeted link. Raises DaemonUnreachable, or what the daemon refuses it with."""
        probe(self._path)
        try:
            if self._context is None:
                self._context = zmq.Context()
            link = Link(self._context, self._path)
        except zmq.ZMQError as error:  # such as too many open files
            raise DaemonUnreachable(
                f"No connection to {self._path} can be made: {error}."
            ) from error
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._greet(link)
        except TimeoutError as error:
            link.close()
            raise DaemonUnreachable(
                f"Something listens at {self._path} and did not answer as a daemon within "
                f"{self._connect_timeout:g} s; look at what it wrote to its log."
            ) from error
        except BaseException:
            link.close()
            raise
        self._link = link
        return link

    async def _greet(self, link: Link) -> None:
        await link.send(self._core.hello())
        while (frames := await link.receive()) is not None:
            if self._core.greeted(frames):
                return
        raise DaemonUnreachable(f"The daemon at {self._path} ended before it had answered.")

    async def _reconnect(self) -> Link:
        delay = _FIRST_RETRY_S
        try:
            async with asyncio.timeout(self._reconnect_timeout):
                while True:
                    try:
                        return await self._connect()
                    except DaemonUnreachable:
                        await asyncio.sleep(delay)
                        delay = min(2 * delay, _LAST_RETRY_S)
        except TimeoutError as error:
            raise DaemonUnreachable(
                f"The daemon at {self._path} went away and did not come back within "
                f"{self._reconnect_timeout:g} s. What it had accepted is kept and goes on when "
                "it is back; ask by the job's id."
            ) from error

    async def _serve(self, link: Link) -> None:
        """Reads until the link is lost."""
        while (frames := await link.receive()) is not None:
            self._dispatch(self._core.receive(frames))
            await asyncio.sleep(0)  # a stream of messages must not hold up the app's own tasks

    def _dispatch(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Answered(seq, reply):
                    answer = self._answers.get(seq)
                    if answer is not None and not answer.done():
                        answer.set_result(reply)
                case Moved(job_id):
                    waiting = self._news.pop(job_id, None)
                    if waiting is not None:
                        waiting.set()

    async def _send(self, frames: list[Frame]) -> None:
        # Without a link the request waits in the core, which says it again to the next daemon.
        if self._link is not None:
            await self._link.send(frames)

    def _drop_link(self, *, polite: bool = False) -> None:
        if self._link is not None:
            self._link.close(polite=polite)
            self._link = None

    def _abandon(self, error: HermeticError) -> None:
        self._dispatch(self._core.abandon(to_body(error)))


def _closed() -> DaemonUnreachable:
    return DaemonUnreachable("The client was closed before the daemon answered.")
