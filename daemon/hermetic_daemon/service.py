"""The loop: every event passes through here, one after the other.

The only one that asks the dispatcher. It decides nothing itself: requests say what apps want, the
dispatcher says what to do, ledger and supervisor do it. Slow work never runs here.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import os
import secrets
import time
from contextlib import suppress
from typing import assert_never

import psutil
import zmq

from hermetic_wire import errors, messages
from hermetic_wire import worker as wire
from hermetic_wire.generation import Load, Output
from hermetic_wire.template import Setup

from . import callbacks, events, faults, process, systemd
from .alarm import Alarm
from .apps import Apps
from .catalog import Catalog
from .config import Config, ModelSection
from .dispatcher import Dispatcher
from .door import Door
from .followers import Followers
from .jobs import App, Job, Jobs
from .ledger import Ledger
from .memory import Memory
from .overview import Overview
from .records import Measured, Recovered
from .reports import Completed, Preview, Report
from .requests import Requests
from .store import Store
from .strays import Strays
from .supervisor import Supervisor
from .template import Template

__all__ = ["Service"]

logger = logging.getLogger(__name__)

POSITIONS_SECONDS = 0.2
"""How often waiting apps are told how far they have moved, while few wait."""
POSITIONS_PER_SECOND = 1000
"""So many of them at most, while many do."""
TRIM_SECONDS = 60.0
"""How often the age of ended jobs is looked at while none ends."""
RETURN_SECONDS = 60.0
"""For apps to come back after a restart, before jobs that should not outlive them are cancelled."""
CAPACITY = 0.9
"""Of the device's memory, for models that are loaded beside each other."""
MEASURED_SECONDS = 10.0
"""Between two times that what a model's jobs take is written down; jobs can be quick."""
STANDBY_DEVICE_BYTES = 12 << 30
"""A GPU with less than this keeps no standby unless it is told to."""
FAREWELL_SECONDS = 10.0
"""For the last ends of jobs to be written before the daemon leaves."""


