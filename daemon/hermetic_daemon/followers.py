"""Who wants to hear of which job, and what they are told. Knows connections, decides nothing."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Sequence
from dataclasses import dataclass

from hermetic_wire import messages
from hermetic_wire.codec import Frame
from hermetic_wire.errors import ErrorBody, to_body

from .beginnings import Beginnings
from .door import Door, Peer
from .jobs import Job

__all__ = ["Followers"]


@dataclass(frozen=True)
class Watcher:
    """Hears of all jobs that it may see; `app` is the one name it asked for, None is all."""

    peer: Peer
    app: str | None

    def sees(self, job: Job) -> bool:
        """Whether the job is of its own user, and of the app that it asked for."""
        return self.peer.may_act_for(job.app.uid) and self.app in (None, job.app.name)


class Followers:
    """Connections by job, and connections that watch all jobs of a user."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._beginnings = Beginnings(asyncio.get_running_loop(), self._tell)
        self._by_job: collections.defaultdict[str, set[bytes]] = collections.defaultdict(set)
        self._jobs_of: collections.defaultdict[bytes, set[str]] = collections.defaultdict(set)
        self._watchers: dict[bytes, Watcher] = {}

    def add(self, job: Job, identity: bytes) -> None:
        """Tell the connection from now on what becomes of the job."""
        self._by_job[job.id].add(identity)
        self._jobs_of[identity].add(job.id)

    def watch(self, peer: Peer, app: str | None) -> Watcher:
        """Tell the connection from now on what becomes of all jobs that it may see."""
        watcher = self._watchers[peer.identity] = Watcher(peer, app)
        return watcher

    def forget(self, identity: bytes) -> list[str]:
        """The connection is gone; the ids of the jobs that nobody follows any more."""
        self._watchers.pop(identity, None)
        left = []
        for job_id in self._jobs_of.pop(identity, ()):
            self._by_job[job_id].discard(identity)
            if not self._by_job[job_id]:
                del self._by_job[job_id]
                left.append(job_id)
        return left

    def has(self, job_id: str) -> bool:
        """Whether anybody follows the job."""
        return job_id in self._by_job

    def submitted(self, job: Job) -> None:
        """Tell the watchers of a new job."""
        for identity in self._seeing(job):
            self._door.send(identity, messages.JobSubmitted(job_id=job.id, job=job.row()))

    def publish(self, job: Job, update: messages.JobUpdate, raw: Sequence[Frame] = ()) -> None:
        """News of a job that has not ended; whoever does not read misses them, and only that.

        That it runs waits a moment; pictures go to followers only.
        """
        if not job.accepted or job.ended_at is not None:
            return
        if isinstance(update, messages.JobRunning):
            self._beginnings.put(job, update)
        else:
            self.publish_surely(job, update, raw)

    def publish_surely(
        self, job: Job, update: messages.JobUpdate, raw: Sequence[Frame] = ()
    ) -> None:
        """The same of what must be heard before the end, which may be on its way to the disk."""
        self._beginnings.tell_now(job.id)
        self._tell(job, update, raw)

    def _tell(self, job: Job, update: messages.JobUpdate, raw: Sequence[Frame] = ()) -> None:
        heard = [] if isinstance(update, messages.JobPreview) else self._seeing(job)
        for identity in (*self._by_job.get(job.id, ()), *heard):
            if not self._door.is_slow(identity):
                self._door.send(identity, update, raw)

    def tell_state(self, job: Job, identity: bytes, queued: messages.JobQueued) -> None:
        """Where the job is now; `queued` is what is said of one that waits."""
        self._door.send(identity, state_of(job) or queued)

    def publish_state(self, job: Job) -> None:
        """How far the job came before it was accepted."""
        update = state_of(job)
        if update is not None:
            self.publish(job, update)

    def expect_end(self, job: Job) -> None:
        """Its end is being written down: nothing but that is told any more."""
        self._beginnings.drop(job.id)

    def close(self, job: Job, pixels: Sequence[Frame]) -> None:
        """The job has ended: tell every follower, once."""
        for identity in self._by_job.pop(job.id, set()):
            self._jobs_of[identity].discard(job.id)
            self.tell_end(job, identity, pixels)
        for identity in self._seeing(job):
            self._door.send(identity, messages.JobEnded(job_id=job.id, job=job.row()))

    def tell_end(self, job: Job, identity: bytes, pixels: Sequence[Frame]) -> None:
        """How the job ended, with its pixels."""
        if job.error is not None:
            self.tell_failure(job, identity, to_body(job.error))
        elif job.output is not None and job.worker is not None:
            success = messages.JobSucceeded(
                job_id=job.id, task=job.task, output=job.output, worker=job.worker
            )
            self._door.send(identity, success, pixels)

    def tell_failure(self, job: Job, identity: bytes, error: ErrorBody) -> None:
        """That there is no result, or none any more."""
        state = job.state if job.state in ("cancelled", "interrupted") else "failed"
        self._door.send(identity, messages.JobFailed(job_id=job.id, state=state, error=error))

    def _seeing(self, job: Job) -> list[bytes]:
        return [one for one, watcher in self._watchers.items() if watcher.sees(job)]


def state_of(job: Job) -> messages.JobUpdate | None:
    """The update that says how far an open job is; None for one that waits."""
    if job.state == "loading":
        return messages.JobLoading(job_id=job.id, stage=job.stage, fraction=job.fraction)
    if job.state == "running" and job.worker is not None:
        return messages.JobRunning(job_id=job.id, epoch=job.worker.epoch, pid=job.worker.pid)
    return None
