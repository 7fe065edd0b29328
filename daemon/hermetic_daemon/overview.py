"""What anybody may know of the daemon as a whole. Reads, changes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from importlib import metadata

import msgspec
import psutil

from hermetic_wire import messages
from hermetic_wire.messages import JobQueued, JobRow, Status, StoreStatus, WorkerRow

from .config import Config
from .dispatcher import Dispatcher
from .jobs import Job
from .ledger import Ledger
from .store import Store
from .supervisor import Supervisor
from .template import Template

__all__ = ["MAX_ROWS", "Overview"]

FRESH_SECONDS = 0.1
"""For which a job's place in the order may be told again; longer where it takes long to find."""
MAX_ROWS = 1000
"""Of jobs in one message."""


class Overview:
    """Rows and figures, put together from those who have them."""

    def __init__(
        self,
        config: Config,
        config_file: str | None,
        dispatcher: Dispatcher,
        ledger: Ledger,
        supervisor: Supervisor,
        template: Template,
        store: Store,
    ) -> None:
        self._config = config
        self._config_file = config_file
        self._dispatcher = dispatcher
        self._ledger = ledger
        self._jobs = ledger.jobs
        self._supervisor = supervisor
        self._template = template
        self._store = store
        self._process = psutil.Process()
        self._places: dict[str, JobQueued] = {}
        self._stale_at = 0.0

    def waiting(self) -> list[JobQueued]:
        """Of every waiting job, in the order in which they will run, how long it may take."""
        estimates = self._dispatcher.estimates(time.monotonic())
        return [
            JobQueued(job_id=job_id, position=position, estimate_s=estimates.get(job_id))
            for position, job_id in enumerate(self._dispatcher.waiting, self._ahead())
        ]

    def queued(self, job: Job) -> JobQueued:
        """How many jobs run before this one, and when it may have ended; as it was a moment ago,
        because a thousand apps may ask at once, when the daemon has been restarted."""
        now = time.monotonic()
        if now > self._stale_at:
            self._places = {one.job_id: one for one in self.waiting()}
            self._stale_at = time.monotonic() + 10 * (time.monotonic() - now) + FRESH_SECONDS
        last = max(0, self._dispatcher.waiting_count - 1)
        return self._places.get(job.id) or JobQueued(job_id=job.id, position=last)

    def job(self, job: Job) -> JobRow:
        """The row of one job."""
        return self._row(job, self.queued(job) if job.state == "queued" else None)

    def jobs(self, seq: int, job_ids: Sequence[str] | None = None) -> messages.Jobs:
        """The running job, the waiting ones in their order, then the ended ones, youngest first; or
        those named that are known. As many as one message should hold."""
        if job_ids is not None:
            return self._named(seq, job_ids)
        running = self._dispatcher.running
        begun = [*self._ledger.ending, *([self._jobs.find(running)] if running else [])]
        first = [job for job in begun if job.accepted]
        rows = [self._row(job, None) for job in first]
        places = [(self._jobs.find(one.job_id), one) for one in self.waiting()]
        waiting = [(job, one) for job, one in places if job.accepted]
        rows += [self._row(job, one) for job, one in waiting[:MAX_ROWS]]
        ended = self._jobs.newest_ended()
        rows += [job.row() for job in ended[: max(0, MAX_ROWS - len(rows))]]
        omitted = len(first) + len(waiting) + len(ended) - len(rows)
        return messages.Jobs(seq=seq, jobs=tuple(rows), omitted=omitted)

    def _named(self, seq: int, job_ids: Sequence[str]) -> messages.Jobs:
        known = [job for job in map(self._jobs.get, job_ids) if job is not None and job.accepted]
        rows = tuple(self.job(job) for job in known[:MAX_ROWS])
        return messages.Jobs(seq=seq, jobs=rows, omitted=len(known) - len(rows))

    def _row(self, job: Job, queued: JobQueued | None) -> JobRow:
        if queued is None:
            return job.row()
        pause = self._dispatcher.retry_in(job.model, time.monotonic())
        not_before = time.time() + pause if pause > 0 else None
        return job.row(queued.position, queued.estimate_s, not_before)

    def _ahead(self) -> int:
        return int(self._dispatcher.running is not None)

    def workers(self) -> tuple[WorkerRow, ...]:
        """The living workers, and the models whose workers are not started again yet."""
        offset = time.time() - time.monotonic()
        rows = []
        for row in self._supervisor.rows():
            idle_until = self._dispatcher.idle_until(row.epoch)
            if idle_until is not None:
                row = msgspec.structs.replace(row, idle_until=idle_until + offset)
            rows.append(row)
        for model, (seconds, error) in self._dispatcher.pauses(time.monotonic()).items():
            rows.append(
                WorkerRow(
                    model=model,
                    architecture="",
                    epoch=0,
                    pid=0,
                    device=self._config.device_name,
                    state="waiting",
                    retry_after=seconds,
                    reason=error.message,
                )
            )
        return tuple(rows)

    def status(self, seq: int) -> Status:
        """The answer to GetStatus number `seq`."""
        dispatcher = self._dispatcher
        ending = dispatcher.ending
        return Status(
            seq=seq,
            version=metadata.version("hermetic"),
            pid=os.getpid(),
            state="draining" if ending == "drain" else "stopping" if ending else "serving",
            endpoint=str(self._config.endpoint),
            device=self._config.device_name,
            start_method=self._config.worker.start_method,
            uptime_s=time.time() - self._process.create_time(),
            resident_bytes=self._process.memory_info().rss,
            queued=dispatcher.waiting_count,
            running=int(dispatcher.running is not None),
            ended=dict(self._jobs.ended_by_state),
            workers_started=dispatcher.epoch,
            config_file=self._config_file,
            template=self._template.status(),
            store=self._store_status(),
            paused=dispatcher.paused,
        )

    def _store_status(self) -> StoreStatus:
        return StoreStatus(
            path=str(self._store.path),
            state="failing" if self._store.failure else "writing",
            reason=self._store.failure,
            jobs=self._jobs.count,
            pixel_bytes=self._jobs.pixel_bytes,
        )
