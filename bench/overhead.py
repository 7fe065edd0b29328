"""What the daemon itself costs per job: a job that does nothing, from submit to result.

Beside it, in turns: the same work as a plain function call, behind an HTTP server that writes
nothing down, and the limit: the same hops between processes and threads and the same commits with
nothing in them. The exit code is 0 whatever the figures are; which budget holds is said.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import _crowd
import _disk
import _http
import _limit
import _proc
from _arms import BenchError, progress
from _daemons import await_template
from _disk import Disk
from _lives import Lives
from _plan import order
from _report import TailSamples, arguments, positive, tell
from hermetic import Client
from hermetic.cli.bench.figures import Figure
from hermetic_wire.errors import HermeticError
from hermetic_worker.pipelines.echo import Echo

_LARGE = "/3_megabytes"
SIDES = {"": 8, _LARGE: 1024}
"""Width and height of the one image that comes back, by the ending of a figure's name."""
PASSES = 3
"""How often the crowds take their turns."""
WARM_UP = 20
BUDGETS: Mapping[str, tuple[str, float]] = {
    "submit_to_result_ms": ("at most", 3.0),
    "bare_submit_to_result_ms": ("at most", 3.0),
    "3_megabytes_ms": ("at most", 3.0),
    "durable_jobs_per_s": ("at least", 1000.0),
}
"""Of the median, as design.md has them."""


def main() -> None:
    """The whole of it."""
    options = parser().parse_args()
    samples = TailSamples()
    try:
        with ExitStack() as stack:
            bench = Bench(options, stack, samples)
            bench.one_by_one()
            bench.crowds()
            bench.large_ones()
            settings = bench.settings()
    except (BenchError, HermeticError, OSError) as error:
        raise SystemExit(f"overhead: {error}") from error
    figures = samples.figures()
    tell("overhead", options.device, samples, ratios(figures), options.json, settings)
    for words in verdicts(figures):
        progress(words)


def parser() -> argparse.ArgumentParser:
    """Its options."""
    found = arguments(__doc__ or "", rounds=200)
    found.add_argument("--clients", type=positive, default=50, help="of a crowd; default: 50")
    found.add_argument("--jobs", type=positive, default=2000, help="of a crowd; default: 2000")
    found.add_argument(
        "--state-dir",
        type=Path,
        help="where the daemon writes jobs down: decides what disk is measured; default: in /tmp",
    )
    return found


def ratios(figures: Mapping[str, Figure]) -> dict[str, float]:
    """Of one run's medians; under 1 the daemon is the quicker one, or has more jobs a second."""
    found = {}
    for ending in SIDES:
        ours = figures[f"submit_to_result_ms{ending}"].p50
        for other in ("http", "function"):
            found[f"submit_to_result/{other}{ending}"] = ours / figures[f"{other}_ms{ending}"].p50
    limit = figures["limit_ms"].p50
    found["bare_submit_to_result/limit"] = figures["bare_submit_to_result_ms"].p50 / limit
    kinds = ("durable", "apps", "http", "limit")
    rates = {name: figures[f"{name}_jobs_per_s"].p50 for name in kinds}
    found["http/durable_jobs_per_s"] = rates["http"] / rates["durable"]
    found["limit/durable_jobs_per_s"] = rates["limit"] / rates["durable"]
    found["durable/apps_jobs_per_s"] = rates["durable"] / rates["apps"]
    return found


def verdicts(figures: Mapping[str, Figure]) -> list[str]:
    """Which budget holds, in words."""
    found = []
    for name, (bound, budget) in BUDGETS.items():
        value = figures[name].p50
        holds = value <= budget if bound == "at most" else value >= budget
        word = "holds" if holds else "does not hold"
        found.append(f"{word}: {name} is {value:.2f}; the budget is {bound} {budget:g}")
    return found


