"""An app that is gone is noticed, whichever way it goes; one that is there is left alone, also
where it does not read for a while."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import zmq

from hermetic_daemon.apps import Apps
from hermetic_daemon.door import Peer
from hermetic_daemon.router import Router
from support.clock import eventually, settle, timed

NEWS = b"n" * 100
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


class Reader:
    """A peer of a router, from its hello on: reads when it is told to."""

    def __init__(self, directory: Path) -> None:
        self.lost: list[bytes] = []
        self.identity = b""
        self._context = zmq.Context[zmq.Socket[bytes]]()
        path = directory / "socket"
        self.router = Router(self._context, path, self._hear, self.lost.append)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"ipc://{path}")
        self.read = 0

    async def come(self) -> None:
        """Until the router knows it."""
        self._socket.send(b"hello")
        await eventually(lambda: bool(self.identity))

    def _hear(self, identity: bytes, _: list[zmq.Frame]) -> None:
        self.identity = identity

    def read_up_to(self, count: int) -> bool:
        """Whether so many messages have been read, of which it reads all that are there."""
        with suppress(zmq.Again):
            while True:
                assert self._socket.recv_multipart(zmq.NOBLOCK)[0] == NEWS
                self.read += 1
        return self.read == count

    def close(self) -> None:
        self._socket.close()
        self.router.close()
        self._context.term()


def test_an_app_that_watches_a_very_long_queue_hears_of_all_its_jobs(tmp_path: Path) -> None:
    """All of them are told before it has had a chance to read."""
    count = 20_000

    async def scene() -> None:
        with closing(Reader(tmp_path)) as reader:
            await reader.come()
            for _ in range(count):
                reader.router.send(reader.identity, [NEWS])
            assert reader.router.is_slow(reader.identity)
            await eventually(lambda: reader.read_up_to(count))
            assert not reader.lost

    timed(scene())


def test_what_is_kept_for_an_app_that_does_not_read_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes count, pixels too, once what libzmq takes is full."""
    monkeypatch.setattr("hermetic_daemon.router.MAX_WAITING_BYTES", 1 << 20)

    async def scene() -> None:
        with closing(Reader(tmp_path)) as reader:
            await reader.come()
            while not reader.router.is_slow(reader.identity):
                reader.router.send(reader.identity, [NEWS])
            assert not reader.lost
            reader.router.send(reader.identity, [NEWS, memoryview(bytes(1 << 19))])
            assert not reader.lost
            reader.router.send(reader.identity, [NEWS, memoryview(bytes(1 << 19))])
            assert reader.lost == [reader.identity]
            assert not reader.router.is_slow(reader.identity)

    timed(scene())


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
