"""The stages by which a worker came to be, as its timings name them. Pure.

`docs/protocol.md` says what each means; names that do not apply are missing from the timings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["LOADING", "STARTING", "of_load", "of_start", "start_method"]

STARTING = ("fork", "exec", "hello", "imports")
"""From the request for the process to one that can load a model."""
LOADING = ("map", "bind", "read", "copy", "load", "place")
"""From there to a model in its place."""


def start_method(timings: Mapping[str, float]) -> str | None:
    """`fork` or `exec`; None where the timings are not those of a start."""
    return next((name for name in ("fork", "exec") if name in timings), None)


def of_start(timings: Mapping[str, float]) -> float | None:
    """Seconds of the whole start; None where nothing is told of it."""
    return _sum(timings, STARTING)


def of_load(timings: Mapping[str, float]) -> float | None:
    """Seconds of the whole load; None where nothing is told of it."""
    return _sum(timings, LOADING)


def _sum(timings: Mapping[str, float], names: Iterable[str]) -> float | None:
    told = [timings[name] for name in names if name in timings]
    return sum(told) if told else None
