"""What is told of a job, and in what order, when the disk takes its time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from hermetic_daemon.door import Door
from hermetic_daemon.followers import Followers
from hermetic_daemon.jobs import App, Job, Jobs
from hermetic_daemon.ledger import Ledger
from hermetic_daemon.records import End
from hermetic_daemon.store import Store, Then
from hermetic_wire.codec import Frame
from hermetic_wire.errors import ErrorBody, HermeticError, WorkerDied
from hermetic_wire.generation import Output, TextToImage, WorkerIdentity
from hermetic_wire.messages import FromDaemon, JobRetrying, JobSucceeded

APP = b"app"
WORKER = WorkerIdentity(model="m", architecture="echo", epoch=1, pid=1, device="cpu")


class SlowStore:
    """Writes nothing down until the test says so, and then all of it in its order."""

    def __init__(self) -> None:
        self._asked: list[Callable[[HermeticError | None], None]] = []

    def begin(self, *attempt: object) -> None:
        """Nobody waits for that."""

    def requeue(
        self, job_id: str, error: ErrorBody | None, *, death: bool, then: Then | None = None
    ) -> None:
        """As the real one."""
        if then is not None:
            self._asked.append(then)

    def finish(self, job_id: str, end: End, frames: Sequence[Frame], then: Then) -> None:
        """As the real one."""
        self._asked.append(then)

    def write(self) -> None:
        """The disk answers."""
        for then in self._asked:
            then(None)


class OpenDoor:
    """Hears what is said to apps."""

    def __init__(self) -> None:
        self.told: list[FromDaemon] = []

    def is_slow(self, identity: bytes) -> bool:
        """Everybody reads."""
        return False

    def send(self, identity: bytes, message: FromDaemon, raw: Sequence[Frame] = ()) -> None:
        """As the real one."""
        self.told.append(message)


def test_a_retry_is_told_before_an_end_that_came_while_it_was_written_down() -> None:
    async def tell() -> list[FromDaemon]:
        door, store = OpenDoor(), SlowStore()
        followers = Followers(cast(Door, door))
        ledger = Ledger(Jobs(10, 10**6, 60.0), cast(Store, store), followers)
        task = TextToImage(prompts=("a",))
        job = Job("j", App("app", 0, 1), "m", task, submitted_at=0.0, accepted=True)
        ledger.jobs.add(job)
        followers.add(job, APP)
        ledger.begin(job, WORKER)
        ledger.requeue(job, WorkerDied("it ended"), 0.0, death=True)
        ledger.begin(job, WORKER)
        ledger.complete(job, Output(), WORKER, [])
        ledger.settle(job, None)
        store.write()
        return door.told

    told = asyncio.run(tell())
    assert [type(message) for message in told] == [JobRetrying, JobSucceeded]
