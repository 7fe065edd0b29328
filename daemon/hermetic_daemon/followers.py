"""Who wants to hear of which job, and what they are told. Knows connections, decides nothing."""

from __future__ import annotations

import collections
from collections.abc import Iterable

from hermetic_wire import messages
from hermetic_wire.errors import to_body

from .door import Door
from .jobs import Job

__all__ = ["Followers", "loading", "step"]


def loading(job: Job) -> messages.JobLoading:
    """How far the load is that the job waits for."""
    return messages.JobLoading(job_id=job.id, stage=job.stage, fraction=job.fraction)


def step(job: Job) -> messages.JobStep:
    """How far the job is."""
    return messages.JobStep(job_id=job.id, step=job.step, steps=job.steps, timestep=job.timestep)


class Followers:
    """Connections by job. A connection that is lost follows nothing; its jobs go on."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._by_job: collections.defaultdict[str, set[bytes]] = collections.defaultdict(set)

    def add(self, job: Job, identity: bytes, position: int | None) -> None:
        """Tell the job's present state, and from now on what becomes of it."""
        if job.ended:
            self._tell_end(job, identity)
            return
        self._by_job[job.id].add(identity)
        if job.state == "queued":
            queued = messages.JobQueued(job_id=job.id, position=position or 0)
            self._door.send(identity, queued)
        elif job.state == "loading":
            self._door.send(identity, loading(job))
        elif job.state == "running" and job.worker is not None:
            running = messages.JobRunning(job_id=job.id, epoch=job.worker.epoch, pid=job.worker.pid)
            self._door.send(identity, running)

    def forget(self, identity: bytes) -> None:
        """The connection is gone."""
        for followers in self._by_job.values():
            followers.discard(identity)

    def publish(self, job: Job, update: messages.JobUpdate) -> None:
        """Progress; whoever does not read misses it, and only that."""
        for identity in tuple(self._by_job.get(job.id, ())):
            if not self._door.is_slow(identity):
                self._door.send(identity, update)

    def tell_positions(self, waiting: Iterable[Job], ahead: int) -> None:
        """How many jobs run before each of the waiting ones, of which `ahead` run already."""
        for position, job in enumerate(waiting, ahead):
            if job.state == "queued":
                self.publish(job, messages.JobQueued(job_id=job.id, position=position))

    def close(self, job: Job) -> None:
        """The job has ended: tell every follower, once."""
        for identity in self._by_job.pop(job.id, set()):
            self._tell_end(job, identity)

    def _tell_end(self, job: Job, identity: bytes) -> None:
        if job.error is not None:
            failure = messages.JobFailed(
                job_id=job.id,
                state="cancelled" if job.state == "cancelled" else "failed",
                error=to_body(job.error),
            )
            self._door.send(identity, failure)
        elif job.output is not None and job.worker is not None:
            success = messages.JobSucceeded(
                job_id=job.id, task=job.task, output=job.output, worker=job.worker
            )
            self._door.send(identity, success, job.pixels or ())
