"""How every benchmark tells its figures: a table for people, `--json` for programs."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from hermetic.cli.bench.figures import Samples
from hermetic.cli.bench.machine import machine

__all__ = ["TailSamples", "arguments", "positive", "tell"]

_ENOUGH = 100
"""Samples, for a 99th percentile that is not just the largest."""


class TailSamples(Samples):
    """Samples of which the report also tells the 99th percentile, where there are enough."""

    def p99(self) -> dict[str, float]:
        """By name; by nearest rank."""
        return {
            name: sorted(values)[math.ceil(0.99 * len(values)) - 1]
            for name, (_, values) in self._by_name.items()
            if len(values) >= _ENOUGH
        }


def arguments(description: str, rounds: int | None) -> argparse.ArgumentParser:
    """The options that all benchmarks share; without `rounds`, what is repeated is not rounds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="write JSON instead of a table")
    if rounds is not None:
        help = f"default: {rounds}"
        parser.add_argument("--rounds", type=positive, default=rounds, help=help)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N; default: cpu")
    return parser


def positive(text: str) -> int:
    """A number of times; argparse makes a usage error of the ValueError."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def tell(
    bench: str,
    device: str,
    samples: Samples,
    ratios: dict[str, float],
    as_json: bool,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the report to standard output. `settings` are how the machine was used: two reports
    can be compared where they agree."""
    figures = samples.figures()
    p99 = samples.p99() if isinstance(samples, TailSamples) else {}
    if as_json:
        packages = ("hermetic", "pyzmq", "msgpack", "msgspec", "torch", "diffusers")
        report = {
            "bench": bench,
            "machine": machine(device) | ({"settings": dict(settings)} if settings else {}),
            "versions": {
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in packages},
            },
            "figures": {
                name: asdict(figure) | ({"p99": p99[name]} if name in p99 else {})
                for name, figure in figures.items()
            },
            "ratios": ratios,
        }
        json.dump(report, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    table = Table("", "median", "p95", *(["p99"] if p99 else []), "n", "unit")
    for name, figure in figures.items():
        tail = [f"{p99[name]:.3f}" if name in p99 else ""] if p99 else []
        numbers = [f"{figure.p50:.3f}", f"{figure.p95:.3f}", *tail]
        table.add_row(name, *numbers, str(figure.n), figure.unit)
    for name, ratio in ratios.items():
        table.add_row(name, f"{ratio:.3f}", "", *([""] if p99 else []), "", "ratio")
    Console().print(table)
