"""What every verb has: `--endpoint`, examples under its help, and one seam for errors.

The seam turns whatever goes wrong into one line on stderr and an exit code; with `--json` the
error is also printed as JSON, so that a program reads an error as it reads an answer.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

import click

from hermetic_wire.errors import DaemonUnreachable, HermeticError, JobCancelled, to_body

from .output import write_json
from .session import Session, endpoint_option

__all__ = ["EXIT_INTERRUPTED", "EXIT_IO", "Verb", "json_option", "verb"]

EXIT_INTERRUPTED = JobCancelled.exit_code
EXIT_IO = 74
"""EX_IOERR of sysexits.h: a file of ours could not be read or written."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Verb(click.Command):
    """A verb of `hermetic`."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, each on a line of its own whatever its length."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':>{formatter.current_indent}}{example}\n")

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; whatever goes wrong in it ends here."""
        try:
            return super().invoke(ctx)
        except HermeticError as error:
            _explain(error, ctx)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("hermetic: interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # whoever read our output has enough: click ends quietly
            _say(f"error: {error}")
            ctx.exit(EXIT_IO)


def verb(*examples: str) -> Callable[[Callable[..., object]], Verb]:
    """Make a function a verb of its own name; `examples` are command lines for its help."""

    def decorate(function: Callable[..., object]) -> Verb:
        name = function.__name__
        make = click.command(name, cls=Verb, examples=examples)
        return make(endpoint_option(function))

    return decorate


def _explain(error: HermeticError, ctx: click.Context) -> None:
    """Say an error in words; with `--json` on stdout as data too."""
    _say(f"error: {error.message}")
    if isinstance(error, DaemonUnreachable) and "hermetic serve" not in error.message:
        endpoint = ctx.ensure_object(Session).endpoint
        _say(
            f"hint: start a daemon with: hermetic serve{f' --endpoint {endpoint}' * bool(endpoint)}"
        )
    if error.retry_after is not None:
        _say(f"hint: try again in {error.retry_after:.0f} s")
    if error.report:
        click.echo(error.report.rstrip(), err=True)
    if ctx.params.get("as_json"):
        write_json({"error": to_body(error)})


def _say(words: str) -> None:
    click.echo(f"hermetic: {words}", err=True)
