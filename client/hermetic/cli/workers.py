"""`ps`, `load` and `unload`: the processes that hold models."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from .completion import complete_model
from .output import age, duration, print_table, size, to_json, write_json
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
    interpreter. A standby has its device ready and waits for a model.
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


def _cells(row: WorkerRow, now: float) -> tuple[str, ...]:
    return (
        row.model or "-",
        row.architecture or "-",
        str(row.epoch),
        str(row.pid),
        row.device,
        row.state,
        row.start_method,
        size(row.resident_bytes),
        size(row.peak_bytes),
        str(row.jobs),
        "-" if row.idle_until is None else age(row.idle_until - now),
    )


@verb("hermetic load demo-sdxl", "hermetic load demo-sd15 --json")
@click.argument("model", shell_complete=complete_model)
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@click.pass_obj
def load(session: Session, model: str, quiet: bool, as_json: bool) -> None:
    """Make a model ready before the first job needs it.

    Another model's worker may have to end for it. Ctrl-C cancels the load.
    """
    with session.client() as client:
        result = finish(client.load(model), model, quiet=quiet)
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
