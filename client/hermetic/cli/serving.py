"""`serve`, `stop` and `status`: the daemon itself."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from hermetic_wire.errors import DaemonError, InvalidConfiguration

from . import store, template
from .installed import missing
from .output import age, size, write_json
from .session import Session
from .verb import json_option, verb

if TYPE_CHECKING:
    from hermetic_wire.messages import Status

__all__ = ["serve", "status", "stop"]

_LEVELS = ("debug", "info", "warning", "error")
_POLL = 0.05
"""Seconds between two looks at an endpoint that is about to end."""


@verb(
    "hermetic serve",
    "hermetic serve --device cuda:1 --log-level debug",
    "hermetic --endpoint /tmp/mine.sock serve --config ./hermetic.toml",
    "hermetic serve --set-store-aside",
)
@click.option("--config", metavar="FILE", help="Configuration file. [default: $HERMETIC_CONFIG]")
@click.option("--device", metavar="DEVICE", help="cpu, cuda or cuda:N. [default: $HERMETIC_DEVICE]")
@click.option("--log-level", type=click.Choice(_LEVELS), help="How much the daemon says.")
@click.option(
    "--set-store-aside",
    is_flag=True,
    help="Keep a journal of jobs that cannot be read elsewhere, and begin a new one.",
)
@click.pass_obj
def serve(
    session: Session,
    config: str | None,
    device: str | None,
    log_level: str | None,
    set_store_aside: bool,
) -> None:
    """Start the daemon in this terminal.

    It runs until Ctrl-C or `hermetic stop`. The terminal's process becomes the daemon itself:
    what a service manager sees is `hermeticd`. It goes on with the jobs that an earlier one left.
    """
    absent = missing("daemon")
    if absent:
        raise InvalidConfiguration(
            f"The daemon needs {', '.join(absent)}, not installed here. "
            "Install it with: pip install 'hermetic[daemon,worker]'"
        )
    options = {
        "--endpoint": session.endpoint,
        "--config": config,
        "--device": device,
        "--log-level": log_level,
    }
    given = [word for name, value in options.items() if value for word in (name, value)]
    given += ["--set-store-aside"] * set_store_aside
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "hermetic_daemon", *given])


@verb("hermetic stop", "hermetic stop --drain", "hermetic stop --kill --no-wait")
@click.option("--drain", "mode", flag_value="drain", help="Finish every accepted job first.")
@click.option("--kill", "mode", flag_value="kill", help="End workers at once.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the daemon has agreed.")
@click.option("--timeout", type=float, metavar="SECONDS", help="How long to wait. [default: ever]")
@click.pass_obj
def stop(
    session: Session,
    /,
    mode: Literal["drain", "kill"] | None,
    no_wait: bool,
    timeout: float | None,
) -> None:
    """Stop the daemon and wait until it is gone.

    Without an option the running job is finished, if it takes but a few seconds. Jobs that have
    not ended are kept, and the next daemon goes on with them.
    """
    with session.client() as client:
        before = client.status()
        click.echo(client.stop(mode or "stop"))
    if mode != "drain" and before.queued + before.running:
        click.echo("hermetic: jobs that have not ended are kept for the next daemon", err=True)
    if not no_wait:
        _wait_until_gone(session.socket(), timeout)
        click.echo("The daemon is gone.")


def _wait_until_gone(endpoint: Path, timeout: float | None) -> None:
    deadline = None if timeout is None else time.monotonic() + timeout
    while _answers(endpoint):
        if deadline is not None and time.monotonic() >= deadline:
            raise DaemonError(
                f"The daemon at {endpoint} was told to stop and is there after {timeout:g} s. "
                "Its jobs may take longer; `hermetic stop --kill` does not wait for them."
            )
        time.sleep(_POLL)


def _answers(endpoint: Path) -> bool:
    """Whether a process listens at the endpoint: a file alone may be what a killed one left."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(endpoint))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


@verb("hermetic status", "hermetic status --json")
@json_option
@click.pass_obj
def status(session: Session, as_json: bool) -> None:
    """Tell how the daemon is."""
    with session.client() as client:
        found = client.status()
    if as_json:
        write_json(found)
        return
    for name, value in _lines(found):
        click.echo(f"{name:<13} {value}")


def _lines(found: Status) -> Iterator[tuple[str, str]]:
    ended = ", ".join(f"{count} {state}" for state, count in sorted(found.ended.items()))
    yield "daemon", f"{found.version}, pid {found.pid}, {found.state} for {age(found.uptime_s)}"
    yield "endpoint", found.endpoint
    yield "configuration", found.config_file or "none, all defaults"
    yield "device", found.device
    yield "jobs", f"{found.running} running, {found.queued} waiting"
    if found.paused:
        yield "paused", "jobs are accepted and none is begun; go on with: hermetic resume"
    yield "ended", ended or "none yet"
    yield "memory", f"{size(found.resident_bytes)} (the daemon alone)"
    yield "workers", f"{found.workers_started} started so far, start_method {found.start_method}"
    if found.store is not None:
        yield "store", store.state(found.store)
    if found.template is not None:
        yield from template.facts(found.template)
