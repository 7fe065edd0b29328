"""Who waits how long for the device, and how much of its time goes to switches, in virtual time.

The daemon's own dispatcher, driven through traces of many apps, beside first come, first served
and a bound that nobody can be better than. Nothing is started; the times of switches are those that
this project has measured. docs/dispatching.md says what is compared with what.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import geometric_mean

from rich.console import Console
from rich.table import Table

import _dispatch_plot
import _plot
from _arms import BenchError, progress
from _dispatch_figures import Outcome, outcome
from _report import TailSamples, positive, tell
from _simulator import Device, dispatched, first_come, least_makespan
from _traces import RULES, TraceJob, read, recorded

DEVICES: Mapping[str, Device] = {
    "fork": Device({"sdxl": 0.033, "sd15": 0.038}, other_seconds=0.036),
    "exec": Device({"sdxl": 9.25, "sd15": 7.24}, other_seconds=8.25),
}
"""Medians of bench/results/2026-11-23-cpu-switch.json: `fork` and `hermetic_exec`."""


@dataclass(frozen=True)
class Case:
    """One trace on one device."""

    name: str
    ours: Outcome
    fifo: Outcome
    least_makespan: float


def main() -> None:
    """The whole of it."""
    options = parser().parse_args()
    try:
        if options.plot is not None:
            _plot.require()
        cases = list(played(options.jobs, options.seed, options.trace))
    except (BenchError, OSError) as error:
        raise SystemExit(f"dispatch: {error}") from error
    settings = {"jobs": options.jobs, "seed": options.seed}
    samples, overall = figures(cases), ratios(cases)
    if options.json:
        tell("dispatch", "cpu", samples, overall | ratios_by_case(cases), True, settings)
    else:
        show(cases)
        worst = TailSamples()
        worst.add("worst_wait_s", "s", max(case.ours.worst_wait for case in cases))
        tell("dispatch", "cpu", worst, overall, False, settings)
    if options.plot is not None:
        _dispatch_plot.plot({case.name: _bars(case) for case in cases}, options.plot)


def parser() -> argparse.ArgumentParser:
    """Its options."""
    found = argparse.ArgumentParser(description=__doc__)
    found.add_argument("--json", action="store_true", help="write JSON instead of a table")
    found.add_argument("--plot", type=Path, metavar="FILE", help="draw it, too: .png or .svg")
    found.add_argument("--jobs", type=positive, default=1000, help="a trace; default: 1000")
    found.add_argument("--seed", type=int, default=1, help="of the traces; default: 1")
    found.add_argument(
        "--trace",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a recorded trace, instead of all others; may be repeated",
    )
    return found


def played(count: int, seed: int, files: list[Path]) -> Iterator[Case]:
    """Every trace on every device."""
    for name, jobs in traces(count, seed, files).items():
        for kind, device in DEVICES.items():
            progress(f"{name}, {kind}: {len(jobs)} jobs")
            yield Case(
                name=f"{name},{kind}",
                ours=outcome(dispatched(jobs, device)),
                fifo=outcome(first_come(jobs, device)),
                least_makespan=least_makespan(jobs, device),
            )


def traces(count: int, seed: int, files: list[Path]) -> dict[str, list[TraceJob]]:
    """By name: those of the files, or all that are there."""
    made = {} if files else {name: rule(count, Random(seed)) for name, rule in RULES.items()}
    ordered = {name: sorted(jobs, key=lambda job: job.at) for name, jobs in made.items()}
    return ordered | {file.stem: read(file) for file in files or recorded()}


def figures(cases: list[Case]) -> TailSamples:
    """Of all cases; what is compared over time first."""
    samples = TailSamples()
    samples.add("worst_wait_s", "s", max(case.ours.worst_wait for case in cases))
    for case in cases:
        samples.add(f"{case.name}:least_makespan_s", "s", case.least_makespan)
        for way, found in (("", case.ours), ("fifo:", case.fifo)):
            samples.add(f"{case.name}:{way}makespan_s", "s", found.makespan)
            for wait in found.waits:
                samples.add(f"{case.name}:{way}wait_s", "s", wait)
            samples.add(f"{case.name}:{way}mean_wait_s", "s", found.mean_wait)
            samples.add(f"{case.name}:{way}worst_wait_s", "s", found.worst_wait)
            samples.add(f"{case.name}:{way}smallest_app_wait_s", "s", found.smallest_app_wait)
            samples.add(f"{case.name}:{way}switches", "switches", found.switches)
            samples.add(f"{case.name}:{way}fairness", "Jain", found.fairness)
    return samples


def ratios(cases: list[Case]) -> dict[str, float]:
    """Geometric means over all cases."""
    found = ratios_by_case(cases)
    return {
        name: geometric_mean(found[f"{case.name}:{name}"] for case in cases)
        for name in ("makespan/oracle", "makespan/fifo")
    }


def ratios_by_case(cases: list[Case]) -> dict[str, float]:
    """Under 1 ours is better; no makespan is below the oracle's."""
    found = {}
    for case in cases:
        found[f"{case.name}:makespan/oracle"] = case.ours.makespan / case.least_makespan
        found[f"{case.name}:makespan/fifo"] = case.ours.makespan / case.fifo.makespan
        found[f"{case.name}:switches/fifo"] = case.ours.switches / case.fifo.switches
    return found


def show(cases: list[Case]) -> None:
    """The table for people."""
    columns = ("makespan", "/oracle", "mean", "p99", "worst", "small", "switches", "Jain")
    title = "Seconds; waits: mean, p99, worst, and the mean of the app with the fewest jobs"
    table = Table("", "", *columns, title=title, box=None)
    for case in cases:
        for name, way, found in ((case.name, "ours", case.ours), ("", "fifo", case.fifo)):
            waits = (found.mean_wait, found.p99_wait, found.worst_wait, found.smallest_app_wait)
            table.add_row(
                name,
                way,
                f"{found.makespan:.0f}",
                f"{found.makespan / case.least_makespan:.3f}",
                *(f"{wait:.1f}" for wait in waits),
                str(found.switches),
                f"{found.fairness:.3f}",
            )
    Console().print(table)


def _bars(case: Case) -> dict[str, tuple[float, float]]:
    """By panel, ours and that of first come, first served."""
    return {
        "makespan over the oracle's": (
            case.ours.makespan / case.least_makespan,
            case.fifo.makespan / case.least_makespan,
        ),
        "mean wait, seconds": (case.ours.mean_wait, case.fifo.mean_wait),
        "worst wait, seconds": (case.ours.worst_wait, case.fifo.worst_wait),
        "mean wait of the smallest app, seconds": (
            case.ours.smallest_app_wait,
            case.fifo.smallest_app_wait,
        ),
        "fairness (Jain)": (case.ours.fairness, case.fifo.fairness),
    }


if __name__ == "__main__":
    main()
