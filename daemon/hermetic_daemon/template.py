"""The templates, one after the other: starts them, asks them for workers, replaces them.

A template that refuses itself is not asked again until something changes; one that dies is started
again, more patiently each time. Whoever asks while there is none is told so, and starts a new
interpreter instead. No worker depends on the template that it came from.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from hermetic_wire.messages import TemplateStatus
from hermetic_wire.template import Setup

from .config import WorkerSection
from .forker import Forker, OnExit, Order, Then

__all__ = ["Template"]

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0
"""Seconds between the death of a template and the next start; doubled from one to the other."""


class Template:
    """What the supervisor asks for workers."""

    def __init__(self, config: WorkerSection, setup: Callable[[], Setup]) -> None:
        """`setup` is asked anew for each process, so that it knows the catalog of its time."""
        self._config = config
        self._setup = setup
        self._current: Forker | None = None
        self._next: Forker | None = None
        self._retired: set[Forker] = set()
        self._queue: list[Order] = []
        """Asked for while the first template starts."""
        self._pause = FIRST_PAUSE
        self._restart: asyncio.TimerHandle | None = None
        self._unstartable = ""
        """Why the last start gave no process at all."""
        self._closed = False
        self._ended: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Have a template made, if workers are to be forked at all."""
        if self._config.start_method == "fork" and not self._closed:
            self._restart = None
            self._next = self._make()

    @property
    def expecting(self) -> bool:
        """Whether a worker has been asked for that has not come yet."""
        return any(one.asked for one in self._forkers())

    def fork(
        self,
        epoch: int,
        token: str,
        on_exit: OnExit,
        then: Then,
        asked: Callable[[], None] = lambda: None,
    ) -> None:
        """Ask for a worker, `asked` says when; the first template may have to be waited for.

        `then` is called once, at once where no template can be asked.
        """
        self._place(Order(epoch, token, on_exit, then, asked))

    def _place(self, order: Order) -> None:
        if self._current is not None and self.ready:
            self._current.ask(order)
            if self._next is None and self._current.forks >= self._config.template_forks:
                self.renew(f"it has forked {self._current.forks} workers")
        elif self._next is not None and not self._has_one:
            self._queue.append(order)
        else:
            order.then(None)

    def renew(self, why: str) -> None:
        """Make another template; the present one serves until that is ready."""
        if self._config.start_method != "fork" or self._closed:
            return
        logger.info("the template is made anew: %s", why)
        if self._restart is not None:
            self._restart.cancel()
        if self._next is not None:
            self._retire(self._next)
        self._next = None
        self.start()

    def withdraw(self, epoch: int) -> None:
        """Nobody wants this worker any more: one that no template was asked for yet never comes."""
        withdrawn = [order for order in self._queue if order.epoch == epoch]
        self._queue = [order for order in self._queue if order.epoch != epoch]
        for order in withdrawn:
            order.then(None)

    def give_up(self, epoch: int) -> None:
        """The template that should have forked this epoch hangs: kill it."""
        for forker in self._forkers():
            if epoch in forker.asked:
                forker.fail("it does not fork")

    async def close(self) -> None:
        """End all templates; returns when they are gone."""
        self._closed = True
        if self._restart is not None:
            self._restart.cancel()
        for forker in self._forkers():
            forker.fail("the daemon ends")
        while self._forkers():
            self._ended = asyncio.get_running_loop().create_future()
            await self._ended

    @property
    def ready(self) -> bool:
        """Whether a fork can be had at once."""
        return self._current is not None and self._current.state == "serving"

    def status(self) -> TemplateStatus:
        """As `hermetic status` shows it."""
        if self._config.start_method != "fork":
            return TemplateStatus(state="off", reason='start_method = "exec"')
        forker = self._current if self._has_one else self._next or self._current
        if forker is None or (forker.state == "gone" and self._unstartable):
            reason = self._unstartable or "it is about to be started"
            return TemplateStatus(state="waiting", reason=reason)
        return forker.status()

    @property
    def _has_one(self) -> bool:
        return self._current is not None and self._current.state != "gone"

    def _forkers(self) -> list[Forker]:
        present = [one for one in (self._current, self._next) if one is not None]
        return [*(one for one in present if one.state != "gone"), *self._retired]

    def _make(self) -> Forker | None:
        self._unstartable = ""
        try:
            return Forker(self._config, self._setup(), self._changed)
        except OSError as error:
            program = self._config.template_command[0]
            self._unstartable = f"it cannot be started with {program}: {error}"
            logger.error("template: %s", self._unstartable)
            self._pause_and_start()
            self._answer_queue()
            return None

    def _changed(self, forker: Forker) -> None:
        """A template has become ready, or is gone."""
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        if forker.state == "serving":
            self._take_over(forker)
        elif forker in self._retired:
            self._retired.discard(forker)
        elif forker is self._next:
            # The one before it, if any, goes on: it is clean.
            self._next = None
            if not self._has_one:
                self._current = forker
            self._answer_queue()
            if not forker.refused:
                self._pause_and_start()
        elif forker is self._current and self._next is None:
            if not forker.died_of_it:  # else this may be a loop: it dies of every fork
                self._pause = FIRST_PAUSE
            self._pause_and_start()

    def _take_over(self, forker: Forker) -> None:
        if forker is not self._next:
            return
        if self._current is not None and self._has_one:
            self._retire(self._current)
        self._current, self._next = forker, None
        self._answer_queue()

    def _answer_queue(self) -> None:
        orders, self._queue = self._queue, []
        for order in orders:
            self._place(order)

    def _retire(self, forker: Forker) -> None:
        self._retired.add(forker)
        forker.retire()

    def _pause_and_start(self) -> None:
        if self._closed or self._restart is not None:
            return
        self._restart = asyncio.get_running_loop().call_later(self._pause, self.start)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
