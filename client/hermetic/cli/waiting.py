"""Waiting for a job at a terminal: progress while it lasts, Ctrl-C as a cancel."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click

from hermetic_wire.errors import HermeticError, JobCancelled

from .progress import progress

if TYPE_CHECKING:
    from hermetic import Job, Result

__all__ = ["finish"]


def finish(job: Job, label: str, *, quiet: bool = False) -> Result:
    """The job's result, its progress shown under `label` until then.

    Ctrl-C cancels the job and waits for its end, then raises JobCancelled; a second Ctrl-C leaves
    at once, the cancel being the daemon's affair by then. Raises what the job's end raises.
    """
    try:
        with progress(label, quiet=quiet) as show:
            for update in job:
                show(update)
    except KeyboardInterrupt:
        click.echo("hermetic: cancelling; Ctrl-C again leaves at once", err=True)
        job.cancel()
        with suppress(HermeticError):
            job.result()
        raise JobCancelled(f"Job {job.id} was cancelled.") from None
    return job.result()
