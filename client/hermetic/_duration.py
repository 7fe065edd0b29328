"""Lengths of time as people write them: a number of seconds, or a text such as `5m` or `1h30m`."""

from __future__ import annotations

import math
import re
from typing import TypeAlias

from hermetic_wire.errors import InvalidParameter

__all__ = ["Duration", "seconds"]

Duration: TypeAlias = float | str
"""Seconds, or a text: `90`, `1.5h`, `1h30m`, `250ms`; a minus before it makes it negative."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ms|s|m|h|d)")
_WHOLE = re.compile(rf"([+-]?)((?:{_PART.pattern})+)")


def seconds(name: str, given: Duration) -> float:
    """The length in seconds; infinity is one, what it means is the caller's to say.

    Raises InvalidParameter, in words about `name`, for what is no length of time.
    """
    found = _read(given)
    if math.isnan(found):
        raise InvalidParameter(
            f"{name} is {given!r}; give seconds, or a text such as 90s, 5m or 1h30m."
        )
    return found


def _read(given: Duration) -> float:
    """Not a number for what cannot be read."""
    if isinstance(given, bool):
        return math.nan
    try:
        return float(given)
    except (TypeError, ValueError):
        pass
    whole = _WHOLE.fullmatch(given.strip()) if isinstance(given, str) else None
    if whole is None:
        return math.nan
    sign, parts = whole[1], whole[2]
    total = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(parts))
    return -total if sign == "-" else total
