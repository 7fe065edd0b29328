"""How option values that people write are read."""

from __future__ import annotations

from contextlib import suppress
from typing import get_args

import click

from hermetic_wire.errors import InvalidParameter
from hermetic_wire.generation import Parameter, Priority

__all__ = ["PRIORITIES", "read_duration", "read_settings", "read_size"]

PRIORITIES = get_args(Priority)

_OPTIONS = {
    *("prompt", "model", "negative_prompt", "width", "height", "steps", "guidance", "seed", "n"),
    *("job_id", "priority", "expires_in", "on_disconnect", "keep_alive", "preview_seconds"),
}
"""What `Client.submit` takes by name: none of it is a parameter of a model's own."""


def read_duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Seconds, from a number of them or from a text such as `5m` or `1h30m`."""
    from hermetic._duration import seconds

    if value is None:
        return None
    try:
        return seconds(param.opts[-1], value)
    except InvalidParameter as error:
        raise click.BadParameter(error.message) from error


def read_size(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """`512x768` or, for a square, `512`."""
    if value is None:
        return None
    width, _, height = value.lower().partition("x")
    if not width.isdecimal() or not (height or width).isdecimal():
        raise click.BadParameter(f"{value!r} is no size; write it as 512x768, or 512 for a square.")
    return int(width), int(height or width)


def read_settings(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> dict[str, Parameter]:
    """`NAME=VALUE` each; true, 2 and 0.5 are what they look like, anything else is text."""
    settings: dict[str, Parameter] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{value!r} is no setting; write it as NAME=VALUE.")
        if name in _OPTIONS:
            raise click.BadParameter(f"{name} is no parameter of a model's own; see --help.")
        settings[name] = _parameter(text)
    return settings


def _parameter(text: str) -> Parameter:
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    return text
