"""Thousands of jobs of many apps, with workers, daemons and apps killed between them by chance.

Everything comes from one seed. The exit code is 1 where a job was lost, ended twice, or got the
pixels of another, where a process was left behind, or where the daemon grew.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping

from _arms import BenchError, progress
from _chaos import Chaos
from _chaos_app import digest, reference_name
from _chaos_plan import DEMO, ECHO, PlannedJob, Scale, faults, jobs
from _chaos_verdict import Told, complaints, growth, verdict
from _lives import Lives
from _report import arguments, positive, tell
from _soak import Finding, Findings
from hermetic import Client
from hermetic.cli.bench.figures import Samples
from hermetic_wire.errors import HermeticError

SMALL = Scale(
    jobs=120, apps=8, demo_share=0.0, workers=3, daemons=3, killed_apps=3, leaves=3, cancels=3
)
DEMO_SHARE = 0.02
KEPT = 500
"""Ended jobs that the daemon keeps: more than end until an app has asked for an end once more, and
few enough that keeping them is no growth of the quarters that are compared."""
REFERENCE_S = 300.0
START_METHODS = {True: "fork", False: "exec"}
"""By whether there are models to fork for."""


def main() -> None:
    """The whole of it."""
    options = parser().parse_args()
    scale = scale_of(options)
    seed = options.seed if options.seed is not None else int(time.time())
    progress(f"seed {seed}: {scale}")
    samples = Samples()
    try:
        found = soaked(seed, scale, options, samples)
    except (BenchError, HermeticError) as error:
        raise SystemExit(f"soak: seed {seed}: {error}") from error
    for name, finding in found.items():
        samples.add(name, finding.unit, finding.value)
    settings = {"seed": seed, "jobs": scale.jobs, "apps": scale.apps}
    tell("soak", options.device, samples, {}, options.json, settings)
    broken = [name for name, finding in found.items() if not finding.holds]
    if broken:
        raise SystemExit(f"soak: seed {seed}: does not hold: {', '.join(broken)}")
    progress("everything holds")


def parser() -> argparse.ArgumentParser:
    """Its options."""
    found = arguments(__doc__ or "", rounds=None)
    found.add_argument("--jobs", type=positive, help="default: 5000")
    found.add_argument("--apps", type=positive, help="default: 8")
    found.add_argument("--seconds", type=positive, help="submit nothing after so many")
    found.add_argument("--seed", type=int, help="of the plan; default: another one each time")
    found.add_argument(
        "--small", action="store_true", help="120 jobs without a model, 3 faults each"
    )
    return found


def scale_of(options: argparse.Namespace) -> Scale:
    """As many faults as go with the jobs."""
    if options.small:
        return SMALL
    number = options.jobs or 5000
    return Scale(
        jobs=number,
        apps=options.apps or 8,
        demo_share=DEMO_SHARE,
        workers=max(1, number // 60),
        daemons=max(1, number // 250),
        killed_apps=max(1, number // 100),
        leaves=max(1, number // 50),
        cancels=max(1, number // 20),
    )


def soaked(seed: int, scale: Scale, options: argparse.Namespace, samples: Samples) -> Findings:
    """One run, from the first daemon to the end of the last. Other figures go to `samples`."""
    plans = jobs(seed, scale)
    with_demo = scale.demo_share > 0
    with Lives(configuration(with_demo), options.device, threads=1) as lives:
        with lives.client("references") as client:
            pictures = references(client, (job for jobs_ in plans for job in jobs_))
        chaos = Chaos(lives, plans, faults(seed, scale))
        try:
            seconds = chaos.run(pictures, options.seconds)
            told = chaos.told()
        finally:
            chaos.close()
        exit_status = lives.stop()
        left = lives.processes() | chaos.orphans
        found = verdict(told) | injected(chaos.injected, told) | growth(chaos.samples)
        for words in complaints(told):
            progress(words)
    samples.add("jobs_per_s", "jobs/s", found["jobs_submitted"].value / seconds)
    for restart in chaos.restarts:
        samples.add("daemon_killed_to_answer_s", "s", restart)
    return found | {
        "orphans": Finding(len(left), "processes", not left),
        "last_exit_status": Finding(exit_status, "", exit_status == 0),
    }


def configuration(with_demo: bool) -> str:
    """Of the daemon. After a crash it starts a worker again soon: here crashes are many."""
    models = "".join(f'[models.{name}]\narchitecture = "echo"\n' for name in ECHO)
    return (
        f"[daemon]\nkeep_jobs = {KEPT}\n"
        f'[worker]\nstart_method = "{START_METHODS[with_demo]}"\n'
        "backoff_seconds = 0.05\nbackoff_limit_seconds = 0.5\ncancel_seconds = 2.0\n"
    ) + models


def references(client: Client, planned: Iterable[PlannedJob]) -> Mapping[str, str]:
    """What each picture of a model has to be: drawn beforehand, when nothing disturbs it."""
    found: dict[str, str] = {}
    for job in planned:
        name = reference_name(job)
        if job.model in DEMO and name not in found:
            result = client.generate(
                job.prompt, model=job.model, steps=job.steps, seed=job.seed, timeout=REFERENCE_S
            )
            found[name] = digest(result.pixels[0])
    return found


def injected(killed: Mapping[str, int], told: Iterable[Told]) -> Findings:
    """How many accidents there were, of each kind: those from outside, and those of the apps."""
    histories = [job.history for job in told]
    counts = {
        **killed,
        "app_left": sum(history.left for history in histories),
        "cancelled": sum(history.cancelled for history in histories),
    }
    found = {f"faults/{kind}": Finding(number, "times") for kind, number in counts.items()}
    return {**found, "faults": Finding(sum(counts.values()), "times")}


if __name__ == "__main__":
    main()
