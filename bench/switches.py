"""Hundreds of switches in a row through one daemon, and whether they left anything behind.

Each job's prompt is a canary of 128 random bits. In the end none of it may stand in the memory of
the template, from which every later worker is forked. The exit code is 1 where anything does not
hold.
"""

from __future__ import annotations

import argparse
import secrets
import tempfile
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import _models
import _proc
from _arms import BenchError, Setting, progress
from _daemons import WAYS, Way, await_template, configured, daemon_of, until
from _report import arguments, positive, tell
from _soak import Finding, Findings, Sample, findings
from hermetic import Client
from hermetic.cli.bench.figures import Samples
from hermetic_wire.errors import HermeticError

EMBEDDED = ("demo-sd15", "demo-sdxl")
WARM_UP = 8
"""Switches before the first that counts: threads and buffers that are made once are made then."""
KEPT = "[daemon]\nkeep_jobs = 4\nkeep_bytes = 32768\n"
"""Less than the warm-up makes: what the daemon keeps on purpose has its full size by then."""
EVERY = 50
SETTLE_S = 60.0
JOB_S = 300.0


def main() -> None:
    """The whole of it."""
    options = parser().parse_args()
    try:
        found, seconds = _measured(options)
    except (BenchError, HermeticError, PermissionError) as error:
        raise SystemExit(f"switches: {error}") from error
    samples = Samples()
    for second in seconds:
        samples.add("switch_s", "s", second)
    for name, finding in found.items():
        samples.add(name, finding.unit, finding.value)
    ratios = {"switch_last_quartile/first_quartile": _ratio(found)}
    settings = {"size": options.size, "count": options.count, "standby": options.standby}
    tell("switches", options.device, samples, ratios, options.json, settings)
    broken = [name for name, finding in found.items() if not finding.holds]
    if broken:
        raise SystemExit(f"switches: does not hold: {', '.join(broken)}")
    progress("everything holds")


def parser() -> argparse.ArgumentParser:
    """Its options."""
    found = arguments(__doc__ or "", rounds=None)
    found.add_argument("--count", type=positive, default=500, help="default: 500")
    found.add_argument("--size", choices=("demo", "tiny"), default="demo", help="default: demo")
    found.add_argument("--standby", action="store_true", help="each worker is a standby before")
    return found


def _measured(options: argparse.Namespace) -> tuple[Findings, Sequence[float]]:
    way = WAYS["standby" if options.standby else "fork"]
    with tempfile.TemporaryDirectory(prefix="hermetic-bench-") as scratch:
        place = Path(scratch)
        folders = _models.made("tiny", place / "models") if options.size == "tiny" else {}
        setting = Setting(folders, _models.DTYPES["tiny"], options.device, read_ahead=False)
        config = configured(way, setting, f"template_forks = {2 * (options.count + WARM_UP) + 8}\n")
        with daemon_of(KEPT + config, options.device, place) as daemon:
            models = tuple(folders) or EMBEDDED
            await_template(daemon.client, list(models))
            soak = Soak(daemon.client, models, way)
            soak.run(options.count)
            return soak.findings(), [sample.switch_s for sample in soak.samples]


class Soak:
    """Switch after switch, with a look at every process involved after each."""

    def __init__(self, client: Client, models: Sequence[str], way: Way) -> None:
        self._client, self._models, self._way = client, cycle(models), way
        self._canary = secrets.token_hex(16)
        self._daemon = client.status().pid
        self._template = self._template_pid()
        self.samples: list[Sample] = []

    def run(self, count: int) -> None:
        """The warm-up, and then so many that count."""
        for number in range(-WARM_UP, count + 1):
            seconds = self._switch()
            if number >= 0:
                self.samples.append(self._sample(seconds))
            if number > 0 and number % EVERY == 0:
                progress(f"{number}/{count}: {seconds:.3f} s a switch")

    def findings(self) -> Findings:
        """Of the samples, and of a look into memory."""
        if self._template_pid() != self._template:
            raise BenchError("the template was replaced meanwhile, so its growth is unknown")
        canary = self._canary.encode()
        worker = next(row.pid for row in self._client.workers() if row.state == "ready")
        in_worker = _proc.occurrences(worker, canary)
        in_template = _proc.occurrences(self._template, canary)
        return findings(self.samples) | {
            "canary_in_template": Finding(in_template, "times", in_template == 0),
            # Without this nobody would know whether the search can find anything.
            "canary_in_worker": Finding(in_worker, "times", in_worker > 0),
        }

    def _switch(self) -> float:
        """One job of one step on the other model; returns the seconds of its switch."""
        until(self._settled, SETTLE_S, "the workers come to rest")
        model = next(self._models)
        result = self._client.generate(self._canary, model=model, steps=1, timeout=JOB_S)
        seconds = result.timings.get("switch", result.timings.get("ready"))
        row = next((row for row in self._client.workers() if row.model == model), None)
        if seconds is None or row is None or row.start_method != "fork":
            raise BenchError(f"{model} was not reached by a switch to a forked worker: {row}")
        return seconds

    def _settled(self) -> bool:
        states = [row.state for row in self._client.workers()]
        others = [state for state in states if state not in ("ready", "standby")]
        return not others and states.count("standby") == self._way.standby

    def _sample(self, seconds: float) -> Sample:
        until(self._settled, SETTLE_S, "the workers come to rest")
        daemon, template = _proc.census(self._daemon), _proc.census(self._template)
        told = self._client.status().template
        return Sample(
            switch_s=seconds,
            daemon_descriptors=daemon.descriptors,
            daemon_threads=daemon.threads,
            daemon_mib=daemon.resident_mib,
            template_descriptors=template.descriptors,
            template_threads=template.threads,
            template_mib=told.private_bytes / 2**20 if told else 0.0,
            zombies=frozenset(_proc.zombies(self._daemon)),
        )

    def _template_pid(self) -> int:
        template = self._client.status().template
        return template.pid if template else 0


def _ratio(found: Findings) -> float:
    return found["switch_last_quartile_s"].value / found["switch_first_quartile_s"].value


if __name__ == "__main__":
    main()
