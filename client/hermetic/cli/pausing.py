"""`pause` and `resume`: whether jobs are begun."""

from __future__ import annotations

import click

from .session import Session
from .verb import verb

__all__ = ["pause", "resume"]


@verb("hermetic pause")
@click.pass_obj
def pause(session: Session) -> None:
    """Begin no more jobs until resume.

    Jobs are still accepted, and what runs goes on. A restart of the daemon does not end the pause.
    Only the daemon's own user or root may.
    """
    with session.client() as client:
        click.echo(client.pause())


@verb("hermetic resume")
@click.pass_obj
def resume(session: Session) -> None:
    """Begin jobs again after a pause.

    Only the daemon's own user or root may.
    """
    with session.client() as client:
        click.echo(client.resume())
