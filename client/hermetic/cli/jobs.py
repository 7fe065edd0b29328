"""`jobs` and `cancel`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from hermetic_wire.errors import HermeticError, InvalidParameter, UnknownJob

from .completion import complete_job
from .diary import Diary
from .job_rows import OPEN_STATES, RIGHT, SHORT_ID, Board, columns, table
from .output import print_table, write_json
from .session import Session
from .verb import json_option, verb

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hermetic import WatchUpdate
    from hermetic_wire.messages import JobRow

__all__ = ["cancel", "jobs", "match"]

_REFRESHES_PER_SECOND = 4


@verb("hermetic jobs", "hermetic jobs --watch", "hermetic jobs --json")
@click.option("--watch", is_flag=True, help="Keep the table up to date until Ctrl-C.")
@json_option
@click.pass_obj
def jobs(session: Session, watch: bool, as_json: bool) -> None:
    """List waiting, running and ended jobs.

    Waiting and running ones come first, in the order in which they will run. ESTIMATE is how long
    until a job has ended, from times that were measured. Off a terminal --watch prints a line per
    change, as `hermetic events` does.
    """
    if watch:
        if as_json:
            raise click.UsageError("--watch draws a table; for JSON as it happens: hermetic events")
        _watch(session)
        return
    with session.client() as client:
        rows = client.jobs()
    if as_json:
        write_json(rows)
    elif not rows:
        click.echo("No jobs yet.")
    else:
        print_table(columns(rows), table(rows, time.time()), right=RIGHT)


def _watch(session: Session) -> None:
    """Follow all jobs until Ctrl-C."""
    with session.client() as client:
        if sys.stdout.isatty():
            _live_table(client.events())
            return
        diary = Diary()
        for update in client.events():
            if line := diary.line(update, time.localtime()):
                click.echo(line)


def _live_table(news: Iterator[WatchUpdate]) -> None:
    from rich.live import Live

    board = Board()
    with Live(
        get_renderable=lambda: _rendered(board.rows(), time.time()),
        refresh_per_second=_REFRESHES_PER_SECOND,
    ):
        for update in news:
            board.note(update, time.time())


def _rendered(rows: list[JobRow], now: float) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return Text("No job waits or runs. Ctrl-C leaves.")
    drawn = Table(box=None, pad_edge=False)
    for name in columns(rows):
        drawn.add_column(name, justify="right" if name in RIGHT else "left", no_wrap=True)
    for cells in table(rows, now):
        drawn.add_row(*map(Text, cells))
    return drawn


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
            click.echo(f"{job_id[:SHORT_ID]}: {message}")
    if failure is not None:
        raise failure


def match(wanted: str, rows: Sequence[JobRow]) -> str:
    """The one job whose id begins so; an open one goes before those that have ended.

    Raises UnknownJob for none, InvalidParameter for several.
    """
    found = [row for row in rows if row.id.startswith(wanted)]
    open_ones = [row for row in found if row.state in OPEN_STATES]
    if any(row.id == wanted for row in found):
        return wanted
    candidates = open_ones or found
    if not candidates:
        raise UnknownJob(f"No job's id begins with {wanted!r}; `hermetic jobs` lists them.")
    if len(candidates) > 1:
        ids = ", ".join(sorted(row.id for row in candidates))
        raise InvalidParameter(f"{wanted!r} could be {len(candidates)} jobs: {ids}")
    return candidates[0].id