class Bench:
    """A daemon, an HTTP server and a disk, measured in turns."""

    def __init__(self, options: argparse.Namespace, stack: ExitStack, samples: TailSamples) -> None:
        self._options, self._samples = options, samples
        self._daemon = stack.enter_context(Lives("", options.device, state=options.state_dir))
        self._client = stack.enter_context(self._daemon.client("overhead"))
        self._crowd = stack.enter_context(_crowd.Crowd(self._daemon.endpoint, options.clients))
        self._port, self._server = stack.enter_context(_http.server(self._daemon.directory))
        self._app = _http.App(self._port)
        stack.callback(self._app.close)
        self._daemon.state.mkdir(parents=True, exist_ok=True)
        self._disk = stack.enter_context(Disk(self._daemon.state))
        self._limit = stack.enter_context(_limit.crowd(self._daemon.state, options.clients))
        await_template(self._client, [])  # it takes both cores while it imports
        self._client.generate("warm", model="echo")
        self._echo = Echo()
        self._worker = next(row.pid for row in self._client.workers() if row.model == "echo")

    def settings(self) -> dict[str, str | int]:
        """How the machine was used."""
        state = self._daemon.state
        return {"clients": self._options.clients, "file_system": _disk.file_system(state)}

    def one_by_one(self) -> None:
        """One app, one small job at a time; of each kind one per round."""
        self._rounds(
            "one job at a time",
            {
                "function": partial(self._function, ""),
                "http": partial(self._over_http, ""),
                "daemon": self._through_daemon,
                "stages": self._stages,
                "limit": self._at_the_limit,
                "disk": self._written,
            },
        )

    def large_ones(self) -> None:
        """The same with the large result. In the end: what these write, the disk has to do with for
        a while after them."""
        self._rounds(
            "one job with three megabytes at a time",
            {
                "function": partial(self._function, _LARGE),
                "http": partial(self._over_http, _LARGE),
                "daemon": self._large_through_daemon,
            },
        )

    def _rounds(self, what: str, kinds: Mapping[str, Callable[[int, TailSamples], None]]) -> None:
        """Whoever began a round ends the next. The first ones warm up and are not counted."""
        for turn in range(-WARM_UP, self._options.rounds):
            samples = self._samples if turn >= 0 else TailSamples()
            for kind in order(list(kinds), turn):
                kinds[kind](turn + WARM_UP, samples)
        progress(f"{self._options.rounds} rounds of {what}")

    def crowds(self) -> None:
        """Many apps with a job each at a time, again in turns; the first turn warms up."""
        kinds = {
            "durable": self._bare_crowd,
            "apps": self._crowd_of_apps,
            "http": self._crowd_over_http,
            "limit": self._crowd_at_the_limit,
        }
        for turn in range(-1, PASSES):
            jobs = self._options.jobs if turn >= 0 else min(200, self._options.jobs)
            samples = self._samples if turn >= 0 else TailSamples()
            for kind in order(list(kinds), turn):
                rate = jobs / kinds[kind](jobs, samples)
                samples.add(f"{kind}_jobs_per_s", "jobs/s", rate)
                if turn >= 0:
                    progress(f"{kind}: {rate:.0f} jobs/s")

    def _function(self, ending: str, seed: int, samples: TailSamples) -> None:
        task = _http.task(seed, SIDES[ending])
        began = time.perf_counter()
        self._echo.run(task, _http.unfollowed)
        samples.add(f"function_ms{ending}", "ms", _ms_since(began))

    def _over_http(self, ending: str, seed: int, samples: TailSamples) -> None:
        began = time.perf_counter()
        self._app.generate(seed, SIDES[ending])
        samples.add(f"http_ms{ending}", "ms", _ms_since(began))

    def _through_daemon(self, seed: int, samples: TailSamples) -> None:
        samples.add("submit_to_result_ms", "ms", _generate(self._client, seed, SIDES[""]))

    def _large_through_daemon(self, seed: int, samples: TailSamples) -> None:
        small, large = (_generate(self._client, seed, side) for side in SIDES.values())
        samples.add(f"submit_to_result_ms{_LARGE}", "ms", large)
        samples.add("3_megabytes_ms", "ms", large - small)

    def _stages(self, seed: int, samples: TailSamples) -> None:
        """The same job over a bare connection: without the client library, and by stage."""
        stages = self._crowd.stages(_crowd.wanted(1)[0])
        samples.add("bare_submit_to_result_ms", "ms", sum(stages.values()) * 1000)
        for stage, seconds in stages.items():
            samples.add(f"until_{stage}_ms", "ms", seconds * 1000)

    def _at_the_limit(self, seed: int, samples: TailSamples) -> None:
        samples.add("limit_ms", "ms", self._limit.run(_limit.wanted(1)) * 1000)

    def _crowd_at_the_limit(self, jobs: int, samples: TailSamples) -> float:
        return self._limit.run(_limit.wanted(jobs))

    def _written(self, seed: int, samples: TailSamples) -> None:
        samples.add("fdatasync_4_kib_ms", "ms", self._disk.block() * 1000)
        samples.add("sqlite_commit_ms", "ms", self._disk.commit() * 1000)

    def _bare_crowd(self, jobs: int, samples: TailSamples) -> float:
        wanted = _crowd.wanted(jobs)
        before = self._cpu()
        seconds = self._crowd.run(wanted)
        for name, used in self._cpu().items():
            samples.add(f"{name}_cpu_ms_per_job", "ms", (used - before[name]) / jobs * 1000)
        return seconds

    def _crowd_of_apps(self, jobs: int, samples: TailSamples) -> float:
        before = time.process_time()
        seconds = _crowd.apps(self._daemon.endpoint, self._options.clients, jobs)
        used = time.process_time() - before
        samples.add("apps_cpu_ms_per_job", "ms", used / jobs * 1000)
        return seconds

    def _crowd_over_http(self, jobs: int, samples: TailSamples) -> float:
        before = _proc.cpu_seconds(self._server)
        seconds = _http.crowd(self._port, self._options.clients, jobs, SIDES[""])
        used = _proc.cpu_seconds(self._server) - before
        samples.add("http_server_cpu_ms_per_job", "ms", used / jobs * 1000)
        return seconds

    def _cpu(self) -> dict[str, float]:
        return {
            "daemon": _proc.cpu_seconds(self._daemon.pid),
            "worker": _proc.cpu_seconds(self._worker),
            "crowd": time.process_time(),
        }


def _generate(client: Client, seed: int, side: int) -> float:
    """Milliseconds from submit to result, as an app has them."""
    began = time.perf_counter()
    client.generate("an app", model="echo", steps=1, width=side, height=side, seed=seed)
    return _ms_since(began)


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    main()