class Service:
    """The daemon. `run` returns once an EndAsked has been carried out."""

    def __init__(
        self, config: Config, config_file: str | None, store: Store, recovered: Recovered
    ) -> None:
        self._config = config
        self._catalog = Catalog(config.models)
        self._loop = asyncio.get_running_loop()
        self._over = self._loop.create_future()
        self._telling_positions: asyncio.TimerHandle | None = None
        self._alarm = Alarm(self._loop)
        self._happened: collections.deque[events.Event] = collections.deque()
        """What the dispatcher has not been asked about yet, after what it is just asked about."""
        self._cause_of_load: dict[int, str] = {}
        """By epoch, the job that its worker was started for."""
        self._measured_at: dict[str, float] = {}
        """By model, when the times of its jobs are written down again."""
        memory = Memory(config.device_name)
        self._store = store
        self._found = recovered
        self._dispatcher = Dispatcher(
            standbys=_wants_standbys(config, memory),
            residency=1 if config.daemon.residency == "exclusive" else config.daemon.residency,
            capacity_bytes=int(memory.total_bytes() * CAPACITY),
            options=self._options,
            max_wait=config.daemon.max_wait_seconds,
            backoff=config.worker.backoff_seconds,
            backoff_limit=config.worker.backoff_limit_seconds,
            first_epoch=self._found.last_epoch,
        )
        daemon = config.daemon
        self._jobs = Jobs(daemon.keep_jobs, daemon.keep_bytes, daemon.keep_seconds)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._apps = Apps(self._forget)
        self._door = Door(
            self._context,
            config.endpoint,
            lambda peer, request: self._requests.answer(peer, request),
            self._apps.lose,
        )
        self._followers = Followers(self._door)
        self._ledger = Ledger(self._jobs, store, self._followers)
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
        overview = Overview(
            config,
            config_file,
            self._dispatcher,
            self._ledger,
            self._supervisor,
            self._template,
            store,
        )
        self._overview = overview
        self._requests = Requests(
            daemon,
            lambda: self._catalog,
            self._dispatcher,
            self._ledger,
            overview,
            self._door,
            self._followers,
            self._apps,
            happen=self.handle,
        )
        self.strays = Strays(lambda: self._template.expecting)

    async def run(self) -> None:
        """Go on where the last daemon ended, serve until the end, close what was opened."""
        logger.info("serving %s on %s", self._config.endpoint, self._config.device_name)
        self._store.start(self._loop)
        process.CENSUS.listen(self._note_birth, self._store.reaped)
        self._template.start()
        self.handle(events.Begun())
        self._recover()
        self._preload()
        self._trim()
        systemd.notify("READY=1")
        try:
            await self._over
        finally:
            systemd.notify("STOPPING=1")
            await self._close()

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self._ledger.settled()
        except TimeoutError:
            logger.error("the ends of some jobs could not be written; they will be run again")
        await self._template.close()
        self._supervisor.close()
        self._apps.close()
        self._door.close()
        self._context.term()
        self._store.close()

    def reload(self, models: dict[str, ModelSection]) -> None:
        """Serve these models from now on. A worker of a model that has changed is not used again;
        what it is doing, it finishes."""
        before, self._catalog = self._catalog, Catalog(models)
        for name in before.rows:
            if before.spec(name) != self._catalog.spec(name):
                self.handle(events.UnloadAsked(name, None))
        self.handle(events.Tick())  # idle workers may have to end earlier, or pinned ones load
        self._template.renew("the configuration has been read again")
        logger.info("the configuration has been read again: %d models", len(self._catalog.rows))

    def _template_setup(self) -> Setup:
        return Setup(
            models=self._catalog.with_folders(),
            device=self._config.device_name,
            endpoint=f"ipc://{self._workers_path}",
        )

    def _options(self, model: str) -> events.WorkerOptions:
        section = self._catalog.section(model)
        keep_alive = self._config.daemon.keep_alive
        if section.keep_alive is not None:
            keep_alive = section.keep_alive
        return events.WorkerOptions(keep_alive if keep_alive >= 0 else None, section.pin)

    # What an earlier daemon has left.

    def _recover(self) -> None:
        for known in self._found.measured:
            self._dispatcher.teach(
                known.model, known.job_seconds, known.load_seconds, known.footprint_bytes
            )
        if self._found.paused:
            self.handle(events.PauseAsked(True))
        for record in self._found.jobs:
            job = Job.recovered(record)
            if self._ledger.adopt(job):
                self.handle(job.arrival())
        faults.reach("recovered")
        waiting = self._jobs.open()
        if waiting:
            logger.info("%d jobs of an earlier daemon go on", len(waiting))
            self._loop.call_later(RETURN_SECONDS, self._cancel_abandoned)

    def _cancel_abandoned(self) -> None:
        for job in self._jobs.open():
            if job.accepted:  # else its app has not been told of it yet
                self._cancel_unless_followed(job)

    def _preload(self) -> None:
        """Jobs of the daemon's own."""
        app = App("hermetic", os.getuid(), os.getpid())
        for name in self._catalog.to_preload():
            job = Job(f"preload-{secrets.token_hex(8)}", app, name, Load(), time.time())

            def written(error: errors.HermeticError | None, job: Job = job) -> None:
                if error is None:
                    self._jobs.add(job)
                    self.handle(job.arrival())

            self._ledger.accept(job, written)

    # Events in, effects performed.

    def handle(self, event: events.Event) -> None:
        """Ask the dispatcher what to do about an event, and do it.

        What happens while effects are performed, such as that an app is found to be gone, has its
        turn after them: the dispatcher takes them for done.
        """
        self._happened.append(event)
        if len(self._happened) > 1:
            return
        while self._happened:
            callbacks.call(self._loop, self._follow_up, self._happened[0])
            self._happened.popleft()
        self._set_alarm()

    def _follow_up(self, event: events.Event) -> None:
        effects = self._dispatcher.handle(event, time.monotonic())
        # A worker gets its next job before anything is done about its last one.
        effects.sort(key=lambda effect: not isinstance(effect, events.Run))
        for effect in effects:
            callbacks.call(self._loop, self._perform, effect)
        match event:
            case events.PauseAsked():
                self._store.set_paused(event.paused)
            case events.Ready():
                self._write_measured(event.epoch)
            case events.Finished(error=None):
                self._write_measured(event.epoch, at_most_every=MEASURED_SECONDS)
            case events.Gone():
                self._cause_of_load.pop(event.epoch, None)
            case _:
                pass
        if self._telling_positions is None and self._dispatcher.waiting_count:
            many = self._dispatcher.waiting_count / POSITIONS_PER_SECOND
            self._telling_positions = self._loop.call_later(
                max(POSITIONS_SECONDS, many), self._tell_positions
            )

    def _set_alarm(self) -> None:
        """Have the dispatcher asked again when something changes by time alone."""
        wake_at = self._dispatcher.wake_at
        if wake_at is None:
            self._alarm.clear()
        else:  # the loop's clock is time.monotonic, as the dispatcher's
            self._alarm.set(wake_at, self._ring)

    def _ring(self) -> None:
        self.handle(events.Tick())

    def _perform(self, effect: events.Effect) -> None:
        match effect:
            case events.StartWorker():
                self._start_worker(effect)
            case events.StartStandby():
                self._supervisor.start_standby(effect.epoch, self._config.device_name)
            case events.Run():
                self._run(effect)
            case events.CancelRun():
                self._supervisor.cancel(effect.epoch, effect.job_id)
            case events.EndWorker():
                self._supervisor.end(effect.epoch, politely=effect.politely, why=effect.why)
                faults.reach("switch.after_end")
            case events.Requeue():
                job = self._jobs.find(effect.job_id)
                self._ledger.requeue(job, effect.error, effect.retry_after, death=effect.death)
            case events.Park():
                self._ledger.park(self._jobs.find(effect.job_id))
            case events.Settle():
                self._ledger.settle(self._jobs.find(effect.job_id), effect.error)
            case events.Answer():
                self._requests.answer_ticket(effect)
            case events.Exit():
                if not self._over.done():
                    self._over.set_result(None)
            case _:
                assert_never(effect)

    def _start_worker(self, effect: events.StartWorker) -> None:
        if effect.job_id is not None:
            self._cause_of_load[effect.epoch] = effect.job_id
            self._ledger.load(self._jobs.find(effect.job_id))
        try:
            model = self._catalog.find(effect.model)
        except errors.HermeticError as error:  # it was taken from the configuration meanwhile
            self._loop.call_soon(self._refuse_start, effect.epoch, error)
            return
        self._supervisor.ensure_ready(
            effect.epoch,
            model.spec,
            self._config.device_name,
            model.size_bytes,
            effect.replaces,
            low_memory=effect.low_memory,
        )
        faults.reach("switch.after_start")

    def _refuse_start(self, epoch: int, error: errors.HermeticError) -> None:
        self.handle(events.LoadFailed(epoch, error))
        if self._supervisor.identity(epoch) is None:  # else it is a standby, and will tell itself
            self.handle(events.Gone(epoch, error))

    def _run(self, effect: events.Run) -> None:
        job = self._jobs.find(effect.job_id)
        worker = self._supervisor.identity(effect.epoch)
        if worker is None:
            raise AssertionError(f"epoch {effect.epoch} is to run a job and does not live")
        self._ledger.begin(job, worker)
        if isinstance(job.task, Load):
            # A ready worker is all that it asked for.
            job.output = Output(timings=self._supervisor.timings(effect.epoch))
            done = events.Finished(effect.epoch, job.id, error=None, reusable=True)
            self._loop.call_soon(self.handle, done)
        else:
            self._supervisor.run(effect.epoch, job.id, job.task, job.preview_seconds)

    def _hear(self, report: Report) -> None:
        """News of a worker, for the apps that follow its job."""
        match report:
            case Completed():
                job = self._jobs.find(report.job_id)
                self._ledger.complete(job, report.output, report.worker, report.pixels)
            case wire.Step():
                job = self._jobs.find(report.job_id)
                self._ledger.step(job, report.step, report.steps, report.timestep)
            case Preview():
                job = self._jobs.find(report.job_id)
                shown = messages.JobPreview(job_id=job.id, step=report.step, image=report.image)
                self._followers.publish(job, shown, report.pixels)
            case wire.Loading():
                job_id = self._cause_of_load.get(report.epoch)
                cause = self._jobs.get(job_id) if job_id else None
                if cause is not None and cause.state == "loading":
                    self._ledger.load(cause, report.stage, report.fraction)
            case _:
                assert_never(report)

    def _write_measured(self, epoch: int, at_most_every: float = 0.0) -> None:
        """What the next daemon should know from its first job on."""
        worker, now = self._supervisor.identity(epoch), time.monotonic()
        if worker is None:
            return
        if at_most_every:
            if now < self._measured_at.get(worker.model, 0.0):
                return
            self._measured_at[worker.model] = now + at_most_every
        job_seconds, load_seconds, footprint = self._dispatcher.learnt(worker.model)
        measured = Measured(
            model=worker.model,
            job_seconds=job_seconds,
            load_seconds=load_seconds,
            footprint_bytes=footprint,
        )
        self._store.measure(measured)

    def _tell_positions(self) -> None:
        self._telling_positions = None
        for queued in self._overview.waiting():
            job = self._jobs.find(queued.job_id)
            if job.state == "queued":
                self._followers.publish(job, queued)

    # Ends of things.

    def _forget(self, identity: bytes) -> None:
        """A connection is gone, and with it the jobs that should not outlive it."""
        for job_id in self._followers.forget(identity):
            job = self._jobs.get(job_id)
            if job is not None:
                self._cancel_unless_followed(job)

    def _cancel_unless_followed(self, job: Job) -> None:
        if job.on_disconnect == "cancel" and not job.ended and not self._followers.has(job.id):
            logger.info("job %s is cancelled: its app is gone", job.id)
            self.handle(events.CancelAsked(job.id))

    def _trim(self) -> None:
        self._ledger.trim()
        self._loop.call_later(TRIM_SECONDS, self._trim)

    def _note_birth(self, pid: int) -> None:
        """So that the next daemon can end it, should this one have no time to."""
        with suppress(psutil.NoSuchProcess):
            self._store.born(pid, psutil.Process(pid).create_time(), self._dispatcher.epoch)


def _wants_standbys(config: Config, memory: Memory) -> bool:
    """A standby's context and kernels take a good part of a small card."""
    if config.worker.standby == "auto":
        on_gpu = config.device_name != "cpu"
        return on_gpu and memory.total_bytes() >= STANDBY_DEVICE_BYTES
    return config.worker.standby == "on"
