"""The same work over HTTP on the loopback: a server of its own, one client, and a crowd of them."""

from __future__ import annotations

import os
import selectors
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import msgspec

import _children
from _arms import BenchError
from hermetic_wire.generation import TextToImage
from hermetic_worker.pipelines.echo import colour

__all__ = ["PATH", "App", "crowd", "server", "task", "unfollowed"]

PATH = "/generate"
STALL_S = 30.0
_END_S = 10.0
_BACKLOG = 128
_CHUNK = 1 << 16


@contextmanager
def server(directory: Path) -> Iterator[tuple[int, int]]:
    """Serves on a free port; `(port, pid)`. Who connects before it is ready waits."""
    with socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG) as listening:
        number = listening.fileno()
        words = [sys.executable, str(Path(__file__).with_name("_http_server.py")), str(number)]
        log = directory / "http.log"
        process = _children.start(words, os.environ, log, descriptors=[number])
        port = int(listening.getsockname()[1])
    try:
        yield port, process.pid
    finally:
        _children.end(process, _END_S)


def task(seed: int, side: int) -> TextToImage:
    """As the daemon would have filled it in."""
    return TextToImage(
        prompts=("http",), width=side, height=side, steps=1, guidance=1.0, seeds=(seed,)
    )


def unfollowed(*step: object, **more: object) -> None:
    """Steps of a pipeline that nobody follows."""


class App:
    """One client that stays connected, with the standard library's HTTP."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=STALL_S)
        self._connection.connect()
        # Headers and body are two writes: with Nagle's algorithm the second waits for an answer
        # to the first.
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def generate(self, seed: int, side: int) -> bytes:
        """The pixels of one image."""
        body = msgspec.json.encode(task(seed, side))
        self._connection.request("POST", PATH, body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        pixels = answer.read()
        if answer.status != 200:
            raise BenchError(f"the HTTP server answered {answer.status} {answer.reason}")
        _check(pixels, seed)
        return pixels

    def close(self) -> None:
        """Leave."""
        self._connection.close()


def crowd(port: int, size: int, jobs: int, side: int) -> float:
    """Seconds in which so many connections, one request each at a time, have got so many results.

    As bare as the daemon's crowd: requests are encoded beforehand, of an answer only its length
    and its first pixel are read.
    """
    requests = iter([(seed, _request(port, task(seed, side))) for seed in range(jobs)])
    connections = [_Connection(port) for _ in range(min(size, jobs))]
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        began = time.perf_counter()
        for connection in connections:
            connection.send(next(requests))
        while selector.get_map():
            ready = selector.select(STALL_S)
            if not ready:
                raise BenchError("the HTTP server does not answer any more")
            for key, _ in ready:
                _go_on(key.data, requests, selector)
        return time.perf_counter() - began


def _go_on(
    connection: _Connection,
    requests: Iterator[tuple[int, bytes]],
    selector: selectors.BaseSelector,
) -> None:
    if not connection.receive():
        return
    following = next(requests, None)
    if following is None:
        selector.unregister(connection.socket)
        connection.socket.close()
    else:
        connection.send(following)


class _Connection:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), STALL_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._seed = 0
        self._held = bytearray()

    def send(self, request: tuple[int, bytes]) -> None:
        self._seed, body = request
        self._held.clear()
        self.socket.sendall(body)

    def receive(self) -> bool:
        """Whether the answer is there as a whole."""
        chunk = self.socket.recv(_CHUNK)
        if not chunk:
            raise BenchError("the HTTP server has hung up")
        self._held += chunk
        head, blank, body = self._held.partition(b"\r\n\r\n")
        if not blank or len(body) < _length(head):
            return False
        _check(bytes(body), self._seed)
        return True


def _request(port: int, wanted: TextToImage) -> bytes:
    body = msgspec.json.encode(wanted)
    lines = [
        f"POST {PATH} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _length(head: Sequence[int]) -> int:
    for line in bytes(head).lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise BenchError(f"an HTTP answer says no length: {bytes(head)!r}")


def _check(pixels: bytes, seed: int) -> None:
    if pixels[:3] != bytes(colour("http", seed)):
        raise BenchError("an HTTP client has got another's pixels")
