"""`completion`, and what a shell completes from the daemon: model names and job ids.

A shell must never hang or print because the daemon is away: then nothing is completed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, get_completion_class

from hermetic_wire.errors import HermeticError

from .session import Session
from .verb import verb

if TYPE_CHECKING:
    from hermetic import Client

__all__ = ["complete_job", "complete_model", "completion"]

_Ask = Callable[["Client"], list[tuple[str, str]]]
_PATIENCE = 0.5
"""Seconds that a shell waits for the daemon."""


def complete_model(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The models of the catalog whose names begin so."""
    return _complete(ctx, incomplete, _models)


def complete_job(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The jobs whose ids begin so."""
    return _complete(ctx, incomplete, _jobs)


def _models(client: Client) -> list[tuple[str, str]]:
    return [(row.name, row.problem or row.architecture) for row in client.models()]


def _jobs(client: Client) -> list[tuple[str, str]]:
    return [(row.id, f"{row.model}, {row.state}") for row in client.jobs()]


def _complete(ctx: click.Context, incomplete: str, ask: _Ask) -> list[CompletionItem]:
    try:
        with ctx.ensure_object(Session).client(_PATIENCE) as client:
            found = ask(client)
    except (HermeticError, OSError):
        return []
    return [
        CompletionItem(value, help=words) for value, words in found if value.startswith(incomplete)
    ]


@verb(
    'eval "$(hermetic completion bash)"',
    "hermetic completion zsh > ~/.zfunc/_hermetic",
    "hermetic completion fish > ~/.config/fish/completions/hermetic.fish",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a shell's completion script.

    Model names and job ids are completed from the daemon, when it runs.
    """
    found = get_completion_class(shell)
    assert found is not None, "click knows these three"
    script = found(ctx.find_root().command, {}, "hermetic", "_HERMETIC_COMPLETE")
    click.echo(script.source())
