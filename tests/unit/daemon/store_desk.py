"""A store with answers that can be waited for, and accidents to have around it."""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest

from hermetic_daemon import faults
from hermetic_daemon.records import End, Record, Recovered
from hermetic_daemon.store import Store
from hermetic_wire.codec import Frame
from hermetic_wire.errors import ErrorBody, HermeticError
from hermetic_wire.generation import Image, Output, TextToImage, WorkerIdentity

__all__ = [
    "DEATH",
    "OUTPUT",
    "PIXELS",
    "WORKER",
    "Answer",
    "Desk",
    "Hold",
    "at_desk",
    "full_disk",
    "record",
    "recovered",
    "success",
]

T = TypeVar("T")
DEATH = ErrorBody(code="worker_died", message="it ended")
PIXELS = bytes(range(240)) * 80
"""Too many for the journal."""
OUTPUT = Output(images=(Image(width=80, height=80),), seeds=(2**64 - 1,), timings={"total": 0.5})
WORKER = WorkerIdentity(model="m", architecture="echo", epoch=3, pid=42, device="cpu")


def record(name: str, **more: Any) -> Record:
    """A new job."""
    task = TextToImage(prompts=("a",), seeds=(2**64 - 1,))
    plain: dict[str, Any] = {
        "app_name": "test", "uid": 7, "pid": 8, "model": "m", "task": task, "submitted_at": 1.0
    }  # fmt: skip
    return Record(id=name, **(plain | more))


def success(at: float = 2.0) -> End:
    """The end of a job that has yielded `PIXELS`."""
    return End(state="succeeded", ended_at=at, output=OUTPUT, worker=WORKER)


class Answer(Generic[T]):
    """What a callback is told, once."""

    def __init__(self) -> None:
        self._told: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def take(self, told: T) -> None:
        self._told.set_result(told)

    async def get(self) -> T:
        async with asyncio.timeout(20):
            return await self._told


class Desk:
    """A store, and whoever asks it."""

    def __init__(self, directory: Path) -> None:
        self.store = Store.open(directory)
        self.recovered = self.store.recover()
        self.store.start(asyncio.get_running_loop())

    async def add(self, *records: Record) -> list[HermeticError | None]:
        answers = [Answer[HermeticError | None]() for _ in records]
        for record, answer in zip(records, answers, strict=True):
            self.store.add(record, answer.take)
        return [await answer.get() for answer in answers]

    async def finish(
        self, name: str, end: End | None = None, frames: Sequence[Frame] = (PIXELS,)
    ) -> HermeticError | None:
        answer = Answer[HermeticError | None]()
        self.store.finish(name, end or success(), () if end else frames, answer.take)
        return await answer.get()

    async def cancel(self, name: str) -> HermeticError | None:
        answer = Answer[HermeticError | None]()
        self.store.ask_cancel(name, answer.take)
        return await answer.get()

    async def pixels(self, name: str) -> list[Frame] | HermeticError:
        answer = Answer[list[Frame] | HermeticError]()
        self.store.read_pixels(name, answer.take)
        return await answer.get()


class Hold:
    """Holds the thread that writes up in its next transaction, until `release`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.points: list[str] = []
        """Those of `faults` that were reached."""
        self._reached, self._released = threading.Event(), threading.Event()
        monkeypatch.setattr(faults, "reach", self._reach)

    def begin(self, desk: Desk) -> None:
        """Give it something to write, and wait until it is held."""
        desk.store.set_paused(False)
        assert self._reached.wait(20)

    def release(self) -> None:
        """Let it go on, and not be held any more."""
        self._released.set()

    def _reach(self, point: str) -> None:
        self.points.append(point)
        self._reached.set()
        assert self._released.wait(20)


def at_desk(directory: Path, work: Callable[[Desk], Coroutine[Any, Any, T]]) -> T:
    """One daemon's life."""

    async def run() -> T:
        desk = Desk(directory)
        try:
            return await work(desk)
        finally:
            desk.store.close()

    return asyncio.run(run())


def recovered(directory: Path) -> Recovered:
    """What the next daemon finds."""

    async def look(desk: Desk) -> Recovered:
        return desk.recovered

    return at_desk(directory, look)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow: setrlimit(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
