"""`jobs` and `cancel`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from hermetic_wire.errors import HermeticError, InvalidParameter, UnknownJob

from .completion import complete_job
from .output import age, duration, print_table, write_json
from .session import Session
from .verb import json_option, verb

if TYPE_CHECKING:
    from hermetic_wire.messages import JobRow

__all__ = ["cancel", "jobs", "match"]

_SHORT = 8
"""Characters of a job's id that people read."""
_OPEN_STATES = ("queued", "loading", "running")


@verb("hermetic jobs", "hermetic jobs --json")
@json_option
@click.pass_obj
def jobs(session: Session, as_json: bool) -> None:
    """List waiting, running and ended jobs.

    Waiting and running ones come first, in the order in which they will run.
    """
    with session.client() as client:
        rows = client.jobs()
    if as_json:
        write_json(rows)
    elif not rows:
        click.echo("No jobs yet.")
    else:
        now = time.time()
        short = _shortest({row.id for row in rows})
        print_table(
            ("JOB", "APP", "MODEL", "STATE", "POSITION", "STEPS", "AGE", "TOOK", "ERROR"),
            [_cells(row, short, now) for row in rows],
            right=("POSITION", "STEPS", "AGE", "TOOK"),
        )


def _shortest(ids: set[str]) -> int:
    """How many characters tell these ids apart, 8 at least."""
    length = _SHORT
    while len({one[:length] for one in ids}) < len(ids):
        length += 1
    return length


def _cells(row: JobRow, short: int, now: float) -> tuple[str, ...]:
    took = (row.ended_at or now) - row.started_at if row.started_at is not None else None
    return (
        row.id[:short],
        row.app or f"pid {row.pid}",
        row.model,
        row.state,
        "-" if row.position is None else str(row.position),
        f"{row.step}/{row.steps}" if row.steps else "-",
        age(now - row.submitted_at) if row.submitted_at else "-",
        duration(took),
        row.error.message.partition("\n")[0] if row.error else "-",
    )


@verb("hermetic cancel 3f2a", "hermetic cancel 3f2a 91bc --json")
@click.argument("wanted", metavar="JOB...", nargs=-1, required=True, shell_complete=complete_job)
@json_option
@click.pass_obj
def cancel(session: Session, wanted: tuple[str, ...], as_json: bool) -> None:
    """Cancel jobs.

    The beginning of an id is enough where no other job's id begins so. All jobs are tried; the
    exit code is that of the first that could not be cancelled.
    """
    answers: dict[str, str] = {}
    failure: HermeticError | None = None
    with session.client() as client:
        rows = client.jobs()
        for one in wanted:
            try:
                found = match(one, rows)
                answers[found] = client.cancel(found)
            except HermeticError as error:
                failure = failure or error
                if error is not failure:
                    click.echo(f"hermetic: error: {error.message}", err=True)
    if as_json and failure is None:
        write_json([{"id": job_id, "message": message} for job_id, message in answers.items()])
    elif not as_json:
        for job_id, message in answers.items():
            click.echo(f"{job_id[:_SHORT]}: {message}")
    if failure is not None:
        raise failure


def match(wanted: str, rows: Sequence[JobRow]) -> str:
    """The one job whose id begins so; an open one goes before those that have ended.

    Raises UnknownJob for none, InvalidParameter for several.
    """
    found = [row for row in rows if row.id.startswith(wanted)]
    open_ones = [row for row in found if row.state in _OPEN_STATES]
    if any(row.id == wanted for row in found):
        return wanted
    candidates = open_ones or found
    if not candidates:
        raise UnknownJob(f"No job's id begins with {wanted!r}; `hermetic jobs` lists them.")
    if len(candidates) > 1:
        ids = ", ".join(sorted(row.id for row in candidates))
        raise InvalidParameter(f"{wanted!r} could be {len(candidates)} jobs: {ids}")
    return candidates[0].id
