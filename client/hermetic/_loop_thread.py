"""An event loop in a thread of its own, for callers that block. Knows nothing of the daemon."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

__all__ = ["LoopThread"]

_Arguments = ParamSpec("_Arguments")
_Returned = TypeVar("_Returned")

_FAREWELL_S = 2.0
"""How long the end waits for the thread, and the thread for what still runs in it."""
_HEED_SIGNALS_S = 0.5


class LoopThread:
    """Runs coroutines for other threads until it is closed, or its owner is gone.

    `farewell` is awaited in the loop before it ends: by `close()`, when `owner` is collected, or at
    the interpreter's exit.
    """

    def __init__(self, owner: object, farewell: Callable[[], Awaitable[None]]) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        # A daemon thread: an app that forgets to close its client can still end.
        thread = threading.Thread(
            target=_serve, args=(self._loop,), name="hermetic-client", daemon=True
        )
        self._end = weakref.finalize(owner, _end, self._pid, self._loop, thread, farewell)
        thread.start()

    def run(
        self,
        function: Callable[_Arguments, Awaitable[_Returned]],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Returned:
        """What the coroutine function returns or raises, waited for in the calling thread.

        Ctrl-C breaks the wait off and cancels the coroutine. Raises RuntimeError after `close()`
        and in a fork.
        """
        self._check()

        async def call() -> _Returned:
            return await function(*args, **kwargs)

        future = asyncio.run_coroutine_threadsafe(call(), self._loop)
        try:
            # In slices: a signal that comes just before the wait begins is heeded after it.
            while not future.done():
                with suppress(TimeoutError):
                    future.exception(_HEED_SIGNALS_S)
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def start(
        self,
        function: Callable[_Arguments, Awaitable[object]],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> None:
        """Runs the coroutine function without waiting for it; after `close()` and in a fork not
        at all. May be called in any thread, also in the loop's own."""
        if self._pid != os.getpid() or not self._end.alive:
            return

        async def call() -> None:
            await function(*args, **kwargs)

        asyncio.run_coroutine_threadsafe(call(), self._loop)

    def close(self) -> None:
        """Says farewell and ends the thread; again is no error, in a fork it does nothing."""
        self._end()

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise RuntimeError(
                f"This client was made by process {self._pid} and this is its fork {os.getpid()}. "
                "Threads and connections do not survive a fork: make a new client here."
            )
        if not self._end.alive:
            raise RuntimeError("This client is closed; make a new one.")


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _end(
    pid: int,
    loop: asyncio.AbstractEventLoop,
    thread: threading.Thread,
    farewell: Callable[[], Awaitable[None]],
) -> None:
    if pid != os.getpid() or loop.is_closed():
        return
    asyncio.run_coroutine_threadsafe(_finish(loop, farewell), loop)
    # The collector may run in any thread, also in this one.
    if threading.current_thread() is not thread:
        thread.join(_FAREWELL_S)


async def _finish(loop: asyncio.AbstractEventLoop, farewell: Callable[[], Awaitable[None]]) -> None:
    try:
        await farewell()
        others = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
        if others:
            await asyncio.wait(others, timeout=_FAREWELL_S)
    finally:
        loop.stop()
