"""Samples by name, and what is said of them: value, unit, count, median, 95th percentile. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

__all__ = ["Figure", "Samples", "p95", "tour"]


@dataclass(frozen=True)
class Figure:
    """One measured thing. `value` is the median."""

    value: float
    unit: str
    n: int
    p50: float
    p95: float


@dataclass
class Samples:
    """What was measured, under the names of the JSON output."""

    _by_name: dict[str, tuple[str, list[float]]] = field(default_factory=dict)

    def add(self, name: str, unit: str, value: float | None) -> None:
        """One more sample; None is what a worker did not tell."""
        if value is not None:
            self._by_name.setdefault(name, (unit, []))[1].append(value)

    def figures(self) -> dict[str, Figure]:
        """A figure per name, in the order of their first samples."""
        return {
            name: Figure(median(values), unit, len(values), median(values), p95(values))
            for name, (unit, values) in self._by_name.items()
        }


def p95(values: Sequence[float]) -> float:
    """The 95th percentile by nearest rank: with fewer than 20 samples that is the largest."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def tour(models: Sequence[str]) -> list[tuple[str, str]]:
    """Every ordered pair once, each beginning where the one before ended, the last at the start.

    So a round measures all switches and makes no other. It is an Eulerian circuit of the complete
    digraph (Hierholzer 1873): follow unused pairs until stuck, put detours in on the way back.
    """
    unused = {one: [other for other in models if other != one] for one in models}
    path, circuit = list(models[:1]), list[str]()
    while path:
        if unused[path[-1]]:
            path.append(unused[path[-1]].pop(0))
        else:
            circuit.append(path.pop())
    return list(pairwise(reversed(circuit)))
