"""One priority class: whose turn it is among the apps that have jobs in it. Pure.

The order is that of start-time fair queueing. Each line (an app's jobs of one class) has a *tag*:
the device seconds it was charged. The line with the lowest tag goes first. A line that comes back
from having nothing to run starts at the class's own virtual time, so nobody saves up credit. When a
class has nothing to do, its tags begin anew.
"""

from __future__ import annotations

import heapq
import itertools

from .lines import Line

__all__ = ["PriorityClass"]

_KEPT_LINES = 64
"""Of apps that have nothing waiting, before those are looked through that may be forgotten."""


class PriorityClass:
    """The lines of one priority class."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        """By app, also of apps that have had more than their share and nothing waiting."""
        self.active: dict[str, Line] = {}
        """Those with jobs that may run."""
        self._places: list[tuple[float, int, int, Line]] = []
        """A heap of the active lines' places, and of some that they have no more."""
        self._notes = itertools.count()
        self._time = 0.0
        """Virtual time: no line that becomes active has a lower tag."""
        self._running = 0

    def first(self) -> Line | None:
        """The line whose turn it is."""
        places = self._places
        while places:
            tag, number, _, line = places[0]
            if line.jobs and line.tag == tag and line.jobs[0].number == number:
                return line
            heapq.heappop(places)
        return None

    def update(self, line: Line, now: float) -> None:
        """The line has got jobs that may run, or has lost them."""
        if not line.jobs:
            self.active.pop(line.app, None)
            self._rest()
            return
        if line.app not in self.active:
            line.tag = max(line.tag, self._time)
            self.active[line.app] = line
        self._note_place(line)
        if len(self.active) == 1:
            self.note_first(now)

    def charge(self, line: Line, seconds: float) -> None:
        """It has had the device for so long, or less than it was charged for."""
        line.tag += seconds
        if line.jobs:
            self._note_place(line)
        self._rest()

    def note_first(self, now: float) -> None:
        """Its wait for a higher class, or for those whose model is loaded, begins."""
        line = self.first()
        if line is not None and line.jobs[0].first_since is None:
            line.jobs[0].first_since = now

    def begin(self, line: Line) -> None:
        """A job of the line begins, which still waits."""
        self._running += 1
        first = self.first() or line
        self._time = max(self._time, min(line.tag, first.tag))
        idle = len(self.lines) - len(self.active)
        if idle > len(self.active) + _KEPT_LINES:
            self._forget()

    def end(self, line: Line, seconds: float) -> None:
        """It runs no more, and took so much longer than it was charged for."""
        self._running -= 1
        self.charge(line, seconds)

    def _note_place(self, line: Line) -> None:
        place = line.tag, line.jobs[0].number, next(self._notes), line
        heapq.heappush(self._places, place)

    def _rest(self) -> None:
        """Where nobody has anything to do, nobody is ahead of another any more."""
        if not self.active and not self._running:
            self._time = 0.0
            self._places.clear()
            for line in self.lines.values():
                line.tag = 0.0
            self._forget()

    def _forget(self) -> None:
        """Lines that would begin anew at the present time anyway."""
        self.lines = {
            app: line
            for app, line in self.lines.items()
            if line.jobs or line.aside or line.tag > self._time
        }
