"""A job's news on stderr: one moving bar on a terminal, a few plain lines off it.

Reads updates and writes to stderr; never touches the job.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import click

from hermetic_wire.messages import JobLoading, JobQueued, JobRetrying, JobRunning, JobStep

from .output import age

if TYPE_CHECKING:
    from rich.progress import Progress

    from hermetic import JobUpdate, WatchUpdate

__all__ = ["News", "Phase", "PlainLines", "Show", "phase_of", "progress"]

_MILESTONES = 4
"""How many lines the steps of one job become off a terminal."""


class Show(Protocol):
    """Takes a job's updates as they come."""

    def __call__(self, update: JobUpdate, /) -> None: ...


@dataclass(frozen=True)
class Phase:
    """What an update means to whoever waits."""

    words: str
    done: float = 0.0
    of: float | None = None
    """None where nobody knows how much there is to do."""
    milestone: object = None
    """Off a terminal a phase is said again when this has changed."""


def phase_of(update: JobUpdate | WatchUpdate) -> Phase | None:
    """The phase that an update tells of; None for a preview, which is looked at, and for a job's
    end, which is told by its result."""
    match update:
        case JobQueued(position=position, estimate_s=estimate):
            words = f"waiting, {position} before it" if position else "next in turn"
            return Phase(f"{words}{_about(estimate)}", milestone=position)
        case JobRetrying(attempt=attempt, error=error, retry_after=seconds):
            when = f" in {age(max(seconds, 1))}" if seconds else ""
            why = error.message.partition("\n")[0].rstrip(".")
            return Phase(f"{why}; trying once more{when}", milestone=attempt)
        case JobLoading(stage=stage, fraction=fraction):
            return Phase(f"loading: {stage}" if stage else "loading", fraction, 1.0, stage)
        case JobRunning(epoch=epoch, pid=pid):
            return Phase(f"running in process {pid}, epoch {epoch}", milestone=epoch)
        case JobStep(step=step, steps=steps):
            milestone = step * _MILESTONES // max(steps, 1)
            return Phase(f"step {step} of {steps}", step, steps, milestone)
        case _:
            return None


def _about(estimate: float | None) -> str:
    """How long it may take, to the second: it is measured on other jobs."""
    return "" if estimate is None else f", about {age(max(estimate, 1))}"


class News:
    """What is new in a job's updates: a few words per change, none for each single step."""

    def __init__(self) -> None:
        self._last: tuple[type, object] | None = None

    def words(self, update: JobUpdate | WatchUpdate) -> str | None:
        """The words of an update; None where the last ones said as much."""
        phase = phase_of(update)
        if phase is None:
            return None
        last, self._last = self._last, (type(update), phase.milestone)
        first_steps = isinstance(update, JobStep) and phase.milestone == 0
        return None if last == self._last or first_steps else phase.words


class PlainLines:
    """A line per change: for logs, pipes and screen readers."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._news = News()

    def __call__(self, update: JobUpdate) -> None:
        """Say the update, unless it says what the last line said."""
        words = self._news.words(update)
        if words is not None:
            click.echo(f"{self._label}: {words}", err=True)


class _Bar:
    """One bar that stands for one phase after another."""

    def __init__(self, label: str, bar: Progress, clock: Callable[[], float]) -> None:
        self._label = label
        self._bar = bar
        self._clock = clock
        self._task = bar.add_task(label, total=None, note="")
        self._first_step: tuple[int, float] | None = None

    def __call__(self, update: JobUpdate) -> None:
        phase = phase_of(update)
        if phase is None:
            return
        rate = self._rate(update) if isinstance(update, JobStep) else ""
        self._bar.update(
            self._task,
            description=f"{self._label}: {phase.words}",
            completed=phase.done,
            total=phase.of,
            note=rate,
        )

    def _rate(self, update: JobStep) -> str:
        now = self._clock()
        if self._first_step is None or update.step <= self._first_step[0]:
            self._first_step = update.step, now
            return ""
        step, at = self._first_step
        return f"{(update.step - step) / max(now - at, 1e-6):.1f} it/s"


@contextmanager
def progress(
    label: str, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic
) -> Iterator[Show]:
    """Show one job's progress while the context lasts; the bar leaves no trace behind."""
    if quiet:
        yield lambda update: None
    elif not sys.stderr.isatty():
        yield PlainLines(label)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            yield _Bar(label, bar, clock)
