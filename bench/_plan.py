"""Who is measured when, and what the measurements are called. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from hermetic.cli.bench.figures import Figure

__all__ = [
    "ARMS",
    "BOUND",
    "FRESH",
    "STAGES",
    "chosen",
    "directions",
    "order",
    "ratios",
    "stacked",
    "stage_name",
    "total_name",
]

ARMS = (
    "in_process_naive",
    "in_process_tuned",
    "new_interpreter",
    "hermetic_exec",
    "fork",
    "standby",
)
BOUND = "in_process_bound"
"""Only where it is named: see docs/benchmarks.md."""
FRESH = ("new_interpreter", "hermetic_exec")
"""Arms whose every visit begins in a new interpreter: nothing of theirs can be warmed up but the
page cache, which is."""
OURS = {"fork": "fork", "standby": "standby", "hermetic_exec": "exec"}
"""Hermetic's arms, and what they are called in a ratio."""
OTHERS = ("in_process_naive", "in_process_tuned", BOUND, "new_interpreter")
STAGES = (
    *("reap", "release", "exec", "fork", "hello", "imports"),
    *("load", "map", "bind", "read", "copy", "place", "smoke", "other"),
)
"""In the order of time, as a picture shows them; `switch` and `ready` are sums of others."""
BESIDE = {"reap", "release"}
"""Of a daemon's arm: the end of the former worker, while the next one starts."""


def chosen(text: str) -> tuple[str, ...]:
    """The arms of `a,b,c`, in our order. Raises ValueError for one that is none of ours."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = (*ARMS, BOUND)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        asked = ", ".join(unknown) or "none"
        raise ValueError(f"unknown arm: {asked}; there are {', '.join(known)}")
    return tuple(name for name in known if name in names)


def order(arms: Sequence[str], turn: int) -> list[str]:
    """The arms as they come in this turn, counted from 0: whoever was first is last in the next."""
    first = turn % len(arms)
    return [*arms[first:], *arms[:first]]


def directions(models: Sequence[str]) -> list[tuple[str, str]]:
    """The switches of a turn: from the first model through all others and back to it."""
    return list(pairwise([*models, models[0]]))


def total_name(origin: str, target: str, arm: str) -> str:
    """The figure of a whole switch, in seconds."""
    return f"{origin}->{target}:{arm}_s"


def stage_name(origin: str, target: str, arm: str, stage: str) -> str:
    """The figure of one of its stages, in seconds."""
    return f"{origin}->{target}:{arm}:{stage}_s"


def ratios(
    figures: Mapping[str, Figure], arms: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> dict[str, float]:
    """Medians of one run: each of Hermetic's arms over each of the others, by direction."""
    return {
        f"{origin}->{target}:{OURS[ours]}/{other}": (
            figures[total_name(origin, target, ours)].p50
            / figures[total_name(origin, target, other)].p50
        )
        for origin, target in pairs
        for ours in OURS
        for other in OTHERS
        if ours in arms and other in arms
    }


def stacked(figures: Mapping[str, Figure], pair: tuple[str, str], arm: str) -> dict[str, float]:
    """Seconds by stage that add up to the whole: what no stage accounts for is `other`.

    A daemon's arm ends the former worker while it starts the next, so that stays out.
    """
    prefix = f"{pair[0]}->{pair[1]}:{arm}:"
    left_out = BESIDE if arm in OURS else set()
    found = {
        name.removeprefix(prefix).removesuffix("_s"): figure.p50
        for name, figure in figures.items()
        if name.startswith(prefix)
    }
    stages = {stage: found[stage] for stage in STAGES if stage in found and stage not in left_out}
    total = figures[total_name(*pair, arm)].p50
    return {**stages, "other": max(0.0, total - sum(stages.values()))}
