"""What many switches in a row must leave as it was: samples in, findings out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TypeVar

__all__ = ["Finding", "Findings", "Sample", "findings", "quartiles"]

GROWTH_MIB = 4.0
"""What a median may grow from the first quartile to the last: the noise of allocators."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Sample:
    """After one switch."""

    switch_s: float
    daemon_descriptors: int
    daemon_threads: int
    daemon_mib: float
    """Resident."""
    template_descriptors: int
    template_threads: int
    template_mib: float
    """Its anonymous memory."""
    zombies: frozenset[tuple[int, float]]
    """Descendants of the daemon, by pid and start time."""


@dataclass(frozen=True)
class Finding:
    """One figure, and whether it is what it has to be."""

    value: float
    unit: str
    holds: bool = True


Findings = dict[str, Finding]


def quartiles(values: Sequence[_T]) -> tuple[Sequence[_T], Sequence[_T]]:
    """The first and the last quarter, of at least one each."""
    size = max(1, len(values) // 4)
    return values[:size], values[-size:]


def findings(samples: Sequence[Sample]) -> Findings:
    """Everything that can be told from the samples, at least one."""
    found: Findings = {}
    for name in (
        "daemon_descriptors",
        "daemon_threads",
        "template_descriptors",
        "template_threads",
    ):
        numbers = [getattr(sample, name) for sample in samples]
        found[f"{name}_growth"] = _no_growth(numbers)
    for name in ("daemon_mib", "template_mib"):
        sizes = [getattr(sample, name) for sample in samples]
        found |= _flat(name, sizes)
    found["zombies"] = _none(_lasting(samples), "processes")
    first, last = quartiles([sample.switch_s for sample in samples])
    found["switch_first_quartile_s"] = Finding(median(first), "s")
    found["switch_last_quartile_s"] = Finding(median(last), "s")
    return found


def _no_growth(numbers: Sequence[int]) -> Finding:
    """From start to end; what is open only while a worker comes or goes is in neither."""
    growth = numbers[-1] - numbers[0]
    return Finding(growth, "more", growth <= 0)


def _flat(name: str, sizes: Sequence[float]) -> Findings:
    first, last = (median(part) for part in quartiles(sizes))
    stem = name.removesuffix("_mib")
    return {
        f"{stem}_first_quartile_mib": Finding(first, "MiB"),
        f"{stem}_last_quartile_mib": Finding(last, "MiB", last - first <= GROWTH_MIB),
    }


def _none(number: int, unit: str) -> Finding:
    return Finding(number, unit, number == 0)


def _lasting(samples: Sequence[Sample]) -> int:
    """How many were still zombies a switch later, or are at the end: for a moment everybody is."""
    lasting = {
        zombie for former, latter in pairwise(samples) for zombie in former.zombies & latter.zombies
    }
    return len(lasting | samples[-1].zombies)
