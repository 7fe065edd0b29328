"""What anybody may know of the daemon as a whole. Reads, changes nothing."""

from __future__ import annotations

import os
import time
from importlib import metadata

import psutil

from hermetic_wire.messages import JobRow, Status

from .config import Config
from .dispatcher import Dispatcher
from .jobs import Jobs

__all__ = ["job_rows", "position", "status"]


def position(job_id: str, dispatcher: Dispatcher) -> int | None:
    """How many jobs run before it, the running one included; None when it does not wait."""
    waiting = dispatcher.waiting
    if job_id not in waiting:
        return None
    return waiting.index(job_id) + int(dispatcher.running is not None)


def job_rows(jobs: Jobs, dispatcher: Dispatcher) -> tuple[JobRow, ...]:
    """The running job, the waiting ones in their order, then the ended ones, youngest first."""
    running = [] if dispatcher.running is None else [jobs.find(dispatcher.running).row(None)]
    waiting = [
        jobs.find(job_id).row(place)
        for place, job_id in enumerate(dispatcher.waiting, len(running))
    ]
    ended = [job.row(None) for job in jobs.newest_ended()]
    return (*running, *waiting, *ended)


def status(
    seq: int, config: Config, config_file: str | None, dispatcher: Dispatcher, jobs: Jobs
) -> Status:
    """The answer to GetStatus number `seq`."""
    process = psutil.Process()
    ending = dispatcher.ending
    return Status(
        seq=seq,
        version=metadata.version("hermetic"),
        pid=os.getpid(),
        state="draining" if ending == "drain" else "stopping" if ending else "serving",
        endpoint=str(config.endpoint),
        device=config.device_name,
        start_method=config.worker.start_method,
        uptime_s=time.time() - process.create_time(),
        resident_bytes=process.memory_info().rss,
        queued=len(dispatcher.waiting),
        running=int(dispatcher.running is not None),
        ended=dict(jobs.ended_by_state),
        workers_started=dispatcher.epoch,
        config_file=config_file,
    )
