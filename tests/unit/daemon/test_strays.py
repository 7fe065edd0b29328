"""What a worker leaves behind goes where it went; whoever is known, or may be, is not touched.

The sweep kills every child of its process that it does not know, so it is let loose only in
processes of its own.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from hermetic_daemon.strays import end_orphans
from support.daemon import FAKES, RunningDaemon
from support.processes import gone, until

PRELUDE = """
import asyncio, os, signal, sys
from hermetic_daemon.process import ChildProcess, Grace
from hermetic_daemon.strays import Strays, become_subreaper

class Orphan:
    # Adopted from a child that has ended; answers whoever asks whether it lives.
    def __init__(self, offspring=0):
        there, self.ask = os.pipe()
        self.hear, back = os.pipe()
        middle = os.fork()
        if middle == 0:
            os.setsid()
            if os.fork() != 0:
                os._exit(0)
            for each in (self.ask, self.hear):
                os.close(each)
            os.write(back, b"!")
            for _ in range(offspring):  # a chain: each is the child of the one before
                if os.fork() != 0:
                    break
            while byte := os.read(there, 1):
                os.write(back, byte)
            os._exit(0)
        os.waitpid(middle, 0)
        os.close(there)
        os.close(back)
        assert os.read(self.hear, 1) == b"!"

    def lives(self):
        os.write(self.ask, b"?")
        return os.read(self.hear, 1) == b"?"

    async def ended(self):
        # The last of its family has closed the pipe.
        await asyncio.to_thread(os.read, self.hear, 1)

def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as listing:
        return listing.read().split()

async def all_reaped():
    while children():
        await asyncio.sleep(0.002)

become_subreaper()
"""

UNKNOWN = """
async def main():
    strays = Strays(lambda: False)
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, strays.sweep)
    orphans = [Orphan(offspring=0), Orphan(offspring=3)]
    strays.sweep()
    for orphan in orphans:
        await orphan.ended()
    await all_reaped()
    print("all reaped")
asyncio.run(main())
"""

EXPECTED = """
async def main():
    expecting = True
    strays = Strays(lambda: expecting)
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, strays.sweep)
    orphan = Orphan()
    for _ in range(3):
        strays.sweep()
    print("lives" if orphan.lives() else "touched")
    expecting = False  # nothing else happens: no child dies, nobody calls
    await orphan.ended()
    await all_reaped()
    print("reaped")
asyncio.run(main())
"""

KNOWN = """
async def main():
    strays = Strays(lambda: False)
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, strays.sweep)
    over = asyncio.Queue()
    known = ChildProcess.start([CAT], os.environ, b"", over.put_nowait)
    orphan = Orphan()
    strays.sweep()
    await orphan.ended()
    known.end(Grace(0.0, 60.0))
    exit = await over.get()
    print(exit.code, exit.rung)
    at_once = ChildProcess.start([CAT, "/nonexistent"], os.environ, b"", over.put_nowait)
    while open(f"/proc/{at_once.pid}/stat").read().split()[2] != "Z":
        strays.sweep()
    strays.sweep()  # it is dead, but not ours to reap
    print((await over.get()).code)
asyncio.run(main())
"""


def run(program: str) -> list[str]:
    """The lines that the program prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + "CAT = '/bin/cat'\n" + program],
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_strays_are_killed_and_reaped_with_all_their_offspring() -> None:
    assert run(UNKNOWN) == ["all reaped"]


def test_nobody_is_touched_while_a_fork_is_expected_and_nobody_is_forgotten() -> None:
    """The unknown child may be the very worker that is just being forked."""
    assert run(EXPECTED) == ["lives", "reaped"]


def test_a_child_that_is_known_is_neither_killed_nor_reaped_by_the_sweep() -> None:
    """Its exit status belongs to whoever started it."""
    assert run(KNOWN) == ["-15 terminate", "1"]


@pytest.mark.system
@pytest.mark.parametrize("how", ["child", "orphan"])
def test_what_a_worker_has_left_behind_does_not_outlive_it(tmp_path: Path, how: str) -> None:
    """In a session of its own no signal to the worker's group reaches it."""
    note = tmp_path / "pid"
    environment = {
        "HERMETIC_WORKER__COMMAND": f"{sys.executable} {FAKES / 'leaving_worker.py'}",
        "LEFT_BEHIND": str(note),
        "LEAVE": how,
    }
    with RunningDaemon(environment=environment) as daemon, daemon.client() as client:
        client.load("echo").result(30)
        left = psutil.Process(int(note.read_text()))
        assert not gone(left.pid), "the worker lives, so it may have children"
        client.unload("echo")
        until(lambda: not psutil.pid_exists(left.pid), 20, "killed, and reaped by the daemon")
        assert client.status().state == "serving"


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True
    )


def test_an_orphan_of_an_earlier_daemon_is_ended_by_its_pid_and_start() -> None:
    with sleeper() as orphan:
        started = psutil.Process(orphan.pid).create_time()
        ended = asyncio.run(end_orphans([(orphan.pid, started)]))
        assert ended == [orphan.pid]
        assert orphan.wait(0) == -signal.SIGKILL


def test_whoever_has_an_orphans_number_by_now_is_left_alone() -> None:
    with sleeper() as stranger:
        started = psutil.Process(stranger.pid).create_time()
        assert asyncio.run(end_orphans([(stranger.pid, started - 5.0)])) == []
        assert stranger.poll() is None
        stranger.kill()


def test_an_orphan_that_is_gone_already_is_no_trouble() -> None:
    with sleeper() as gone_already:
        started = psutil.Process(gone_already.pid).create_time()
        gone_already.kill()
    assert asyncio.run(end_orphans([(gone_already.pid, started)])) == []
