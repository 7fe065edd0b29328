"""A worker's whole life, as hermetic_wire.worker tells it: one model, its jobs, one end.

Owns the order of the messages: one Ready or LoadFailed, then exactly one of Done, Failed and
Cancelled per Run, whatever a pipeline does. Knows no pipeline by name.
"""

from __future__ import annotations

import enum
import importlib.metadata
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hermetic_wire.codec import Frame
from hermetic_wire.errors import HermeticError, MalformedMessage, to_body
from hermetic_wire.generation import Image, Load, Output
from hermetic_wire.worker import (
    Assign,
    Cancel,
    Cancelled,
    Done,
    Failed,
    Hello,
    LoadFailed,
    Loading,
    Prepare,
    Prepared,
    Quit,
    Ready,
    Run,
    ToWorker,
)

from . import failures, guard
from .channel import Channel, Link, ProtocolBroken
from .outlines import Outlines
from .pipelines.base import Pipeline, Result
from .steps import Steps
from .stopping import StopRequest

if TYPE_CHECKING:
    from .standby import Standby

__all__ = ["Birth", "End", "Worker", "live"]

log = logging.getLogger(__name__)

VERSION = importlib.metadata.version("hermetic")
"""Read once: a forked worker has no time to ask the disk."""

LAST_WORDS_MS = 5000
"""How long a worker that told of a failure waits to be ended. A death is noticed before what the
dead one said last is read, so whoever leaves at once may take the reason along."""


class End(enum.IntEnum):
    """How a worker ended, as its exit code."""

    IN_ORDER = 0
    JOB_FAILED = 20
    """It told why, then went: a worker that raised is not used again."""
    LOAD_FAILED = 21
    """It told why, then went."""
    PROTOCOL = 76  # EX_PROTOCOL
    """The daemon said what it may not say at that point; the log has it in words."""
    TERMINATED = 143  # what a shell reports of SIGTERM
    """SIGTERM, followed in order."""


@dataclass(frozen=True)
class Birth:
    """All that a process must be given to become a worker."""

    endpoint: str
    """The daemon's socket for workers, such as `ipc:///run/hermetic/workers.sock`."""
    epoch: int
    token: str
    parent_pipe: int
    """A descriptor whose end means that the parent is gone."""
    born: float
    """The process's first instruction, in seconds of CLOCK_MONOTONIC."""


def live(birth: Birth, outlines: Outlines) -> End:
    """Be a worker, from birth to end; a new interpreter and a forked child both enter here.

    In the main thread, with the parent-death signal already asked for.
    """
    guard.watch_parent(birth.parent_pipe)
    stop = StopRequest()
    stop.install()
    channel = Channel(birth.endpoint, stop)
    try:
        end = Worker(channel, birth.epoch, stop, outlines).live(birth.token, birth.born)
        if end in (End.JOB_FAILED, End.LOAD_FAILED):
            channel.wait(LAST_WORDS_MS)
        return end
    finally:
        channel.close()


class _Stopped(BaseException):
    """Raised inside a pipeline to end what it does.

    A BaseException, so that no `except Exception` of a pipeline takes it for a failure.
    """


