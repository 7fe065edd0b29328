"""Two programs at once, each on its own model: every image is the right one."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256

import pytest
from support.daemon import RunningDaemon

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

JOBS = 20
APP = """
import json, sys
from hermetic import Client
from hashlib import sha256
endpoint, name, jobs = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Client(endpoint, app=name) as client:
    jobs = [client.submit(f"{name} {i}", model=name, seed=i, steps=2) for i in range(jobs)]
    results = [job.result(100) for job in jobs]
json.dump(
    [
        [r.worker.model, list(r.seeds), r.task.prompts[0], sha256(r.pixels[0]).hexdigest()]
        for r in results
    ],
    sys.stdout,
)
"""


def run_app(daemon: RunningDaemon, name: str, jobs: int = JOBS) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", APP, str(daemon.endpoint), name, str(jobs)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_forty_interleaved_jobs_of_two_apps_give_forty_right_images() -> None:
    sections = "".join(f'[models.{name}]\narchitecture = "echo"\n' for name in ("left", "right"))
    with RunningDaemon(sections) as daemon:
        apps = {name: run_app(daemon, name) for name in ("left", "right")}
        answers = {name: json.loads(app.communicate(timeout=110)[0]) for name, app in apps.items()}
        assert {name: app.returncode for name, app in apps.items()} == {"left": 0, "right": 0}
        with daemon.client() as client:
            rows = client.jobs()
            for name, results in answers.items():
                assert [result[:3] for result in results] == [
                    [name, [i], f"{name} {i}"] for i in range(JOBS)
                ]
                for i, result in enumerate(results):
                    alone = client.generate(f"{name} {i}", model=name, seed=i, steps=2)
                    assert result[3] == sha(alone.pixels[0])
    assert len({result[3] for results in answers.values() for result in results}) == 2 * JOBS
    assert sorted(row.app for row in rows) == ["left"] * JOBS + ["right"] * JOBS
    assert {row.state for row in rows} == {"succeeded"}


def sha(pixels: memoryview) -> str:
    """As the apps compute it."""
    return sha256(pixels).hexdigest()
