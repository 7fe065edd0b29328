"""Who may load when: not before the memory of those who leave is proven to be free."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from hermetic_wire.errors import HermeticError, MemoryNotReleased

from .life import Life
from .memory import Memory, prove_release

__all__ = ["Releases"]

logger = logging.getLogger(__name__)


class Releases:
    """The epochs whose device memory is on its way back, and the workers that wait for it.

    `may_load` is told of each worker that waits no more, `refuse` of each that would wait for ever.
    """

    def __init__(
        self,
        memory: Memory,
        seconds: float,
        may_load: Callable[[Life], None],
        refuse: Callable[[Life, HermeticError], None],
    ) -> None:
        """`seconds` is how long an end may take, and then again the release of its memory."""
        self._memory = memory
        self._seconds = seconds
        self._may_load = may_load
        self._refuse = refuse
        self._loop = asyncio.get_running_loop()
        self._releasing: set[int] = set()
        """Gone, but not proven to have let go."""
        self._unproven: list[Life] = []
        """Gone, and past their time to let go; looked at again before the next load."""
        self._waiting: list[Life] = []

    def hold_back(self, worker: Life, leaving: set[int], size_bytes: int) -> None:
        """Have the worker wait for all who leave, where the memory does not allow both.

        `leaving` are the epochs that end and are not gone yet; the model's files have
        `size_bytes`.
        """
        unproven, self._unproven = self._unproven, []
        for dead in unproven:
            self.gone(dead, lambda seconds: None)
        all_leaving = leaving | self._releasing
        if all_leaving and not self._memory.allows_beside(size_bytes):
            worker.waits_for = all_leaving
            self._waiting.append(worker)
            self._loop.call_later(self._seconds, self._lose_patience, worker)

    def gone(self, dead: Life, then: Callable[[float], None]) -> None:
        """A worker has been reaped: watch its memory come back; `then` gets the seconds it took."""
        reaped = time.monotonic()
        self._releasing.add(dead.epoch)

        def settled(error: HermeticError | None) -> None:
            self._releasing.discard(dead.epoch)
            if error is None:
                then(time.monotonic() - reaped)
            else:
                logger.error("epoch %d: %s", dead.epoch, error.message)
                self._unproven.append(dead)
            self._let_go(dead.epoch, error)

        prove_release(self._memory, dead.pid, self._seconds, self._loop, settled)

    def _let_go(self, epoch: int, error: HermeticError | None) -> None:
        for worker in [one for one in self._waiting if epoch in one.waits_for]:
            worker.waits_for.discard(epoch)
            if error is not None:
                self._give_up(worker, error)
            elif not worker.waits_for:
                self._waiting.remove(worker)
                self._may_load(worker)

    def _lose_patience(self, worker: Life) -> None:
        """Even SIGKILL does not end a process that hangs in a driver."""
        alive = sorted(worker.waits_for - self._releasing)
        if worker in self._waiting and alive:
            who = ", ".join(f"epoch {epoch}" for epoch in alive)
            self._give_up(
                worker,
                MemoryNotReleased(
                    f"The worker of {worker.name} waits for the memory of {who}, which was killed "
                    f"{self._seconds:g} s ago and has not ended: it hangs in the kernel or in a "
                    "driver. Try again later; if it stays, restart the machine."
                ),
            )

    def _give_up(self, worker: Life, error: HermeticError) -> None:
        self._waiting.remove(worker)
        self._refuse(worker, error)
