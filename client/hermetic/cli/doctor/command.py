"""`doctor`: every look in order, told as it is found."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from hermetic.cli.installed import requirements
from hermetic.cli.output import write_json
from hermetic.cli.session import Session
from hermetic.cli.verb import json_option, verb
from hermetic_wire import paths

from . import installation, places, running
from .finding import Finding

__all__ = ["doctor"]

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@verb("hermetic doctor", "hermetic doctor --deep", "hermetic doctor --json")
@click.option("--deep", is_flag=True, help="Import PyTorch in a fresh process: takes seconds.")
@json_option
@click.pass_context
def doctor(ctx: click.Context, deep: bool, as_json: bool) -> None:
    """Check this machine and this installation.

    Changes nothing. Each finding that is not well comes with what to do about it. Exits 1 if
    something failed, 0 if at worst there are warnings.
    """
    findings: list[Finding] = []
    for finding in _looks(ctx.ensure_object(Session), deep):
        findings.append(finding)
        if not as_json:
            _tell(finding)
    if as_json:
        write_json([asdict(finding) for finding in findings])
    if any(finding.verdict == "fail" for finding in findings):
        ctx.exit(1)


def _looks(session: Session, deep: bool) -> Iterator[Finding]:
    yield installation.kernel(platform.system(), platform.release())
    yield installation.python(sys.version_info[:3])
    yield from installation.packages(requirements())
    yield places.endpoint(session.endpoint)
    yield places.configuration(paths.config_file())
    yield places.memory(Path("/proc/meminfo").read_text())
    yield places.disk(paths.state_directory())
    yield places.state(paths.state_directory())
    yield from running.daemon(session)
    yield running.worker(running.ask_python, deep=deep)
    devices = sorted(str(file) for file in Path("/dev").glob("nvidia[0-9]*"))
    yield running.gpu(devices, running.ask_python, deep=deep)


def _tell(finding: Finding) -> None:
    mark = click.style(f"{finding.verdict:<4}", fg=_COLOURS[finding.verdict])
    click.echo(f"{mark}  {finding.subject}: {finding.seen}")
    if finding.remedy:
        click.echo(f"      -> {finding.remedy}")
