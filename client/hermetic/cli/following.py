"""`follow` and `events`: jobs that others have submitted, one of them or all."""

from __future__ import annotations

import json
import time

import click

from .completion import complete_job
from .diary import Diary
from .jobs import match
from .output import to_json
from .saving import (
    PREVIEW_SECONDS,
    check_output,
    output_option,
    preview_option,
    preview_saver,
    report,
)
from .session import Session
from .verb import json_option, verb
from .waiting import attend

__all__ = ["events", "follow"]


@verb("hermetic follow 3f2a", "hermetic follow 3f2a -o moon.png", "hermetic follow 3f2a --json")
@click.argument("wanted", metavar="JOB", shell_complete=complete_job)
@output_option
@preview_option
@click.option("--quiet", is_flag=True, help="No progress and no summary.")
@json_option
@click.pass_obj
def follow(
    session: Session,
    wanted: str,
    output: str | None,
    preview_file: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Wait for a job that was submitted elsewhere.

    Shows its progress, then writes its images. The beginning of its id is enough where no other
    job's id begins so. Ctrl-C leaves the job going on; so does a restart of the daemon.
    """
    # How many images it makes, only its end tells.
    check_output(output, 1, as_json)
    look = preview_saver(preview_file)
    with session.client() as client:
        rows = client.jobs()
        job_id = match(wanted, rows)
        [label] = {row.model for row in rows if row.id == job_id}
        pace = None if look is None else PREVIEW_SECONDS
        result = attend(client.job(job_id, preview_seconds=pace), label, quiet=quiet, look=look)
    check_output(output, len(result.sizes), as_json)
    report(result, output, quiet=quiet, as_json=as_json)


@verb("hermetic events", "hermetic events --app easel", "hermetic events --json | jq .job_id")
@click.option("--app", metavar="NAME", help="Only jobs of apps with this name.")
@json_option
@click.pass_obj
def events(session: Session, app: str | None, as_json: bool) -> None:
    """Tell what becomes of all jobs, as it happens.

    A line for each event, until Ctrl-C: first one for every job that has not ended. You hear of
    your own jobs, root hears of everyone's. With --json every line is an object. After a restart
    of the daemon the jobs that are open are told of again.
    """
    diary = Diary()
    with session.client() as client:
        for update in client.events(app=app):
            if as_json:
                kind = update.__struct_config__.tag
                event = {"type": kind, "at": time.time(), **to_json(update)}
                click.echo(json.dumps(event))
            elif line := diary.line(update, time.localtime()):
                click.echo(line)
