"""The `hermetic` command: which verbs there are, in which file each one is.

A verb's module is imported when the verb is used: the list of verbs costs no import at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

import click

from .session import endpoint_option

__all__ = ["VERBS", "program"]


@dataclass(frozen=True)
class _Entry:
    section: str
    module: str
    summary: str


VERBS = {
    "demo": _Entry("Begin", "demo.command", "Show the bug, then the same through Hermetic."),
    "serve": _Entry("Begin", "serving", "Start the daemon in this terminal."),
    "generate": _Entry("Begin", "generating", "Draw images from prompts."),
    "doctor": _Entry("Begin", "doctor.command", "Check this machine and this installation."),
    "models": _Entry("Look", "models", "List the models of the catalog."),
    "show": _Entry("Look", "models", "Tell all that is known of one model."),
    "ps": _Entry("Look", "workers", "List the living workers."),
    "jobs": _Entry("Look", "jobs", "List waiting, running and ended jobs."),
    "follow": _Entry("Look", "following", "Wait for a job that was submitted elsewhere."),
    "events": _Entry("Look", "following", "Tell what becomes of all jobs, as it happens."),
    "status": _Entry("Look", "serving", "Tell how the daemon is."),
    "load": _Entry("Act", "workers", "Make a model ready before the first job needs it."),
    "unload": _Entry("Act", "workers", "End a model's worker and free its memory."),
    "cancel": _Entry("Act", "jobs", "Cancel jobs."),
    "pause": _Entry("Act", "pausing", "Begin no more jobs until resume."),
    "resume": _Entry("Act", "pausing", "Begin jobs again after a pause."),
    "stop": _Entry("Act", "serving", "Stop the daemon and wait until it is gone."),
    "bench": _Entry("Measure", "bench.command", "Measure generation, loads and switches."),
    "completion": _Entry("Set up", "completion", "Print a shell's completion script."),
}
"""Every verb. The summary is the first line of the verb's help, kept here to be at hand."""


class _Program(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = VERBS.get(cmd_name)
        if entry is None:
            return None
        found = getattr(import_module(f"hermetic.cli.{entry.module}"), cmd_name)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in dict.fromkeys(entry.section for entry in VERBS.values()):
            rows = [(n, e.summary) for n, e in VERBS.items() if e.section == section]
            with formatter.section(section):
                formatter.write_dl(rows, col_max=12)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hermetic", prog_name="hermetic")
@endpoint_option
def program() -> None:
    """Many apps, one GPU, one process per model, killed at every switch.

    `hermetic VERB --help` tells more of a verb, with examples.
    """
