"""What the demo claims, each claim checked against what was seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .leak import Direction
from .rounds import Round

__all__ = ["Check", "checks", "nothing_left"]


@dataclass(frozen=True)
class Check:
    """One claim."""

    claim: str
    holds: bool
    seen: str
    """What was seen, in words."""


def checks(leak: Sequence[Direction], rounds: Sequence[Round], log: str) -> list[Check]:
    """Every claim of the demo, in the order in which it is told."""
    return [
        _leak_reproduced(leak),
        *_identical(rounds),
        _two_models(rounds),
        _own_process(rounds),
        _former_gone(rounds),
        _one_at_a_time(rounds),
        _no_error_text(leak, log),
    ]


def nothing_left(rounds: Sequence[Round]) -> Check:
    """To be asked once the daemon has ended."""
    left = [one for one in rounds if one.life is not None and one.life.goes_on]
    return Check(
        "the daemon's end took the last worker with it",
        not left,
        f"{len(rounds) - len(left)} of {len(rounds)} workers gone from /proc",
    )


def _leak_reproduced(leak: Sequence[Direction]) -> Check:
    ways = [f"{one.first} -> {one.second}" for one in leak if one.leaked]
    return Check(
        "in one process the prompt cache breaks the next model, both ways",
        len(ways) == len(leak) == 2,
        f"failed until the cache was cleared: {', '.join(ways) or 'nothing'}",
    )


def _identical(rounds: Sequence[Round]) -> Iterator[Check]:
    """A before and A after: the kernel forgot what the process knew, so nothing can differ."""
    for model in dict.fromkeys(one.model for one in rounds):
        turns = [one for one in rounds if one.model == model]
        numbers = " and ".join(str(one.number) for one in turns)
        alike = len({one.digests for one in turns}) == 1
        images = len(turns[0].digests)
        yield Check(
            f"{model} draws bit-identical images before and after a switch away from it",
            alike and len(turns) > 1 and images > 0,
            f"rounds {numbers}: {images} images each, {'equal' if alike else 'they differ'}",
        )


def _two_models(rounds: Sequence[Round]) -> Check:
    by_model = {one.model: set(one.digests) for one in rounds}
    shared = set.intersection(*by_model.values())
    return Check(
        "the models are two: no picture of one is a picture of the other",
        len(by_model) == 2 and not shared,
        f"{sum(map(len, by_model.values()))} different images of {len(by_model)} models",
    )


def _own_process(rounds: Sequence[Round]) -> Check:
    lives = {one.life for one in rounds if one.life is not None}
    epochs = {one.result.worker.epoch for one in rounds}
    return Check(
        "every round ran in a process of its own",
        len(lives) == len(epochs) == len(rounds),
        "processes " + ", ".join(_identity(one) for one in rounds),
    )


def _former_gone(rounds: Sequence[Round]) -> Check:
    switches = [one.former_gone for one in rounds if one.number > 1]
    return Check(
        "at every switch the former process was gone before the next one drew",
        bool(switches) and all(switches),
        f"{switches.count(True)} of {len(switches)} gone from /proc, by pid and start time",
    )


def _one_at_a_time(rounds: Sequence[Round]) -> Check:
    counts = [one.workers for one in rounds]
    return Check(
        "one model lived at a time",
        set(counts) == {1},
        f"workers with a model after each round: {', '.join(map(str, counts))}",
    )


def _no_error_text(leak: Sequence[Direction], log: str) -> Check:
    found = [one.error for one in leak if one.error and one.error in log]
    return Check(
        "neither error text came from Hermetic",
        not found,
        f"{len(found)} found in the daemon's and its workers' log",
    )


def _identity(one: Round) -> str:
    return f"{one.result.worker.pid} (epoch {one.result.worker.epoch})"
