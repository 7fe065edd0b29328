"""Traces: who wants what from the device and when, made up by rule or read from a file.

A file has one JSON object a line: `at` (seconds since the trace began), `app`, `model`, `seconds`
(that the job takes on the device), and `priority` where it is not normal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import get_args

from _arms import BenchError
from hermetic_wire.generation import Priority

__all__ = ["FOLDER", "RULES", "TraceJob", "read", "recorded"]

FOLDER = Path(__file__).parent / "traces"


@dataclass(frozen=True)
class TraceJob:
    """One job; times in seconds."""

    at: float
    app: str
    model: str
    seconds: float
    priority: Priority = "normal"


Rule = Callable[[int, Random], Iterator[TraceJob]]
"""Makes a trace of about so many jobs."""


def flood(count: int, random: Random) -> Iterator[TraceJob]:
    """One app submits everything at once, another a single job a little later."""
    for _ in range(count - 1):
        yield TraceJob(0.0, "flood", "sd15", random.uniform(2.0, 4.0))
    yield TraceJob(60.0, "single", "sdxl", 3.0)


def alternating(count: int, random: Random) -> Iterator[TraceJob]:
    """Two apps, each with its model, keep the device busy for most of the time."""
    clock = 0.0
    for number in range(count):
        model = ("sd15", "sdxl")[number % 2]
        yield TraceJob(clock, f"app of {model}", model, random.uniform(2.0, 4.0))
        clock += random.expovariate(1 / 3.5)


def bursts(count: int, random: Random) -> Iterator[TraceJob]:
    """Six apps that each want twenty images at a time, of one of three models."""
    clock = 0.0
    for _ in range(max(1, count // 20)):
        app, model = f"app {random.randrange(6)}", random.choice(("sd15", "sdxl", "flux"))
        for _ in range(20):
            yield TraceJob(clock, app, model, random.uniform(1.0, 3.0))
        clock += random.expovariate(1 / 45.0)


def many_models(count: int, random: Random) -> Iterator[TraceJob]:
    """Eight apps and twelve models, of which some are wanted far more often."""
    clock, models = 0.0, [f"model {number}" for number in range(12)]
    weights = [1 / (rank + 1) for rank in range(len(models))]
    for _ in range(count):
        (model,) = random.choices(models, weights)
        yield TraceJob(clock, f"app {random.randrange(8)}", model, random.uniform(1.0, 5.0))
        clock += random.expovariate(1 / 4.0)


def priorities(count: int, random: Random) -> Iterator[TraceJob]:
    """A night's batch of low priority, people at work, and now and then somebody in a hurry."""
    for _ in range(count // 2):
        yield TraceJob(0.0, "batch", "sdxl", random.uniform(2.0, 4.0), "low")
    clock = 0.0
    for _ in range(count - count // 2):
        clock += random.expovariate(1 / 6.0)
        urgent = random.random() < 0.1
        app, model = f"person {random.randrange(4)}", random.choice(("sd15", "sdxl"))
        priority: Priority = "high" if urgent else "normal"
        yield TraceJob(clock, app, model, random.uniform(1.0, 3.0), priority)


RULES: Mapping[str, Rule] = {
    "flood": flood,
    "alternating": alternating,
    "bursts": bursts,
    "many_models": many_models,
    "priorities": priorities,
}


def recorded() -> list[Path]:
    """The trace files that come with the benchmark."""
    return sorted(FOLDER.glob("*.jsonl"))


def read(file: Path) -> list[TraceJob]:
    """The jobs of a trace file by their times; BenchError names the line that is none."""
    found = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            job = TraceJob(**json.loads(line))
            if not (job.at >= 0 and job.seconds >= 0 and job.priority in get_args(Priority)):
                raise ValueError("a time is negative, or the priority is none")
        except (ValueError, TypeError) as error:
            raise BenchError(f"{file}, line {number} is no job of a trace: {error}") from error
        found.append(job)
    if not found:
        raise BenchError(f"{file} has no jobs")
    return sorted(found, key=lambda job: job.at)
