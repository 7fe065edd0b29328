"""Something that is to happen at a moment which is mostly put off before it comes.

The loop's own timers cost an object and a place in its heap each time; here to put a moment off
costs an assignment, and the timer finds out when it fires.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Alarm"]


class Alarm:
    """Calls back once, at the moment that was set last. Moments are those of the loop's clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0
        self._ring: Callable[[], None] | None = None

    def set(self, at: float, ring: Callable[[], None]) -> None:
        """Call `ring` then, instead of what was set before."""
        self._at, self._ring = at, ring
        if self._timer is not None and self._timer.when() > at:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(at, self._look)

    def clear(self) -> None:
        """Nothing is to happen any more."""
        self._ring = None

    def _look(self) -> None:
        fired, self._timer = self._timer, None
        ring = self._ring
        if ring is None:
            return
        if fired is not None and self._at > fired.when():
            self._timer = self._loop.call_at(self._at, self._look)
        else:
            self._ring = None
            ring()
