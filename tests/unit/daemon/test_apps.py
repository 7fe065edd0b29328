"""An app that is gone is noticed, whichever way it goes; one that is there is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

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
            other = apps.greet(Peer(b"other", 0, os.getpid()), "app")
            process.kill()
            await eventually(lambda: len(gone) == 2)
        assert sorted(gone) == [b"one", b"two"]
        assert not other.gone

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
        one = apps.greet(Peer(b"one", 0, pid), "app")
        await settle()
        assert not gone
        assert not one.gone

    play(scene)


def test_who_submits_before_saying_hello_has_no_name_and_is_looked_after_all_the_same() -> None:
    async def scene(apps: Apps, gone: list[bytes]) -> None:
        with sleeper() as process:
            one = apps.behind(Peer(b"one", 7, process.pid))
            assert one.app.share == f"7/pid {process.pid}"
            process.kill()
            await eventually(lambda: gone == [b"one"])
            assert one.gone

    play(scene)


def test_a_connection_whose_name_is_forgotten_is_not_taken_for_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job of it may just be being written down, and it waits to hear of that."""
    monkeypatch.setattr("hermetic_daemon.apps.MAX_CONNECTIONS", 2)

    async def scene(apps: Apps, gone: list[bytes]) -> None:
        names = (b"one", b"two", b"three")
        one, *_ = (apps.greet(Peer(name, 7, os.getpid()), "app") for name in names)
        assert not one.gone
        assert apps.behind(Peer(b"one", 7, os.getpid())).app.name == "", "it is forgotten"
        assert not gone

    play(scene)


def test_a_second_hello_is_of_the_same_connection() -> None:
    async def scene(apps: Apps, gone: list[bytes]) -> None:
        one = apps.behind(Peer(b"one", 7, os.getpid()))
        assert apps.greet(Peer(b"one", 7, os.getpid()), "app") is one
        assert one.app.share == "7/app"
        apps.lose(b"one")
        assert one.gone

    play(scene)
