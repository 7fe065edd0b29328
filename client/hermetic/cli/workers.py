"""`ps`, `load` and `unload`: the processes that hold models."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from .completion import complete_model
from .output import age, duration, print_table, size, to_json, write_json
from .parameters import read_duration
from .session import Session
from .verb import json_option, verb
from .waiting import finish

if TYPE_CHECKING:
    from hermetic_wire.messages import WorkerRow

__all__ = ["load", "ps", "unload"]

_COLUMNS = {
    "MODEL": "left",
    "ARCHITECTURE": "left",
    "EPOCH": "right",
    "PID": "right",
    "DEVICE": "left",
    "STATE": "left",
    "START": "left",
    "RESIDENT": "right",
    "PEAK": "right",
    "JOBS": "right",
    "ENDS IN": "right",
}


@verb("hermetic ps", "hermetic ps --json")
@json_option
@click.pass_obj
def ps(session: Session, as_json: bool) -> None:
    """List the living workers.

    A worker is a process that holds one model on one device; its epoch tells it from all others,
    dead ones included. START is how it came to be: by fork from the template, or by exec of a new
    interpreter. A standby has its device ready and waits for a model. ENDS IN is when an idle one
    makes room. A model whose worker crashed is `waiting` until the next one is started.
    """
    with session.client() as client:
        rows = client.workers()
    if as_json:
        write_json(rows)
    elif not rows:
        click.echo("No worker lives. The next job, or `hermetic load MODEL`, starts one.")
    else:
        now = time.time()
        print_table(
            tuple(_COLUMNS),
            [_cells(row, now) for row in rows],
            right=[name for name, side in _COLUMNS.items() if side == "right"],
        )
        for row in rows:
            if row.state == "waiting":
                click.echo(f"{row.model}: {_pause(row)}")


def _pause(row: WorkerRow) -> str:
    """Why a model has no worker, and until when."""
    when = "soon" if row.retry_after is None else f"in {age(max(row.retry_after, 1))}"
    return f"a worker is started again {when}. The last one: {row.reason.partition(chr(10))[0]}"


def _cells(row: WorkerRow, now: float) -> tuple[str, ...]:
    return (
        row.model or "-",
        row.architecture or "-",
        str(row.epoch) if row.pid else "-",
        str(row.pid) if row.pid else "-",
        row.device,
        f"{row.state}, low memory" if row.low_memory else row.state,
        row.start_method if row.pid else "-",
        size(row.resident_bytes),
        size(row.peak_bytes),
        str(row.jobs),
        "-" if row.idle_until is None else age(row.idle_until - now),
    )


@verb("hermetic load demo-sdxl --keep-alive 1h", "hermetic load demo-sd15 --json")
@click.argument("model", shell_complete=complete_model)
@click.option(
    "--keep-alive",
    metavar="TIME",
    callback=read_duration,
    help="How long it stays loaded while idle, such as 5m; -1 is for ever.",
)
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@click.pass_obj
def load(
    session: Session, model: str, keep_alive: float | None, quiet: bool, as_json: bool
) -> None:
    """Make a model ready before the first job needs it.

    Another model's worker may have to end for it. Ctrl-C cancels the load.
    """
    with session.client() as client:
        result = finish(client.load(model, keep_alive=keep_alive), model, quiet=quiet)
    worker = result.worker
    if as_json:
        write_json(
            {
                "job_id": result.job_id,
                "worker": to_json(worker),
                "timings": result.timings,
                "memory": result.memory,
            }
        )
        return
    took = ", ".join(f"{name} {duration(value)}" for name, value in result.timings.items())
    click.echo(f"{model} is ready: process {worker.pid}, epoch {worker.epoch}, {worker.device}")
    if took:
        click.echo(f"took: {took}")


@verb("hermetic unload demo-sdxl")
@click.argument("model", shell_complete=complete_model)
@click.pass_obj
def unload(session: Session, model: str) -> None:
    """End a model's worker and free its memory.

    A running job is finished first. Returns when the process is gone.
    """
    with session.client() as client:
        click.echo(client.unload(model))
