"""On what terms a job is submitted: what is asked of the daemon rather than of the model.

Refused here where no daemon is needed to refuse it.
"""

from __future__ import annotations

import math
from typing import get_args

import msgspec

from hermetic_wire.errors import InvalidParameter
from hermetic_wire.generation import Priority
from hermetic_wire.messages import OnDisconnect

from ._duration import Duration, seconds

__all__ = ["Terms", "preview_pace", "terms"]

_FOR_EVER = -1.0
"""What the wire calls a model that is never unloaded for being idle."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of Submit that any job has; lengths of time are seconds."""

    priority: Priority = "normal"
    expires_in: float | None = None
    on_disconnect: OnDisconnect = "keep"
    keep_alive: float | None = None
    preview_seconds: float | None = None


def terms(
    *,
    priority: Priority = "normal",
    expires_in: Duration | None = None,
    on_disconnect: OnDisconnect = "keep",
    keep_alive: Duration | None = None,
    preview_seconds: Duration | None = None,
) -> Terms:
    """The terms, checked. A `keep_alive` that is negative or infinite is for ever.

    Raises InvalidParameter.
    """
    _check_choice("priority", priority, get_args(Priority))
    _check_choice("on_disconnect", on_disconnect, get_args(OnDisconnect))
    return Terms(
        priority=priority,
        expires_in=None if expires_in is None else _expiry(expires_in),
        on_disconnect=on_disconnect,
        keep_alive=None if keep_alive is None else _idle_time(keep_alive),
        preview_seconds=preview_pace(preview_seconds),
    )


def preview_pace(given: Duration | None) -> float | None:
    """Seconds between two previews, None for none. Raises InvalidParameter."""
    if given is None:
        return None
    pace = seconds("preview_seconds", given)
    if not 0 < pace < math.inf:
        raise InvalidParameter(f"preview_seconds is {given!r}; it is more than 0, None is none.")
    return pace


def _expiry(given: Duration) -> float:
    found = seconds("expires_in", given)
    if not 0 <= found < math.inf:
        raise InvalidParameter(f"expires_in is {given!r}; it is at least 0, None is no limit.")
    return found


def _idle_time(given: Duration) -> float:
    found = seconds("keep_alive", given)
    return found if 0 <= found < math.inf else _FOR_EVER


def _check_choice(name: str, given: object, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise InvalidParameter(f"{name} is {given!r}; it is one of {', '.join(choices)}.")
