"""The loop: every request and every event passes through here, one after the other.

The only writer of jobs and dispatcher. It decides nothing itself: admission says whether a request
can be right, the dispatcher says what to do, door and supervisor do it. Slow work never runs here.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from importlib import metadata
from typing import assert_never

import msgspec
import zmq

from hermetic_wire import errors, messages
from hermetic_wire import worker as wire
from hermetic_wire.generation import JobState, Load, Output, Task
from hermetic_wire.template import Setup

from . import events
from .admission import check_job_id, complete
from .catalog import Catalog
from .config import Config, ModelSection
from .dispatcher import Dispatcher
from .door import Door, Peer
from .followers import Followers, loading, step
from .jobs import App, Job, Jobs
from .memory import Memory
from .overview import job_rows, position, status
from .strays import Strays
from .supervisor import Completed, Report, Supervisor
from .template import Template

__all__ = ["Service"]

logger = logging.getLogger(__name__)

POSITIONS_SECONDS = 0.2
"""How often waiting apps are told how far they have moved."""
STANDBY_DEVICE_BYTES = 12 << 30
"""A GPU with less than this keeps no standby unless it is told to."""
MAX_APPS = 4096
"""Connections whose names are known; an older one submits under no name."""


class Service:
    """The daemon. `run` returns once an EndAsked has been carried out."""

    def __init__(self, config: Config, config_file: str | None) -> None:
        self._config = config
        self._config_file = config_file
        self._catalog = Catalog(config.models)
        memory = Memory(config.device_name)
        self._dispatcher = Dispatcher(_wants_standbys(config, memory))
        self._jobs = Jobs(config.daemon.keep_jobs, config.daemon.keep_bytes)
        self._apps: dict[bytes, App] = {}
        self._tickets: dict[int, tuple[bytes, int, str]] = {}
        """Who waits for an unload: connection, seq and model."""
        self._ticket_numbers = itertools.count(1)
        self._telling_positions: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._over = self._loop.create_future()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._door = Door(self._context, config.endpoint, self._answer, self._forget_peer)
        self._followers = Followers(self._door)
        self._workers_path = config.endpoint.with_suffix(".workers")
        self._template = Template(config.worker, self._template_setup)
        self._supervisor = Supervisor(
            self._context,
            self._workers_path,
            config.worker,
            self._template,
            memory,
            emit=self.handle,
            report=self._hear,
        )
        self.strays = Strays(lambda: self._template.expecting)

    async def run(self) -> None:
        """Serve until the end; then close what was opened."""
        logger.info("serving %s on %s", self._config.endpoint, self._config.device_name)
        self._template.start()
        self.handle(events.Begun())
        try:
            await self._over
        finally:
            await self._template.close()
            self._supervisor.close()
            self._door.close()
            self._context.term()

    def reload(self, models: dict[str, ModelSection]) -> None:
        """Serve these models from now on. A worker of a model that has changed is not used again;
        what it is doing, it finishes."""
        before, self._catalog = self._catalog, Catalog(models)
        for name in before.rows:
            if before.spec(name) != self._catalog.spec(name):
                self.handle(events.UnloadAsked(name, None))
        self._template.renew("the configuration has been read again")
        logger.info("the configuration has been read again: %d models", len(self._catalog.rows))

    def _template_setup(self) -> Setup:
        return Setup(
            models=self._catalog.with_folders(),
            device=self._config.device_name,
            endpoint=f"ipc://{self._workers_path}",
        )

    # Events in, effects performed.

    def handle(self, event: events.Event) -> None:
        """Ask the dispatcher what to do about an event, and do it."""
        for effect in self._dispatcher.handle(event):
            self._perform(effect, event)
        if self._telling_positions is None and self._dispatcher.waiting:
            self._telling_positions = self._loop.call_later(POSITIONS_SECONDS, self._tell_positions)

    def _perform(self, effect: events.Effect, cause: events.Event) -> None:
        match effect:
            case events.StartWorker():
                replaces = cause.epoch if isinstance(cause, events.Gone) else effect.replaces
                self._start_worker(effect, replaces)
            case events.StartStandby():
                self._supervisor.start_standby(effect.epoch, self._config.device_name)
            case events.Run():
                self._run(effect)
            case events.CancelRun():
                self._supervisor.cancel(effect.epoch, effect.job_id)
            case events.EndWorker():
                self._supervisor.end(effect.epoch, politely=effect.politely, why=effect.why)
            case events.Settle():
                self._settle(self._jobs.find(effect.job_id), effect.error)
            case events.Answer():
                self._answer_ticket(effect)
            case events.Exit():
                if not self._over.done():
                    self._over.set_result(None)
            case _:
                assert_never(effect)

    def _start_worker(self, effect: events.StartWorker, replaces: int | None) -> None:
        job = self._jobs.find(effect.job_id)
        job.state, job.stage, job.fraction = "loading", "start", 0.0
        self._followers.publish(job, loading(job))
        try:
            model = self._catalog.find(effect.model)
        except errors.HermeticError as error:  # it was taken from the configuration meanwhile
            self._loop.call_soon(self._refuse_start, effect.epoch, error)
            return
        self._supervisor.ensure_ready(
            effect.epoch, model.spec, self._config.device_name, model.size_bytes, replaces
        )

    def _refuse_start(self, epoch: int, error: errors.HermeticError) -> None:
        self.handle(events.LoadFailed(epoch, error))
        if self._supervisor.identity(epoch) is None:  # else it is a standby, and will tell itself
            self.handle(events.Gone(epoch, error))

    def _run(self, effect: events.Run) -> None:
        job = self._jobs.find(effect.job_id)
        worker = self._supervisor.identity(effect.epoch)
        job.state, job.started_at, job.worker = "running", time.time(), worker
        job.attempts += 1
        if worker is not None:
            running = messages.JobRunning(job_id=job.id, epoch=worker.epoch, pid=worker.pid)
            self._followers.publish(job, running)
        if isinstance(job.task, Load):
            # A ready worker is all that it asked for.
            job.output = Output(timings=self._supervisor.timings(effect.epoch))
            done = events.Finished(effect.epoch, job.id, error=None, reusable=True)
            self._loop.call_soon(self.handle, done)
        else:
            self._supervisor.run(effect.epoch, job.id, job.task)

    def _settle(self, job: Job, error: errors.HermeticError | None) -> None:
        job.error = error
        state: JobState = "succeeded"
        if error is not None:
            state = "cancelled" if isinstance(error, errors.JobCancelled) else "failed"
            logger.info("job %s %s: %s", job.id, state, error.message)
        self._jobs.close(job, state, time.time())
        self._followers.close(job)

    def _hear(self, report: Report) -> None:
        """News of a worker, for the apps that follow its job."""
        match report:
            case Completed():
                job = self._jobs.find(report.job_id)
                waited = (job.started_at or job.submitted_at) - job.submitted_at
                report.output.timings["queued"] = waited
                job.output, job.worker = report.output, report.worker
                job.pixels = report.pixels
            case wire.Step():
                job = self._jobs.find(report.job_id)
                job.step, job.steps, job.timestep = report.step, report.steps, report.timestep
                self._followers.publish(job, step(job))
            case wire.Loading():
                for job in self._waiting():
                    if job.state == "loading":
                        job.stage, job.fraction = report.stage, report.fraction
                        self._followers.publish(job, loading(job))
            case _:
                assert_never(report)

    def _tell_positions(self) -> None:
        self._telling_positions = None
        ahead = int(self._dispatcher.running is not None)
        self._followers.tell_positions(self._waiting(), ahead)

    def _waiting(self) -> list[Job]:
        return [self._jobs.find(job_id) for job_id in self._dispatcher.waiting]

    def _forget_peer(self, identity: bytes) -> None:
        self._apps.pop(identity, None)
        self._followers.forget(identity)

    # What apps ask.

    def _answer(self, peer: Peer, request: messages.FromApp) -> None:
        try:
            self._serve(peer, request)
        except errors.HermeticError as error:
            self._door.reject(peer.identity, request.seq, error)

    def _serve(self, peer: Peer, request: messages.FromApp) -> None:
        send, seq = self._door.send, request.seq
        match request:
            case messages.Hello():
                self._remember_app(peer, request.app)
                welcome = messages.Welcome(
                    seq=seq, version=metadata.version("hermetic"), pid=os.getpid()
                )
                send(peer.identity, welcome)
            case messages.Submit():
                self._submit(peer, request)
            case messages.Follow():
                self._follow(peer, request)
            case messages.Cancel():
                self._cancel(peer, request)
            case messages.ListJobs():
                send(
                    peer.identity,
                    messages.Jobs(seq=seq, jobs=job_rows(self._jobs, self._dispatcher)),
                )
            case messages.ListModels():
                rows = self._catalog.describe(request.model)
                send(peer.identity, messages.Models(seq=seq, models=rows))
            case messages.ListWorkers():
                send(peer.identity, messages.Workers(seq=seq, workers=self._supervisor.rows()))
            case messages.GetStatus():
                found = status(seq, self._config, self._config_file, self._dispatcher, self._jobs)
                template = self._template.status()
                send(peer.identity, msgspec.structs.replace(found, template=template))
            case messages.Unload():
                self._unload(peer, request)
            case messages.Stop():
                self._stop(peer, request)
            case _:
                assert_never(request)

    def _remember_app(self, peer: Peer, name: str) -> None:
        """ZeroMQ tells of no disconnect, so the oldest connections are forgotten in their turn."""
        self._apps[peer.identity] = App(name, peer.uid, peer.pid)
        if len(self._apps) > MAX_APPS:
            del self._apps[next(iter(self._apps))]

    def _submit(self, peer: Peer, request: messages.Submit) -> None:
        check_job_id(request.job_id)
        known = self._jobs.get(request.job_id)
        if known is not None:
            self._accept(peer, request.seq, known)
            return
        task = self._admit(request)
        app = self._apps.get(peer.identity) or App("", peer.uid, peer.pid)
        job = Job(request.job_id, app, request.model, task, time.time())
        self._jobs.add(job)
        self._accept(peer, request.seq, job)
        self.handle(events.Submitted(job.id, job.model))

    def _admit(self, request: messages.Submit) -> Task:
        if self._dispatcher.ending is not None:
            raise errors.ShuttingDown(
                "The daemon is ending and takes no new jobs. Submit again once it is back.",
                retry_after=5.0,
            )
        waiting = len(self._dispatcher.waiting)
        if waiting >= self._config.daemon.queue_limit:
            raise errors.QueueFull(
                f"{waiting} jobs wait already, as many as may. Submit again later.",
                retry_after=5.0,
            )
        return complete(request.task, self._catalog.find(request.model))

    def _follow(self, peer: Peer, request: messages.Follow) -> None:
        self._accept(peer, request.seq, self._jobs.find(request.job_id))

    def _accept(self, peer: Peer, seq: int, job: Job) -> None:
        _permit(peer, job, "follow")
        if job.output is not None and job.output.images and not job.pixels:
            raise errors.ResultDropped(
                f"Job {job.id} succeeded, but its pixels are no longer kept. Submit it again with "
                "the same seeds under a new id."
            )
        self._door.send(peer.identity, messages.Accepted(seq=seq, job_id=job.id, state=job.state))
        self._followers.add(job, peer.identity, position(job.id, self._dispatcher))

    def _cancel(self, peer: Peer, request: messages.Cancel) -> None:
        job = self._jobs.find(request.job_id)
        _permit(peer, job, "cancel")
        words = f"Job {job.id} had ended already: {job.state}." if job.ended else "Cancelling."
        self._door.send(peer.identity, messages.Done(seq=request.seq, message=words))
        self.handle(events.CancelAsked(job.id))

    def _unload(self, peer: Peer, request: messages.Unload) -> None:
        self._catalog.describe(request.model)
        ticket = next(self._ticket_numbers)
        self._tickets[ticket] = peer.identity, request.seq, request.model
        self.handle(events.UnloadAsked(request.model, ticket))

    def _answer_ticket(self, answer: events.Answer) -> None:
        if answer.ticket is None:  # nobody has asked
            return
        identity, seq, model = self._tickets.pop(answer.ticket)
        words = f"{model} is unloaded." if answer.found else f"{model} was not loaded."
        self._door.send(identity, messages.Done(seq=seq, message=words))

    def _stop(self, peer: Peer, request: messages.Stop) -> None:
        if not peer.may_act_for(os.getuid()):
            raise errors.NotPermitted(
                f"Only root or the daemon's own user (uid {os.getuid()}) may end it; you are uid "
                f"{peer.uid}."
            )
        words = "Draining: no new jobs." if request.mode == "drain" else "Ending."
        self._door.send(peer.identity, messages.Done(seq=request.seq, message=words))
        self.handle(events.EndAsked(request.mode))


def _wants_standbys(config: Config, memory: Memory) -> bool:
    """A standby's context and kernels take a good part of a small card."""
    if config.worker.standby == "auto":
        on_gpu = config.device_name != "cpu"
        return on_gpu and memory.total_bytes() >= STANDBY_DEVICE_BYTES
    return config.worker.standby == "on"


def _permit(peer: Peer, job: Job, verb: str) -> None:
    if not peer.may_act_for(job.app.uid):
        raise errors.NotPermitted(
            f"Job {job.id} belongs to uid {job.app.uid}; only that user or root may {verb} it, and "
            f"you are uid {peer.uid}."
        )
