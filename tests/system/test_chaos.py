"""Every misfortune of the chaos worker at every state of a worker: the matrix, printed with -s.

In each cell a daemon of its own meets the misfortune once. Its app has three jobs, one after the
other: whatever happens to their workers, each ends in the image that it asked for.
"""

from __future__ import annotations

import concurrent.futures
import json
import sys
from pathlib import Path

import pytest

from fakes.misbehaving_worker import ENVIRONMENT, FLAGS, MISFORTUNES, PLACES, STAGE
from hermetic import Client
from hermetic_wire.messages import JobLoading, JobRetrying
from hermetic_worker.pipelines.echo import colour
from support.daemon import RunningDaemon

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

CONFIG = """
[worker]
hello_seconds = 4
load_seconds = 3
step_seconds = 3
backoff_seconds = 0.05
growth_bytes = 50_000_000
"""
VALUES: dict[str, int] = {"flood_stderr": 400_000, "leak_mb_per_job": 80}
"""Of the flags that take more than a step's number."""
ELSEWHERE = {
    "hold_device_memory": "needs a driver: tests/unit/daemon/test_memory.py",
    "never_ready": "goes on for ever by design: the test below",
}
AT_ONCE = 6
"""Cells lived through at the same time: they mostly wait for deadlines."""


def options(flag: str, directory: Path) -> str:
    """What the worker is told by its environment."""
    value = VALUES.get(flag, 2 if flag.endswith("_at_step") else 1)
    once = {"only_first_attempts": 1, "counter_file": str(directory / flag)}
    return json.dumps({flag: value, **once})


def live_through(flag: str, directory: Path) -> str:
    """The app's three jobs, with the misfortune among them; what it noticed, in a word or two."""
    environment = {ENVIRONMENT: options(flag, directory)}
    with RunningDaemon(CONFIG, misbehaving=True, environment=environment) as daemon:
        with daemon.client() as client:
            told = [one for seed in range(3) for one in draw(client, seed)]
        assert daemon.process.poll() is None, f"{flag}: the daemon lives"
    return f"{len(told)} retry" if told else "unnoticed"


def draw(client: Client, seed: int) -> list[JobRetrying]:
    """One job; how often its app was told that it is tried again."""
    job = client.submit("a", model="echo", seed=seed, steps=4, width=8, height=8)
    told = [update for update in job if isinstance(update, JobRetrying)]
    (pixels,) = job.result(60).pixels
    assert bytes(pixels) == bytes(colour("a", seed)) * 64, "its own image"
    return told


def test_every_misfortune_at_every_state(tmp_path: Path) -> None:
    flags = [flag for flag in FLAGS if flag not in ELSEWHERE]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as threads:
        cells = {flag: threads.submit(live_through, flag, tmp_path) for flag in flags}
    outcomes: dict[str, str] = {}
    failures: list[str] = []
    for flag, cell in cells.items():
        error = cell.exception()
        outcomes[flag] = "FAILED" if error else cell.result()
        if error:
            failures.append(f"{flag}: {error!r}"[:2000])
    tell(outcomes)
    assert not failures, "\n\n".join(failures)
    assert "1 retry" in outcomes.values(), "misfortunes did happen"


def tell(outcomes: dict[str, str]) -> None:
    """The matrix, and the flags that stand for themselves."""
    lines = ["", f"{'':<22}" + "".join(f"{state:<12}" for state in PLACES)]
    for misfortune in MISFORTUNES:
        row = [outcomes.get(f"{misfortune}_{place}", "-") for place in PLACES.values()]
        lines.append(f"{misfortune:<22}" + "".join(f"{cell:<12}" for cell in row))
    in_the_matrix = {f"{one}_{place}" for one in MISFORTUNES for place in PLACES.values()}
    for flag, states in FLAGS.items():
        if flag not in in_the_matrix:
            outcome = outcomes.get(flag) or ELSEWHERE[flag]
            lines.append(f"{flag:<22}{outcome} ({', '.join(sorted(states))})")
    sys.stdout.write("\n".join([*lines, ""]))


def test_a_load_that_makes_progress_for_ever_ends_when_its_model_is_unloaded(
    tmp_path: Path,
) -> None:
    environment = {ENVIRONMENT: options("never_ready", tmp_path)}
    with (
        RunningDaemon(CONFIG, misbehaving=True, environment=environment) as daemon,
        daemon.client() as client,
    ):
        job = client.submit("a", model="echo")
        # Not its first sign of progress: that comes before the worker has counted itself.
        next(update for update in job if isinstance(update, JobLoading) and update.stage == STAGE)
        client.unload("echo")
        assert job.result(60).images, "by another worker"
