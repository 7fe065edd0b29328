"""Two programs at once, each on its own model: every image is the right one."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from hashlib import sha256
from typing import Any

import pytest

from hermetic import Client
from support.daemon import RunningDaemon
from support.processes import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

JOBS = 20
APP = """
import json, sys
from hashlib import sha256
from hermetic import Client
endpoint, model, jobs, at_once = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
answers, open_jobs = [], []
with Client(endpoint, app=model) as client:
    client.status()
    print("connected", flush=True)
    sys.stdin.readline()
    for seed in range(jobs):
        open_jobs.append(client.submit(f"{model} {seed}", model=model, seed=seed, steps=2))
        if len(open_jobs) == at_once or seed == jobs - 1:
            for job in open_jobs:
                r = job.result(150)
                digest = sha256(r.pixels[0]).hexdigest()
                answers.append([r.worker.model, r.task.prompts[0], list(r.seeds), digest])
            open_jobs.clear()
json.dump(answers, sys.stdout)
"""


def run_apps(
    daemon: RunningDaemon, models: tuple[str, str], at_once: int, staggered: bool
) -> dict[str, list[list[Any]]]:
    """What each app got. Both are connected before the first of them submits; where they are
    staggered, the second begins when the first one's first jobs are in the queue."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(daemon.client())
        apps = {}
        for model in models:
            words = [sys.executable, "-c", APP, str(daemon.endpoint), model]
            app = subprocess.Popen(
                [*words, str(JOBS), str(at_once)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            apps[model] = stack.enter_context(app)
            stack.callback(app.kill)
            assert app.stdout is not None
            assert app.stdout.readline() == "connected\n"
        for app in apps.values():
            assert app.stdin is not None
            app.stdin.write("go\n")
            app.stdin.flush()
            if staggered:
                until(lambda: len(client.jobs()) >= at_once, 30, "the first has submitted")
        return {model: json.loads(app.communicate()[0]) for model, app in apps.items()}


def expected(client: Client, model: str) -> list[list[Any]]:
    """The same images, drawn with nobody else around."""
    prompts = [f"{model} {seed}" for seed in range(JOBS)]
    alone = client.generate(prompts, model=model, seed=0, steps=2)
    digests = [sha256(pixels).hexdigest() for pixels in alone.pixels]
    return [[model, prompts[seed], [seed], digests[seed]] for seed in range(JOBS)]


def check_forty_right_images(
    daemon: RunningDaemon,
    models: tuple[str, str],
    *,
    at_once: int,
    staggered: bool,
    least_switches: int,
) -> None:
    answers = run_apps(daemon, models, at_once, staggered)
    with daemon.client() as client:
        switches = client.status().workers_started - 1
        rows = client.jobs()
        for model in models:
            assert answers[model] == expected(client, model)
    assert switches >= least_switches, "they were interleaved"
    assert sorted(row.app for row in rows) == sorted([*models] * JOBS)
    assert {row.state for row in rows} == {"succeeded"}
    digests = {answer[3] for got in answers.values() for answer in got}
    assert len(digests) == 2 * JOBS, "no two are alike, so a crossed one would show"


def test_forty_jobs_that_alternate_between_two_models_give_forty_right_images() -> None:
    """Each app waits for one job before it submits the next: nearly every job is a switch."""
    sections = "".join(f'[models.{name}]\narchitecture = "echo"\n' for name in ("left", "right"))
    with RunningDaemon(sections) as daemon:
        check_forty_right_images(
            daemon, ("left", "right"), at_once=1, staggered=False, least_switches=JOBS
        )


def test_forty_jobs_of_two_real_models_give_forty_right_images(daemon: RunningDaemon) -> None:
    """In bursts of ten, because a switch between real models costs seconds here."""
    check_forty_right_images(
        daemon, ("demo-sd15", "demo-sdxl"), at_once=10, staggered=True, least_switches=2
    )
