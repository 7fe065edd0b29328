"""How long a switch takes: Hermetic's ways beside those of apps, taking turns in one run."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import _models
import _page_cache
import _plan
import _plot
import _proc
from _arms import Arm, BenchError, Setting, Visit, progress
from _daemons import WAYS, DaemonArm, standby_of
from _processes import InProcess, NewInterpreter
from _rates import measured
from _report import arguments, tell
from hermetic.cli.bench.figures import Samples
from hermetic.cli.bench.machine import available_memory
from hermetic_wire.errors import HermeticError

PROCESS_BYTES = 600 << 20
"""What a process with torch and diffusers takes of its own, roughly."""


def main() -> None:
    """The whole benchmark; ends with exit code 1 and a sentence where it cannot be made."""
    options = parser().parse_args()
    try:
        _run(options)
    except (BenchError, HermeticError) as error:
        raise SystemExit(f"switch: {error}{_report_of(error)}") from error


def parser() -> argparse.ArgumentParser:
    """Its options."""
    found = arguments(__doc__ or "", rounds=7)
    found.add_argument("--size", choices=("tiny", "real"), default="tiny", help="default: tiny")
    found.add_argument("--arms", type=_arms, default=_plan.ARMS, metavar="A,B", help="default: all")
    found.add_argument("--cache", choices=("warm", "cold"), default="warm", help="default: warm")
    found.add_argument(
        "--read-ahead",
        action="store_true",
        help="ready is with all weights in memory; cold: always",
    )
    found.add_argument("--plot", type=Path, metavar="FILE.png", help="also draw the stages")
    return found


def _arms(text: str) -> tuple[str, ...]:
    try:
        return _plan.chosen(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _run(options: argparse.Namespace) -> None:
    if options.plot:
        _plot.require()
    samples = Samples()
    with tempfile.TemporaryDirectory(prefix="hermetic-bench-") as scratch:
        setting = _setting(options, Path(scratch))
        settings = _settings(options, setting)
        _require_memory(setting, options.arms)
        with _started(options.arms, setting, Path(scratch)) as arms:
            Comparison(setting, arms, samples, cold=options.cache == "cold").run(options.rounds)
            _weigh(arms, samples)
        progress("the machine's rates")
        rates = measured(options.device, setting.folder(setting.models[-1]))
    ratios = _plan.ratios(samples.figures(), options.arms, _plan.directions(setting.models))
    ratios |= _told_rates(rates, samples)
    tell("switch", options.device, samples, ratios, options.json, settings)
    if options.plot:
        _draw(options, setting, samples)


def _setting(options: argparse.Namespace, scratch: Path) -> Setting:
    progress(f"the {options.size} models")
    place = scratch / "models" if options.size == "tiny" else _models.cache_directory()
    return Setting(
        folders=_models.made(options.size, place),
        dtype=_models.DTYPES[options.size],
        device=options.device,
        read_ahead=options.read_ahead or options.cache == "cold",
    )


def _require_memory(setting: Setting, arms: Sequence[str]) -> None:
    """The page cache has to hold both models, or a warm switch would be a cold one."""
    models = sum(_page_cache.size(setting.folder(model)) for model in setting.models)
    processes = len(arms) + sum(name in WAYS for name in arms)
    needed, there = models + processes * PROCESS_BYTES, available_memory()
    if needed > there:
        raise BenchError(
            f"{len(arms)} arms need {needed / 1e9:.1f} GB of memory, {models / 1e9:.1f} of it for "
            f"the files of both models, and {there / 1e9:.1f} GB are there; name fewer by --arms"
        )


@contextmanager
def _started(names: Sequence[str], setting: Setting, scratch: Path) -> Iterator[dict[str, Arm]]:
    """All of them, begun together and each waited for."""
    with ExitStack() as stack:
        arms: dict[str, Arm] = {}
        for name in names:
            arms[name] = _arm(name, setting, scratch)
            stack.callback(arms[name].close)
        for name, arm in arms.items():
            progress(f"{name} starts")
            arm.await_start()
        yield arms


def _arm(name: str, setting: Setting, scratch: Path) -> Arm:
    match name:
        case "new_interpreter":
            return NewInterpreter(setting)
        case "in_process_naive" | "in_process_tuned" | _plan.BOUND:
            return InProcess(name.removeprefix("in_process_"), setting)
        case _:
            return DaemonArm(name, setting, scratch / name)


class Comparison:
    """Arms that take turns. Only the one whose turn it is holds a model.

    So each finds the same memory and the same page cache, and with `cold` nobody else has pages
    of the model mapped, which the kernel would then keep.
    """

    def __init__(
        self, setting: Setting, arms: Mapping[str, Arm], samples: Samples, *, cold: bool
    ) -> None:
        self._setting, self._arms, self._samples, self._cold = setting, arms, samples, cold

    def run(self, rounds: int) -> None:
        """So many turns of each arm, after one in which nothing counts."""
        if not self._cold:
            for model in self._setting.models:
                _page_cache.fill(self._setting.folder(model))
        for turn in range(rounds + 1):
            for name in _plan.order(list(self._arms), turn - 1):
                if turn > 0 or name not in _plan.FRESH:
                    which = f"{turn}/{rounds}" if turn else "warm-up"
                    self._turn(name, self._arms[name], which)

    def _turn(self, name: str, arm: Arm, which: str) -> None:
        """To the first model, which is no switch; through all others and back; to rest."""
        first, *_ = self._setting.models
        self._visit(arm, first)
        told = []
        for origin, target in _plan.directions(self._setting.models):
            if which == "warm-up" and target == first:
                continue
            visit = self._visit(arm, target)
            told.append(f"{origin} to {target} {visit.seconds:.3f} s")
            if which != "warm-up":
                self._count(name, origin, target, visit)
        arm.leave()
        arm.settle()
        progress(f"{which}: {name}: {', '.join(told)}")

    def _visit(self, arm: Arm, model: str) -> Visit:
        arm.settle()
        if self._cold:
            folder = self._setting.folder(model)
            _page_cache.drop(folder)
            self._samples.add("cached_before_cold", "share", _page_cache.cached_share(folder))
        return arm.visit(model)

    def _count(self, name: str, origin: str, target: str, visit: Visit) -> None:
        total = _plan.total_name(origin, target, name)
        self._samples.add(total, "s", visit.seconds)
        for stage, seconds in visit.stages.items():
            self._samples.add(_plan.stage_name(origin, target, name, stage), "s", seconds)
        if name == "fork":
            self._samples.add("fork_to_first_instruction_ms", "ms", 1000 * visit.stages["fork"])
        if name in WAYS and self._setting.device != "cpu":
            freed = visit.stages.get("reap", 0.0) + visit.stages.get("release", 0.0)
            self._samples.add("kill_to_free_vram_s", "s", freed)


def _weigh(arms: Mapping[str, Arm], samples: Samples) -> None:
    """What it costs to have a template, and a standby, while nothing happens."""
    forking = [arms[name] for name in ("fork", "standby") if name in arms]
    for number, arm in enumerate(forking):
        assert isinstance(arm, DaemonArm)
        client = arm.daemon.client
        template, standby = client.status().template, standby_of(client)
        if template is not None and number == 0:  # both templates are the same
            samples.add("template_private_mib", "MiB", template.private_bytes / 2**20)
        if standby is not None:
            samples.add("standby_private_mib", "MiB", _proc.private_mib(standby.pid))


def _told_rates(rates: Mapping[str, float], samples: Samples) -> dict[str, float]:
    """Into the samples; what staging reaches of what the machine can do is returned."""
    for name, value in rates.items():
        samples.add(name, "s" if name.endswith("_s") and "per" not in name else "GB/s", value)
    found = {
        "staging_into_ring/memcpy": rates["staging_into_ring_gb_per_s"] / rates["memcpy_gb_per_s"]
    }
    if "h2d_pinned_gb_per_s" in rates:
        found["staging/link"] = rates["staging_gb_per_s"] / rates["h2d_pinned_gb_per_s"]
    return found


def _settings(options: argparse.Namespace, setting: Setting) -> dict[str, object]:
    return {
        "size": options.size,
        "cache": options.cache,
        "read_ahead": setting.read_ahead,
        "rounds": options.rounds,
        "arms": list(options.arms),
        "dtype": setting.dtype,
        "model_bytes": {model: _page_cache.size(setting.folder(model)) for model in setting.models},
    }


def _draw(options: argparse.Namespace, setting: Setting, samples: Samples) -> None:
    title = f"a switch, {options.size} models, {options.cache} page cache, {options.device}"
    if setting.read_ahead:
        title += ", all weights read"
    pairs = _plan.directions(setting.models)
    _plot.plot(samples.figures(), options.arms, pairs, title, options.plot)
    progress(f"drawn: {options.plot}")


def _report_of(error: Exception) -> str:
    report = error.report if isinstance(error, HermeticError) else None
    return f"\n{report}" if report else ""


if __name__ == "__main__":
    main()
