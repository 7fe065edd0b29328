"""What happens to a job is written down, and then told. In this order, always.

Only told: a job may run while it is written down, since nobody knows of it yet and what comes of it
is written later. Owns the jobs' rows and the only way to change them; the store does the writing,
the followers are told. Which job runs is none of its business.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from hermetic_wire import errors, messages
from hermetic_wire.codec import Frame
from hermetic_wire.errors import HermeticError, to_body
from hermetic_wire.generation import JobState, Output, WorkerIdentity

from . import faults
from .followers import Followers
from .jobs import Job, Jobs
from .records import End
from .store import Store

__all__ = ["Ledger"]

logger = logging.getLogger(__name__)

TRIM_SECONDS = 0.25
"""So long at most more jobs and pixels are kept than the bounds allow."""
MAX_INTERRUPTIONS = 3
"""Daemons that may end under a job before it is taken for the cause."""


class Ledger:
    """Every method returns at once; what has to be written first is told when it is written."""

    def __init__(self, jobs: Jobs, store: Store, followers: Followers) -> None:
        self.jobs = jobs
        self._store = store
        self._followers = followers
        self._ending: dict[str, Job] = {}
        """Jobs whose end is being written."""
        self._idle: list[asyncio.Future[None]] = []
        self._trimming: asyncio.TimerHandle | None = None

    def adopt(self, job: Job) -> bool:
        """A job, new or of the store; returns whether it is to be run.

        One whose end was asked for is not, nor one under which too many daemons have ended.
        """
        self.jobs.add(job)
        if job.ended:
            return False
        if job.cancel_asked:
            self.settle(job, errors.JobCancelled("The job was cancelled."))
            return False
        if job.interruptions >= MAX_INTERRUPTIONS:
            self.settle(job, _interrupted(job))
            return False
        return True

    def accept(
        self,
        job: Job,
        then: Callable[[HermeticError | None], None],
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        """A new job. `then` is told when it is written down, or why it cannot be: whoever has begun
        it `meanwhile`, while the disk was at it, is to end it."""

        def written(error: HermeticError | None) -> None:
            job.refused = error is not None
            if error is None:
                job.accepted = True
                self._followers.submitted(job)
            then(error)

        self._store.add(job.record(), written, meanwhile)

    def load(self, job: Job, stage: str = "start", fraction: float = 0.0) -> None:
        """The model is being made ready for it; nothing of that outlives a crash."""
        job.state, job.stage, job.fraction = "loading", stage, fraction
        progress = messages.JobLoading(job_id=job.id, stage=stage, fraction=fraction)
        self._followers.publish(job, progress)

    def begin(self, job: Job, worker: WorkerIdentity) -> None:
        """A worker is given the job."""
        job.state, job.started_at, job.worker = "running", time.time(), worker
        job.attempts += 1
        job.step = 0
        self._store.begin(job.id, worker.epoch, worker.pid, job.started_at)
        running = messages.JobRunning(job_id=job.id, epoch=worker.epoch, pid=worker.pid)
        self._followers.publish(job, running)

    def step(self, job: Job, step: int, steps: int, timestep: float | None) -> None:
        """It has come so far."""
        job.step, job.steps, job.timestep = step, steps, timestep
        update = messages.JobStep(job_id=job.id, step=step, steps=steps, timestep=timestep)
        self._followers.publish(job, update)

    def requeue(self, job: Job, error: HermeticError, retry_after: float, *, death: bool) -> None:
        """Its worker ended under it; it waits for another. A death that was told is remembered."""
        job.state, job.step = "queued", 0
        if death:
            job.deaths.append(to_body(error))
        logger.info("job %s is tried again: %s", job.id, error.message)
        job.worker = None
        retrying = messages.JobRetrying(
            job_id=job.id, attempt=job.attempts, error=to_body(error), retry_after=retry_after
        )

        def tell(_: HermeticError | None) -> None:
            if job.accepted and not job.ended:  # it may be over again, where the disk was slow
                self._followers.publish_surely(job, retrying)

        self._store.requeue(job.id, to_body(error), death=death, then=tell if death else None)
        if not death:
            tell(None)

    def park(self, job: Job) -> None:
        """The daemon ends before the job; the store keeps it for the next one."""
        if job.state == "running":
            self._store.requeue(job.id, None, death=False)
        job.state = "queued"

    def complete(
        self, job: Job, output: Output, worker: WorkerIdentity, pixels: list[Frame]
    ) -> None:
        """Its worker has delivered; `settle` follows."""
        output.timings["queued"] = (job.started_at or job.submitted_at) - job.submitted_at
        job.output, job.worker, job.pixels = output, worker, pixels

    def ask_cancel(self, job: Job, then: Callable[[HermeticError | None], None]) -> None:
        """That its end was asked for; from then on no restart of the daemon forgets it."""
        job.cancel_asked = True
        self._store.ask_cancel(job.id, then)

    def settle(self, job: Job, error: HermeticError | None) -> None:
        """The job's one end: written down, then told, also when it cannot be written down now."""
        if job.refused:
            self.jobs.discard(job)
            return
        state = _final(error)
        pixels, job.pixels = job.pixels or [], None
        if error is not None:
            job.output, pixels = None, []
            logger.info("job %s %s: %s", job.id, state, error.message)
        job.error, job.ended_at = error, time.time()
        self._ending[job.id] = job
        self._followers.expect_end(job)

        def written(failure: HermeticError | None) -> None:
            del self._ending[job.id]
            if job.refused:
                self.jobs.discard(job)
            else:
                if failure is not None:
                    words = failure.message
                    logger.error("the end of job %s is not written yet: %s", job.id, words)
                self.jobs.close(job, state)
                faults.reach("result.before_send")
                self._followers.close(job, pixels)
                faults.reach("result.after_send")
                self._trim_soon()
            self._tell_idle()

        end = End(
            state=state,
            ended_at=job.ended_at,
            error=to_body(error) if error else None,
            output=job.output,
            worker=job.worker,
        )
        self._store.finish(job.id, end, pixels, written)

    def tell_end(self, job: Job, identity: bytes) -> None:
        """How the job ended, to one who asks later; its pixels are read from the store."""
        if not job.pixel_bytes:
            self._followers.tell_end(job, identity, ())
            return

        def read(found: list[Frame] | HermeticError) -> None:
            if isinstance(found, HermeticError):
                self._followers.tell_failure(job, identity, to_body(found))
            else:
                self._followers.tell_end(job, identity, found)

        self._store.read_pixels(job.id, read)

    def _trim_soon(self) -> None:
        """For many at once it costs the store little more than for one."""
        if self._trimming is None:
            loop = asyncio.get_running_loop()
            self._trimming = loop.call_later(TRIM_SECONDS, self.trim)

    def trim(self) -> None:
        """Forget what is past the bounds."""
        self._trimming = None
        excess = self.jobs.trim(time.time())
        if excess.jobs:
            self._store.forget(excess.jobs)
        if excess.pixels:
            self._store.drop_pixels(excess.pixels)

    @property
    def ending(self) -> list[Job]:
        """The jobs whose end is just being written: nobody runs them, and they have not ended."""
        return list(self._ending.values())

    async def settled(self) -> None:
        """Until no end waits to be written."""
        if self._ending:
            idle = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle

    def _tell_idle(self) -> None:
        if not self._ending:
            for future in self._idle:
                future.set_result(None)
            self._idle.clear()


def _interrupted(job: Job) -> errors.JobInterrupted:
    return errors.JobInterrupted(
        f"The daemon ended {job.interruptions} times while job {job.id} was running, so it is not "
        "begun again. Submit it under a new id if it was not the cause."
    )


def _final(error: HermeticError | None) -> JobState:
    match error:
        case None:
            return "succeeded"
        case errors.JobCancelled():
            return "cancelled"
        case errors.JobInterrupted():
            return "interrupted"
        case _:
            return "failed"
