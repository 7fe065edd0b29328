"""Who may load when: not before the memory of those who leave is proven to be free."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from hermetic_wire.errors import HermeticError

from .life import Life
from .memory import Memory, prove_release

__all__ = ["Releases"]

logger = logging.getLogger(__name__)


class Releases:
    """The epochs whose device memory is on its way back."""

    def __init__(self, memory: Memory, seconds: float) -> None:
        """`seconds` is how long a release may take after the reap."""
        self._memory = memory
        self._seconds = seconds
        self._releasing: set[int] = set()
        """Gone, but not proven to have let go."""

    def to_wait_for(self, leaving: set[int], size_bytes: int) -> set[int]:
        """The epochs that have to be gone before a model of `size_bytes` on disk may load.

        `leaving` are those that end and are not gone yet. None, where the memory allows both.
        """
        all_leaving = leaving | self._releasing
        if not all_leaving or self._memory.allows_beside(size_bytes):
            return set()
        return all_leaving

    def prove(self, gone: Life, then: Callable[[float, HermeticError | None], None]) -> None:
        """Watch a reaped worker's memory come back.

        `then` is called once, with the seconds that it took, and with MemoryNotReleased where it
        did not come.
        """
        reaped = time.monotonic()
        self._releasing.add(gone.epoch)

        def proven(error: HermeticError | None) -> None:
            self._releasing.discard(gone.epoch)
            if error is not None:
                logger.error("epoch %d: %s", gone.epoch, error.message)
            then(time.monotonic() - reaped, error)

        loop = asyncio.get_running_loop()
        prove_release(self._memory, gone.pid, self._seconds, loop, proven)
