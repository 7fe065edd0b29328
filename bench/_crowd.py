"""Many apps at once: as bare connections that only read and write bytes, and as AsyncClients.

Bare ones cost the machine next to nothing, so what they measure is the daemon. AsyncClients are
what apps have; fifty of them in one process measure that process as well.
"""

from __future__ import annotations

import asyncio
import secrets
import selectors
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import zmq

from _arms import BenchError
from hermetic import AsyncClient
from hermetic_wire.codec import Frame
from hermetic_wire.generation import TextToImage
from hermetic_wire.messages import (
    Accepted,
    FromDaemon,
    Hello,
    JobSucceeded,
    Submit,
    from_app,
    from_daemon,
)
from hermetic_worker.pipelines.echo import colour

__all__ = ["STAGES", "Crowd", "Wanted", "apps", "wanted"]

MODEL = "echo"
SIDE = 8
"""Pixels of width and height; a result has 192 bytes."""
STALL_MS = 30_000
"""Longer without any message is a failure, not a figure."""
_READABLE = int(zmq.POLLIN)
STAGES: dict[type[FromDaemon], str] = {
    Accepted: "accepted",
    JobSucceeded: "result",
}
"""What an app hears of a job, in this order; other news count to the next of these."""


@dataclass(frozen=True)
class Wanted:
    """A job that is ready to be sent, and what has to come of it."""

    frames: Sequence[Frame]
    pixel: bytes


def wanted(count: int, side: int = SIDE) -> list[Wanted]:
    """So many different jobs, encoded beforehand: an app's own encoding is not the daemon's."""
    run = secrets.token_hex(8)
    return [_wanted(f"{run}{number:016x}", number, side) for number in range(count)]


def _wanted(job_id: str, seed: int, side: int) -> Wanted:
    task = TextToImage(prompts=(job_id,), width=side, height=side, steps=1, seeds=(seed,))
    submit = Submit(seq=seed + 2, job_id=job_id, model=MODEL, task=task)
    return Wanted(from_app.encode(submit), bytes(colour(job_id, seed)))


class Crowd:
    """So many connections of one process, each with one job at a time."""

    def __init__(self, endpoint: Path, size: int) -> None:
        self._context = zmq.Context()
        self._sockets = [self._context.socket(zmq.DEALER) for _ in range(size)]
        for number, one in enumerate(self._sockets):
            one.setsockopt(zmq.LINGER, 0)
            one.setsockopt(zmq.RCVTIMEO, STALL_MS)
            one.connect(f"ipc://{endpoint}")
            one.send_multipart(from_app.encode(Hello(seq=1, app=f"crowd-{number}")))
        for one in self._sockets:
            one.recv_multipart()

    def run(self, jobs: Sequence[Wanted]) -> float:
        """Seconds until each has its right result. Raises BenchError where one has another end."""
        waiting = iter(jobs)
        held: dict[zmq.Socket[bytes], Wanted] = {}
        with selectors.DefaultSelector() as selector:
            for one in self._sockets:
                selector.register(one.fileno(), selectors.EVENT_READ, one)
            began = time.perf_counter()
            for one in self._sockets:
                _next(one, waiting, held)
            ready = self._sockets
            while held:
                for one in ready:
                    for frames in _received(one):
                        if _over(frames, held[one]):
                            _next(one, waiting, held)
                ready = _ready(selector) if held else []
            return time.perf_counter() - began

    def stages(self, job: Wanted) -> dict[str, float]:
        """Seconds of one job of one connection, by what the app hears; together they are all."""
        one = self._sockets[0]
        heard = [(time.perf_counter(), [b""])]
        one.send_multipart(job.frames)
        while not _over(heard[-1][1], job):
            frames = one.recv_multipart()
            heard.append((time.perf_counter(), frames))
        return _by_stage(heard)

    def close(self) -> None:
        """Leave."""
        for one in self._sockets:
            one.close()
        self._context.term()

    def __enter__(self) -> Crowd:
        """Greeted."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closed."""
        self.close()


def _next(
    one: zmq.Socket[bytes], waiting: Iterator[Wanted], held: dict[zmq.Socket[bytes], Wanted]
) -> None:
    held.pop(one, None)
    job = next(waiting, None)
    if job is not None:
        held[one] = job
        one.send_multipart(job.frames)


def _received(one: zmq.Socket[bytes]) -> Iterator[list[bytes]]:
    """What is there. Its descriptor tells of news once: who waits for it has to have taken all."""
    while int(one.getsockopt(zmq.EVENTS)) & _READABLE:
        yield one.recv_multipart(zmq.NOBLOCK)


def _ready(selector: selectors.BaseSelector) -> list[zmq.Socket[bytes]]:
    ready = selector.select(STALL_MS / 1000)
    if not ready:
        raise BenchError("jobs wait and no message comes any more")
    return [key.data for key, _ in ready]


def _over(frames: Sequence[bytes], job: Wanted) -> bool:
    """Whether this is the job's result. Raises BenchError for a refusal and for wrong pixels."""
    if len(frames) == 1:
        if b"rejected" in frames[0] or b"job_failed" in frames[0]:
            raise BenchError(f"a job of the crowd was not done: {from_daemon.decode(frames)[0]}")
        return False
    if frames[1][:3] != job.pixel:
        raise BenchError("a job of the crowd has got another's pixels")
    return True


def _by_stage(heard: Sequence[tuple[float, Sequence[bytes]]]) -> dict[str, float]:
    found: dict[str, float] = {}
    since = heard[0][0]
    for at, frames in heard[1:]:
        name = STAGES.get(type(from_daemon.decode(frames)[0]))
        if name is not None:
            found[name] = found.get(name, 0.0) + at - since
            since = at
    return found


def apps(endpoint: Path, size: int, jobs: int) -> float:
    """Seconds in which so many AsyncClients, one job each at a time, have got so many results."""
    return asyncio.run(_apps(endpoint, size, jobs))


async def _apps(endpoint: Path, size: int, jobs: int) -> float:
    clients = [AsyncClient(endpoint, app=f"app-{number}") for number in range(size)]
    try:
        await asyncio.gather(*(client.status() for client in clients))
        numbers = iter(range(jobs))
        began = time.perf_counter()
        await asyncio.gather(*(_work(client, numbers) for client in clients))
        return time.perf_counter() - began
    finally:
        await asyncio.gather(*(client.close() for client in clients))


async def _work(client: AsyncClient, numbers: Iterator[int]) -> None:
    for seed in numbers:
        result = await client.generate(
            "an app", model=MODEL, width=SIDE, height=SIDE, steps=1, seed=seed
        )
        if bytes(result.pixels[0][:3]) != bytes(colour("an app", seed)):
            raise BenchError("an app has got another's pixels")
