"""An event loop whose clock a test can put forward: deadlines come without being waited for."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["ClockLoop", "advance", "eventually", "settle", "timed"]

T = TypeVar("T")

TURNS = 10
"""What one event of the loop sets off in the next turn, and that in the next, has ended by then."""


class ClockLoop(asyncio.SelectorEventLoop):
    """Its time is the machine's, and as much ahead of it as it was told."""

    def __init__(self) -> None:
        super().__init__(selectors.DefaultSelector())
        self._ahead = 0.0

    @classmethod
    def get_running(cls) -> ClockLoop:
        """The one that runs here."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, cls)
        return loop

    def time(self) -> float:
        """Seconds of a monotonic clock."""
        return super().time() + self._ahead

    def put_forward(self, seconds: float) -> None:
        """What is due within `seconds` is due now."""
        self._ahead += seconds


def timed(play: Coroutine[Any, Any, T]) -> T:
    """Run it on a loop of this kind."""
    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        return runner.run(play)


async def advance(seconds: float) -> None:
    """Let the time pass, and what is due by then happen."""
    ClockLoop.get_running().put_forward(seconds)
    await settle()


async def settle() -> None:
    """Let happen what can happen at once."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def eventually(condition: Callable[[], bool]) -> None:
    """Until it holds; what other processes do takes the time it takes, within the test's limit."""
    while not condition():  # noqa: ASYNC110 - other processes set no event
        await asyncio.sleep(0.002)
