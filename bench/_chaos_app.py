"""`python bench/_chaos_app.py TASK`: one app of a soak, which may be killed at any moment.

It submits its jobs, some at a time, cancels some, disconnects now and then, checks every picture,
and asks for each end once more. Its journal says what it has seen; whoever comes after a killed one
takes hold of its jobs by their ids.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from _chaos_journal import End, Journal
from _chaos_plan import PlannedJob
from hermetic import AsyncClient, AsyncJob
from hermetic_wire.errors import (
    DaemonUnreachable,
    HermeticError,
    QueueFull,
    ShuttingDown,
    StoreUnavailable,
)
from hermetic_wire.generation import TextToImage
from hermetic_wire.messages import JobFailed, JobRunning, JobStep, JobSucceeded
from hermetic_worker.pipelines.echo import colour

__all__ = ["AppTask", "digest", "reference_name"]

AT_ONCE = 4
"""Jobs that it has with the daemon at a time."""
LAG_S = 1.0
"""From an end to the question for it once more: others end meanwhile, but fewer than are kept."""
PATIENCE_S = 120.0
"""For a daemon that is killed and started again."""
RETRY_S = 0.1


class AppTask(msgspec.Struct, frozen=True, kw_only=True):
    """All that the process is told."""

    name: str
    endpoint: str
    journal: str
    jobs: list[PlannedJob]
    references: dict[str, str]
    """Digests of pixels by `reference_name`, where a picture cannot be computed here."""
    until: float | None = None
    """No job is begun after this; seconds since the epoch of Unix."""


def reference_name(job: PlannedJob) -> str:
    """Jobs of one name have one picture."""
    return f"{job.model}/{job.steps}/{job.seed}/{job.prompt}"


def digest(pixels: memoryview) -> str:
    """To compare pictures by."""
    return hashlib.sha256(pixels).hexdigest()[:32]


class App:
    """One life of it."""

    def __init__(self, task: AppTask) -> None:
        self._task = task
        self._journal = Journal(Path(task.journal))
        self._client = self._connected()
        self._tasks = asyncio.TaskGroup()

    async def run(self) -> None:
        """Until each of its jobs has ended and was asked for again."""
        jobs = iter(self._task.jobs)
        try:
            async with self._tasks:
                for _ in range(AT_ONCE):
                    self._tasks.create_task(self._work(jobs))
        finally:
            await self._client.close()
            self._journal.close()

    def _connected(self) -> AsyncClient:
        return AsyncClient(
            self._task.endpoint,
            app=self._task.name,
            connect_timeout=PATIENCE_S,
            reconnect_timeout=PATIENCE_S,
        )

    async def _work(self, jobs: Iterator[PlannedJob]) -> None:
        for job in jobs:
            history = self._journal.history(job.id)
            if not history.asked and self._task.until and time.time() > self._task.until:
                return
            if not history.ends:
                self._journal.write(job.id, "ended", await self._end_of(job))
            if not history.again:
                self._tasks.create_task(self._ask_again(job))

    async def _ask_again(self, job: PlannedJob) -> None:
        """The same end has to be told, also to another process and by another daemon."""
        await asyncio.sleep(LAG_S)
        self._journal.write(job.id, "again", await self._end_of(job))

    async def _end_of(self, job: PlannedJob) -> End:
        """Whatever happens to the daemon and to the connection meanwhile."""
        while True:
            client = self._client
            try:
                return await self._follow(client, job)
            except (QueueFull, ShuttingDown, StoreUnavailable) as error:
                await asyncio.sleep(error.retry_after or RETRY_S)
            except DaemonUnreachable:
                await asyncio.sleep(RETRY_S)
            except RuntimeError:
                if client is self._client:
                    raise
                # It was closed on another job's account.

    async def _follow(self, client: AsyncClient, job: PlannedJob) -> End:
        held: AsyncJob | None = None
        try:
            held = await self._held(client, job)
            await self._meddle(held, job)
            result = await held.result()
        except (DaemonUnreachable, QueueFull, ShuttingDown, StoreUnavailable):
            raise
        except HermeticError as error:
            state = "unknown" if held is None else held.state
            return End(state=state, code=error.code, message=error.message)
        pixels = result.pixels[0]
        task = result.task
        ours = isinstance(task, TextToImage) and (task.prompts, task.seeds, result.job_id) == (
            (job.prompt,),
            (job.seed,),
            job.id,
        )
        found = digest(pixels)
        right = ours and len(result.pixels) == 1 and self._is_picture(job, pixels, found)
        return End(state=held.state, digest=found, right=right)

    async def _held(self, client: AsyncClient, job: PlannedJob) -> AsyncJob:
        """By its id where it was accepted; else it is submitted, maybe once more."""
        if self._journal.history(job.id).accepted:
            return await client.job(job.id)
        self._journal.write(job.id, "asked")
        more: dict[str, Any] = (
            {} if job.step_seconds is None else {"step_seconds": job.step_seconds}
        )
        held = await client.submit(
            job.prompt,
            model=job.model,
            width=job.side,
            height=job.side,
            steps=job.steps,
            seed=job.seed,
            job_id=job.id,
            on_disconnect=job.on_disconnect,
            **more,
        )
        self._journal.write(job.id, "accepted")
        return held

    async def _meddle(self, held: AsyncJob, job: PlannedJob) -> None:
        """Cancel it, or leave and come back, each at most once in all lives."""
        history = self._journal.history(job.id)
        if job.leave and not history.left:
            self._journal.write(job.id, "left")
            former, self._client = self._client, self._connected()
            await former.close()
        if job.cancel_at and not history.cancelled and not history.ends:
            if job.cancel_at != "accepted":
                await _until(held, JobRunning if job.cancel_at == "running" else JobStep)
            self._journal.write(job.id, "cancel")
            await held.cancel()

    def _is_picture(self, job: PlannedJob, pixels: memoryview, found: str) -> bool:
        wanted = self._task.references.get(reference_name(job))
        if wanted is not None or job.side is None:
            return found == wanted
        return pixels == bytes(colour(job.prompt, job.seed)) * job.side**2


async def _until(held: AsyncJob, news: type[JobRunning] | type[JobStep]) -> None:
    async for update in held:
        if isinstance(update, (news, JobSucceeded, JobFailed)):
            return


def main() -> None:
    """Exit code 0 says that everything is in the journal."""
    task = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=AppTask)
    asyncio.run(App(task).run())


if __name__ == "__main__":
    main()
