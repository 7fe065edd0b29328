"""What the verbs of one command share: the endpoint that was asked for, and how to reach it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hermetic_wire.paths import endpoint_path

if TYPE_CHECKING:
    from hermetic import Client

__all__ = ["OpenClient", "Session", "endpoint_option"]

OpenClient = Callable[[str | None, float], "Client"]
"""Endpoint (None is the default one) and connect timeout in seconds to a client."""


def _open(endpoint: str | None, connect_timeout: float) -> Client:
    from hermetic import Client

    return Client(endpoint, app="hermetic", connect_timeout=connect_timeout)


@dataclass
class Session:
    """One run of the command line."""

    endpoint: str | None = None
    """As given by `--endpoint`; None leaves it to HERMETIC_ENDPOINT and the default."""
    open_client: OpenClient = field(default=_open)

    def client(self, connect_timeout: float = 5.0) -> Client:
        """A client of the daemon, to be used as a context manager."""
        return self.open_client(self.endpoint, connect_timeout)

    def socket(self) -> Path:
        """The daemon's socket file. Raises InvalidConfiguration where no socket can be."""
        return endpoint_path(self.endpoint)


def _remember(ctx: click.Context, parameter: click.Parameter, endpoint: str | None) -> None:
    session = ctx.ensure_object(Session)
    if endpoint is not None:
        session.endpoint = endpoint


endpoint_option = click.option(
    "--endpoint",
    metavar="PATH",
    expose_value=False,
    callback=_remember,
    help="The daemon's socket. [default: $HERMETIC_ENDPOINT, or the user's own]",
)
