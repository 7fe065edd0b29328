"""An app that is gone is noticed, whichever way it goes; one that is there is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from hermetic_daemon.apps import Apps
from hermetic_daemon.door import Peer
from support.clock import eventually, settle, timed

Play = Callable[[Apps, list[bytes]], Coroutine[Any, Any, None]]


def play(scene: Play) -> None:
    async def run() -> None:
        gone: list[bytes] = []
        apps = Apps(gone.append)
        descriptors = len(os.listdir("/proc/self/fd"))
        await scene(apps, gone)
        apps.close()
        assert len(os.listdir("/proc/self/fd")) <= descriptors

    timed(run())


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


def test_a_process_that_is_killed_takes_all_its_connections_along() -> None:
    async def scene(apps: Apps, gone: list[bytes]) -> None:
        with sleeper() as process:
            apps.greet(Peer(b"one", 0, process.pid), "app")
            apps.greet(Peer(b"two", 0, process.pid), "app")
            apps.greet(Peer(b"other", 0, os.getpid()), "app")
            process.kill()
            await eventually(lambda: len(gone) == 2)
        assert sorted(gone) == [b"one", b"two"]
        assert apps.has(b"other")

    play(scene)


def test_a_connection_that_says_goodbye_leaves_those_of_its_process_alone() -> None:
    async def scene(apps: Apps, gone: list[bytes]) -> None:
        with sleeper() as process:
            apps.greet(Peer(b"one", 0, process.pid), "app")
            apps.greet(Peer(b"two", 0, process.pid), "app")
            apps.lose(b"one")
            assert gone == [b"one"]
            process.kill()
            await eventually(lambda: gone == [b"one", b"two"])

    play(scene)


def test_the_last_connection_of_a_process_frees_its_descriptor() -> None:
    async def scene(apps: Apps, gone: list[bytes]) -> None:
        before = len(os.listdir("/proc/self/fd"))
        apps.greet(Peer(b"one", 0, os.getpid()), "app")
        apps.greet(Peer(b"two", 0, os.getpid()), "app")
        apps.lose(b"one")
        apps.lose(b"two")
        assert len(os.listdir("/proc/self/fd")) == before

    play(scene)


def test_a_process_that_nobody_knows_is_not_taken_for_gone() -> None:
    """Of another PID namespace, or so it seems: only a lost message tells."""

    async def scene(apps: Apps, gone: list[bytes]) -> None:
        with sleeper() as process:
            pid = process.pid
            process.kill()
        apps.greet(Peer(b"one", 0, pid), "app")
        await settle()
        assert not gone
        assert apps.has(b"one")

    play(scene)


def test_who_submits_before_saying_hello_has_no_name_and_is_looked_after_all_the_same() -> None:
    async def scene(apps: Apps, gone: list[bytes]) -> None:
        with sleeper() as process:
            assert apps.behind(Peer(b"one", 7, process.pid)).share == f"7/pid {process.pid}"
            process.kill()
            await eventually(lambda: gone == [b"one"])

    play(scene)
