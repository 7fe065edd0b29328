"""kill -9 at every point of a write: what was acknowledged is there afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from unit.daemon.store_desk import PIXELS, Desk, at_desk

LIFE = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from unit.daemon.store_desk import DEATH, Desk, record

async def life():
    desk = Desk(Path(sys.argv[1]))
    def acknowledged(what):
        print(what, flush=True)
    for number in range(3):
        name = f"job-{number}"
        (error,) = await desk.add(record(name))
        assert error is None
        acknowledged(f"added {name}")
        desk.store.begin(name, number + 1, 42, 1.5)
        desk.store.requeue(name, DEATH, death=True)
        desk.store.begin(name, number + 10, 42, 1.5)
        if number == 1:
            await desk.cancel(name)
            acknowledged(f"cancelled {name}")
        else:
            assert await desk.finish(name) is None
            acknowledged(f"finished {name}")
    desk.store.forget(["job-0"])
    await desk.add(record("last"))
    desk.store.close()

asyncio.run(life())
"""
POINTS = [
    f"{kind}.{when}_commit"
    for kind in ("add", "begin", "requeue", "cancel", "finish", "forget")
    for when in ("before", "after")
] + ["finish.before_spool", "finish.half_spooled", "finish.before_rename", "finish.after_rename"]


@pytest.mark.parametrize("point", POINTS)
def test_nothing_acknowledged_is_lost_when_the_daemon_dies(point: str, tmp_path: Path) -> None:
    life = subprocess.run(
        [sys.executable, "-c", LIFE, str(tmp_path), str(Path(__file__).parents[2])],
        env={"HERMETIC_FAULT": point, "PATH": ""},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert life.returncode == -9, f"{point} was reached"

    async def look(desk: Desk) -> None:
        jobs = {job.id: job for job in desk.recovered.jobs}
        for line in life.stdout.splitlines():
            what, name = line.split()
            if point.startswith("forget") and name == "job-0":
                continue  # ended, and not to be kept
            job = jobs[name]
            assert job.cancel_asked or what != "cancelled"
            if what == "finished":
                assert job.state == "succeeded"
                assert await desk.pixels(name) == [PIXELS]
        for job in jobs.values():
            assert job.state in ("queued", "succeeded")

    at_desk(tmp_path, look)