class Worker:
    """The life behind `live`; `stop` says whether SIGTERM has come."""

    def __init__(
        self,
        channel: Link,
        epoch: int,
        stop: StopRequest,
        outlines: Outlines,
    ) -> None:
        self._channel = channel
        self._epoch = epoch
        self._stop = stop
        self._outlines = outlines
        self._standby: Standby | None = None
        self._quitting = False
        self._last_job: str | None = None

    def live(self, token: str, born: float) -> End:
        """Hello, the load, the jobs. Returns when the process should end."""
        self._channel.send(
            Hello(epoch=self._epoch, token=token, pid=os.getpid(), version=VERSION, born=born)
        )
        try:
            while True:
                match self._channel.receive():
                    case Prepare(device=device) if self._standby is None:
                        self._prepare(device)
                    case Assign() as assign:
                        return self._serve(assign)
                    case Quit() | None:
                        return self._end_in_order()
                    case other:
                        raise _unexpected(other, "before the model was assigned")
        except ProtocolBroken as error:
            log.error("The daemon broke the protocol, so this worker ends: %s", error)
            return End.PROTOCOL

    def _prepare(self, device: str) -> None:
        """Whatever this raises ends the process: a standby that is not ready is none."""
        from . import standby

        self._standby = standby.prepare(device, self._outlines.class_names)
        self._channel.send(Prepared(epoch=self._epoch, timings=self._standby.timings))

    def _serve(self, assign: Assign) -> End:
        model = assign.model.name
        try:
            pipeline = self._outlines.take(assign.model)
            found = pipeline.load(assign, self._on_progress, self._standby)
        except _Stopped:
            return self._end_in_order()
        except ProtocolBroken as error:
            self._tell_load_failed(MalformedMessage(str(error)))
            raise
        except BaseException as error:  # also SystemExit: every load ends in Ready or LoadFailed
            log.exception("The load of %s failed.", model)
            self._tell_load_failed(failures.of_load(error, model))
            return End.LOAD_FAILED
        self._channel.send(
            Ready(
                epoch=self._epoch,
                device=assign.device,
                memory=found.memory,
                timings=found.timings,
                versions=found.versions,
                loaded_by=found.loaded_by,
                fingerprint=found.fingerprint,
                stale_template=found.stale_template,
            )
        )
        return self._run_jobs(pipeline, model)

    def _run_jobs(self, pipeline: Pipeline, model: str) -> End:
        while not (self._quitting or self._stop.requested):
            match self._channel.receive():
                case Run() as run:
                    failure = self._run(pipeline, run, model)
                    if failure is not None:
                        return failure
                case Cancel(job_id=job_id) if job_id == self._last_job:
                    log.debug("A cancel crossed the end of job %s.", job_id)
                case Quit():
                    self._quitting = True
                case None:
                    pass  # SIGTERM woke us: the condition above ends the loop
                case other:
                    raise _unexpected(other, "between two jobs")
        return self._end_in_order()

    def _run(self, pipeline: Pipeline, run: Run, model: str) -> End | None:
        """One job, one terminal message; an End where this process may not go on."""
        self._last_job = run.job_id
        try:
            result = self._result(pipeline, run)
            done = Done(epoch=self._epoch, job_id=run.job_id, output=result.output)
            self._channel.send(done, result.frames)
        except _Stopped:
            self._channel.send(Cancelled(epoch=self._epoch, job_id=run.job_id))
        except ProtocolBroken as error:
            self._tell_failed(run.job_id, MalformedMessage(str(error)))
            raise
        except BaseException as error:  # also SystemExit: every job ends in a message
            log.exception("Job %s failed.", run.job_id)
            self._tell_failed(run.job_id, failures.of_job(error, model))
            return End.JOB_FAILED
        return None

    def _result(self, pipeline: Pipeline, run: Run) -> Result:
        if isinstance(run.task, Load):
            return Result(Output(), ())

        told = Steps(self._channel, self._epoch, run)

        def on_step(
            step: int,
            steps: int,
            timestep: float | None = None,
            show: Callable[[], tuple[Image, Frame]] | None = None,
        ) -> None:
            told.tell(step, steps, timestep, show)
            self._heed(run.job_id)

        return pipeline.run(run.task, on_step)

    def _on_progress(self, stage: str, fraction: float) -> None:
        self._channel.send(Loading(epoch=self._epoch, stage=stage, fraction=fraction))
        self._heed(None)

    def _heed(self, job_id: str | None) -> None:
        """Raises _Stopped where the daemon or SIGTERM has asked to stop the present work."""
        while (message := self._channel.poll()) is not None:
            match message:
                case Quit():
                    self._quitting = True
                    raise _Stopped
                case Cancel(job_id=cancelled) if cancelled == job_id:
                    raise _Stopped
                case other:
                    raise _unexpected(other, f"during job {job_id}" if job_id else "in the load")
        if self._stop.requested:
            raise _Stopped

    def _tell_failed(self, job_id: str, error: HermeticError) -> None:
        self._channel.send(Failed(epoch=self._epoch, job_id=job_id, error=to_body(error)))

    def _tell_load_failed(self, error: HermeticError) -> None:
        self._channel.send(LoadFailed(epoch=self._epoch, error=to_body(error)))

    def _end_in_order(self) -> End:
        return End.TERMINATED if self._stop.requested else End.IN_ORDER


def _unexpected(message: ToWorker, when: str) -> ProtocolBroken:
    kind = type(message).__name__
    return ProtocolBroken(f"{kind} came {when}, where a worker takes no such message.")
