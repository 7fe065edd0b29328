"""Waiting for a job at a terminal: progress while it lasts, Ctrl-C as a cancel or as a goodbye."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import click

from hermetic_wire.errors import HermeticError, JobCancelled

from .progress import progress

if TYPE_CHECKING:
    from hermetic import Job, Preview, Result

__all__ = ["Look", "attend", "finish"]

Look: TypeAlias = Callable[["Preview"], None]
"""Takes a job's previews as they come."""


def attend(job: Job, label: str, *, quiet: bool = False, look: Look | None = None) -> Result:
    """The job's result, its progress shown under `label` until then.

    Ctrl-C leaves the job going on. Raises what the job's end raises.
    """
    from hermetic import Preview

    with progress(label, quiet=quiet) as show:
        for update in job:
            show(update)
            if look is not None and isinstance(update, Preview):
                look(update)
    return job.result()


def finish(job: Job, label: str, *, quiet: bool = False, look: Look | None = None) -> Result:
    """As `attend`, of a job that is this command's own.

    Ctrl-C cancels the job and waits for its end, then raises JobCancelled; a second Ctrl-C leaves
    at once, the cancel being the daemon's affair by then. Raises what the job's end raises.
    """
    try:
        return attend(job, label, quiet=quiet, look=look)
    except KeyboardInterrupt:
        click.echo("hermetic: cancelling; Ctrl-C again leaves at once", err=True)
        job.cancel()
        with suppress(HermeticError):
            job.result()
        raise JobCancelled(f"Job {job.id} was cancelled.") from None
