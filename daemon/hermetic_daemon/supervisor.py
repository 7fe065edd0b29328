"""The workers, by epoch: starts them, leads them to Ready, hands them jobs, ends them, buries them.

What happens to a worker leaves as an event through `emit`; news for apps leaves through
`report`. It decides nothing: whom to start or end is the dispatcher's business. A message counts
only if it comes from the socket that said Hello with the epoch's own token.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import assert_never

import msgspec
import zmq

from hermetic_wire import PROTOCOL, errors
from hermetic_wire import worker as wire
from hermetic_wire.codec import Frame
from hermetic_wire.generation import Output, Task, WorkerIdentity
from hermetic_wire.messages import WorkerRow

from . import events, faults
from .alarm import Alarm
from .config import WorkerSection
from .heartbeats import Heartbeats
from .life import Life
from .memory import Memory
from .process import ExitStatus, Grace
from .releases import Releases
from .reports import Completed, Preview, Report
from .router import Router
from .starter import Starter
from .template import Template

__all__ = ["Supervisor"]

logger = logging.getLogger(__name__)


class Supervisor:
    """The mechanics of workers. All methods return at once; what follows is told by `emit`."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        path: Path,
        config: WorkerSection,
        template: Template,
        memory: Memory,
        emit: Callable[[events.Event], None],
        report: Callable[[Report], None],
    ) -> None:
        self._path = path
        self._config = config
        self._template = template
        self._starter = Starter(config, template, path, self._bury, self._abandon)
        self._releases = Releases(
            memory, config.release_seconds, self._assign_where_possible, self._refuse
        )
        self._emit = emit
        self._report = report
        self._heartbeats = Heartbeats(config.step_seconds)
        self._workers: dict[int, Life] = {}
        self._proven: dict[str, str] = {}
        """By model, the fingerprint with which it has become ready in this daemon's life."""
        self._loop = asyncio.get_running_loop()
        self._router = Router(context, path, self._on_frames, self._on_lost)

    def close(self) -> None:
        """Close the workers' socket. Every worker has to be gone by now."""
        self._router.close()
        self._path.unlink(missing_ok=True)

    def rows(self) -> tuple[WorkerRow, ...]:
        """The living workers, as `hermetic ps` shows them."""
        return tuple(worker.row() for worker in self._workers.values())

    def identity(self, epoch: int) -> WorkerIdentity | None:
        """Which process the epoch is, while it lives."""
        worker = self._workers.get(epoch)
        return worker.identity() if worker else None

    def timings(self, epoch: int) -> dict[str, float]:
        """Seconds by stage of the epoch's start and load."""
        worker = self._workers.get(epoch)
        return dict(worker.timings) if worker else {}

    def ensure_ready(
        self,
        epoch: int,
        model: wire.ModelSpec,
        device: str,
        size_bytes: int = 0,
        replaces: tuple[int, ...] = (),
        *,
        low_memory: bool = False,
    ) -> None:
        """Lead the epoch's process to Ready: the standby of that epoch, or a new process.

        Ready, LoadFailed or Gone will tell. It loads beside workers that are ending only where the
        memory allows both, for files of `size_bytes`; else when theirs is proven to be free.
        `replaces` are the epochs that go for it, where this completes a switch. `low_memory` has
        the model held in the way that needs least.
        """
        leaving = {one.epoch for one in self._workers.values() if one.state == "ending"}
        leaving.update(self._workers.keys() & replaces)
        standby = self._workers.get(epoch)
        worker = standby or self._new_life(epoch, device)
        worker.model, worker.replaces, worker.called = model, replaces, time.monotonic()
        worker.low_memory = low_memory
        self._releases.hold_back(worker, leaving, size_bytes)
        if standby is None:
            self._start(worker)
        self._assign_where_possible(worker)

    def start_standby(self, epoch: int, device: str) -> None:
        """Start a process that makes its device ready and waits for `ensure_ready`."""
        self._start(self._new_life(epoch, device))

    def _new_life(self, epoch: int, device: str) -> Life:
        patience = Alarm(self._loop)
        worker = Life(epoch, device, secrets.token_hex(16), time.monotonic(), patience)
        self._workers[epoch] = worker
        return worker

    def _start(self, worker: Life) -> None:
        seconds = self._starter.start(worker)
        if worker.state == "starting":
            self._expect(worker, seconds, "say Hello")

    def _assign_where_possible(self, worker: Life) -> None:
        """Tell it its model, once it listens and the memory is there."""
        if not worker.may_load or worker.model is None:
            return
        worker.state = "loading"
        assign = wire.Assign(
            model=worker.model,
            device=worker.device,
            proven=self._proven.get(worker.model.name, ""),
            smoke=self._config.smoke,
            read_ahead=self._config.read_ahead,
            low_memory=worker.low_memory,
        )
        self._tell(worker, assign)
        faults.reach("assign.after_send")
        self._expect(worker, self._config.load_seconds, "come forward with its load")

    def run(
        self, epoch: int, job_id: str, task: Task, preview_seconds: float | None = None
    ) -> None:
        """Give the worker its next job; Finished or Gone will tell."""
        worker = self._workers[epoch]
        if worker.state == "ending":  # it has been killed meanwhile, and Gone is on its way
            return
        worker.state, worker.job_id = "running", job_id
        worker.task, worker.stepped_at = task, None
        self._expect(worker, self._config.step_seconds, "finish the next step")
        faults.reach("run.before_send")
        self._tell(worker, wire.Run(job_id=job_id, task=task, preview_seconds=preview_seconds))
        faults.reach("run.after_send")

    def cancel(self, epoch: int, job_id: str) -> None:
        """Have the job end at its next step; past the grace, by SIGTERM and SIGKILL."""
        worker = self._workers.get(epoch)
        if worker is None or worker.job_id != job_id:
            return
        self._tell(worker, wire.Cancel(job_id=job_id))
        worker.cancelling = True
        deadline = self._loop.time() + self._config.cancel_seconds
        worker.patience.set(deadline, lambda: self._end_process(worker, politely=True))

    def end(self, epoch: int, *, politely: bool, why: str) -> None:
        """Kill the worker, or first ask it; Gone will tell."""
        worker = self._workers.get(epoch)
        if worker is None:
            return
        logger.info("epoch %d ends: %s", epoch, why)
        worker.ended_at = time.monotonic()
        listens = politely and worker.peer is not None
        ask = (lambda: self._tell(worker, wire.Quit())) if listens else None
        self._end_process(worker, politely, ask)

    # Deadlines.

    def _expect(self, worker: Life, seconds: float, what: str) -> None:
        """Whoever does not do `what` within `seconds` hangs, and is killed."""
        deadline = self._loop.time() + seconds
        worker.patience.set(deadline, lambda: self._give_up(worker, seconds, what))

    def _give_up(self, worker: Life, seconds: float, what: str) -> None:
        worker.verdict = errors.WorkerUnresponsive(
            f"The worker of {worker.name} did not {what} within {seconds:g} s, so it was "
            "killed. Submit the job again; if it needs longer than that, raise the limit in "
            "the [worker] section."
        )
        logger.warning("epoch %d: %s", worker.epoch, worker.verdict.message)
        if worker.process is None:
            self._starter.give_up(worker)
        self._end_process(worker, politely=False)

    def _end_process(
        self, worker: Life, politely: bool, ask: Callable[[], None] | None = None
    ) -> None:
        """From here on nothing it says counts: it could not keep a promise to run another job."""
        worker.state = "ending"
        if worker.process is None:  # who is to fork it still has until it should have said Hello
            self._starter.withdraw(worker)
            return
        grace = Grace(
            message=self._config.quit_seconds if ask else 0.0,
            terminate=self._config.terminate_seconds if politely else 0.0,
        )
        worker.process.end(grace if politely else None, ask)
        # SIGKILL ends every process but one that hangs in the kernel, as in a device's driver.
        seconds = grace.message + grace.terminate + self._config.release_seconds
        worker.patience.set(self._loop.time() + seconds, lambda: self._despair(worker))

    def _despair(self, worker: Life) -> None:
        """Nobody waits for it any more. It stays in `rows`, and whatever memory it holds is held:
        who wants to load is refused as long as there is not enough beside it."""
        error = errors.WorkerUnresponsive(
            f"The worker of {worker.name} (pid {worker.pid}) was killed and has not ended: it "
            "hangs in the kernel or in a driver. If it stays, restart the machine."
        )
        logger.error("epoch %d: %s", worker.epoch, error.message)
        self._emit(events.Gone(worker.epoch, worker.verdict or error))

    # What workers say.

    def _tell(self, worker: Life, message: wire.ToWorker) -> None:
        if worker.peer is not None:
            self._router.send(worker.peer, wire.to_worker.encode(message))

    def _on_lost(self, peer: bytes) -> None:
        """Its socket is gone; the pidfd will say the rest."""
        logger.debug("worker socket %s is gone", peer.hex())

    def _on_frames(self, peer: bytes, frames: list[zmq.Frame]) -> None:
        try:
            message, raw = wire.from_worker.decode([frame.buffer for frame in frames])
        except errors.HermeticError as error:
            self._blame(peer, error)
            return
        worker = self._workers.get(message.epoch)
        if worker is None:
            logger.warning("dropped %s of epoch %d", type(message).__name__, message.epoch)
        elif isinstance(message, wire.Hello):
            self._welcome(worker, peer, message)
        elif peer != worker.peer:
            logger.warning("dropped a message that pretends to be of epoch %d", message.epoch)
        elif worker.state != "ending":
            self._hear(worker, message, raw)

    def _blame(self, peer: bytes, error: errors.HermeticError) -> None:
        """A worker that sends nonsense is not to be trusted with a job."""
        for worker in self._workers.values():
            if worker.peer == peer:
                worker.verdict = errors.WorkerDied(
                    f"The worker of {worker.name} sent what is no message and was killed: "
                    f"{error.message}"
                )
                self.end(worker.epoch, politely=False, why=error.message)
                return
        logger.warning("dropped nonsense of a stranger: %s", error.message)

    def _welcome(self, worker: Life, peer: bytes, hello: wire.Hello) -> None:
        if worker.peer is not None or not secrets.compare_digest(hello.token, worker.token):
            logger.warning("dropped a Hello that is not of epoch %d", worker.epoch)
            return
        worker.peer = peer
        faults.reach("hello")
        now = time.monotonic()
        born = hello.born if worker.started <= hello.born <= now else now
        worker.timings[worker.start_method] = born - worker.started
        worker.timings["hello"] = now - born
        if hello.v != PROTOCOL:
            worker.verdict = errors.LoadFailed(
                f"The worker speaks protocol {hello.v}, the daemon {PROTOCOL}. Install one version."
            )
            self.end(worker.epoch, politely=False, why=worker.verdict.message)
            return
        if worker.state != "starting":
            return
        worker.patience.clear()
        if worker.model is None:
            self._tell(worker, wire.Prepare(device=worker.device))
            self._expect(worker, self._config.load_seconds, "make its device ready")
        self._assign_where_possible(worker)

    def _hear(self, worker: Life, message: wire.FromWorker, raw: list[Frame]) -> None:
        match message:
            case wire.Loading() | wire.Ready() | wire.LoadFailed() if worker.state != "loading":
                kind = type(message).__name__
                logger.warning("dropped %s of epoch %d, which loads nothing", kind, worker.epoch)
            case wire.Prepared():
                worker.timings["prepare"] = sum(message.timings.values())
                if worker.state == "starting":
                    worker.patience.clear()
                    worker.state = "standby"
            case wire.Loading():
                self._expect(worker, self._config.load_seconds, "come forward with its load")
                worker.look_at_memory()
                faults.reach("loading")
                self._report(message)
            case wire.Ready():
                faults.reach("ready")
                self._settle_in(worker, message)
            case wire.LoadFailed():
                self._fail_load(worker, errors.from_body(message.error))
            case wire.Step():
                if message.job_id == worker.job_id:
                    self._step(worker, message, raw)
            case wire.Done() | wire.Failed() | wire.Cancelled():
                self._finish(worker, message, raw)
            case wire.Hello():
                raise AssertionError("a Hello is welcomed, not heard")
            case _:
                assert_never(message)

    def _step(self, worker: Life, step: wire.Step, raw: list[Frame]) -> None:
        faults.reach("step")
        now = time.monotonic()
        if worker.model is not None and worker.task is not None and not worker.cancelling:
            name, task = worker.model.name, worker.task
            if worker.stepped_at is not None:
                self._heartbeats.learn(name, task, now - worker.stepped_at)
            limit = self._heartbeats.limit(name, task, within=step.step < step.steps)
            self._expect(worker, limit, "finish the next step")
        worker.stepped_at = now
        worker.look_at_memory()
        self._report(step)
        if step.preview is not None:
            self._report(Preview(step.job_id, step.step, step.preview, raw))

    def _settle_in(self, worker: Life, ready: wire.Ready) -> None:
        worker.patience.clear()
        worker.state = "ready"
        worker.device = ready.device
        worker.versions = ready.versions
        worker.loaded_by = ready.loaded_by
        worker.timings |= ready.timings
        now = time.monotonic()
        worker.timings["ready"] = now - worker.called
        if worker.replaces:
            worker.timings["switch"] = now - worker.called
        if worker.model is not None and ready.fingerprint:
            self._proven[worker.model.name] = ready.fingerprint
        if ready.stale_template:
            self._template.renew(f"the files of {worker.name} have changed")
        logger.info("epoch %d: %s is ready: %s", worker.epoch, worker.name, _told(worker.timings))
        worker.baseline = ready.memory.get("resident", 0)
        footprint = ready.memory.get("device", worker.baseline)
        self._emit(events.Ready(worker.epoch, footprint))

    def _fail_load(self, worker: Life, error: errors.HermeticError) -> None:
        worker.patience.clear()
        if isinstance(error, errors.WorkerDied):  # it has lost its device: the model is as it was
            worker.verdict = error
            self.end(worker.epoch, politely=False, why=error.message)
        else:
            self._emit(events.LoadFailed(worker.epoch, error))

    def _finish(
        self, worker: Life, message: wire.Done | wire.Failed | wire.Cancelled, raw: list[Frame]
    ) -> None:
        if message.job_id != worker.job_id:
            logger.warning("dropped the end of a job that epoch %d has not", worker.epoch)
            return
        verdict = _verdict(worker, message)
        if verdict is not None:
            worker.verdict = verdict
            self.end(worker.epoch, politely=False, why=verdict.message)
            return
        worker.patience.clear()
        worker.cancelling = False
        worker.state, worker.job_id = "ready", None
        worker.jobs += 1
        reusable = True
        error: errors.HermeticError | None = None
        match message:
            case wire.Done():
                faults.reach("done.received")
                output = message.output
                reusable = not self._is_worn(worker, output)
                if worker.jobs == 1:
                    output = _with_timings(output, worker.timings)
                self._report(Completed(message.job_id, output, worker.identity(), raw))
            case wire.Failed():
                error, reusable = errors.from_body(message.error), False
            case wire.Cancelled():
                error = errors.JobCancelled("The job was cancelled.")
        self._emit(events.Finished(worker.epoch, message.job_id, error, reusable))

    def _is_worn(self, worker: Life, output: Output) -> bool:
        """Whether it has done, or has come to hold, as much as one worker may."""
        grown = output.memory.get("resident", 0) - worker.baseline
        limit, most = self._config.growth_bytes, self._config.jobs_per_worker
        if limit and grown > limit:
            logger.warning("epoch %d has grown by %d MiB", worker.epoch, grown >> 20)
        return bool(limit and grown > limit) or bool(most and worker.jobs >= most)

    # Ends.

    def _abandon(self, worker: Life) -> None:
        """There never was a process. Told later, so that no effect's outcome arrives while
        effects are being performed."""
        worker.patience.clear()
        error = worker.verdict or errors.WorkerDied("The worker was ended before it was forked.")

        def tell() -> None:
            del self._workers[worker.epoch]
            self._releases.gone(worker, lambda seconds: None)  # it never had any memory
            if isinstance(error, errors.LoadFailed):  # whoever tries again meets the same
                self._emit(events.LoadFailed(worker.epoch, error))
            self._emit(events.Gone(worker.epoch, error))

        self._loop.call_soon(tell)

    def _bury(self, worker: Life, exit: ExitStatus) -> None:
        del self._workers[worker.epoch]
        worker.patience.clear()
        faults.reach("gone")
        logger.info("epoch %d is gone: %s (rung: %s)", worker.epoch, exit.words, exit.rung)
        reaped = time.monotonic()
        for heir in self._heirs(worker.epoch):
            heir.timings["reap"] = reaped - (worker.ended_at or reaped)
        obituary = worker.obituary(exit)
        worker.state = "ending"  # should it have waited for another's memory, it does not any more
        self._releases.gone(worker, lambda seconds: self._note_release(worker.epoch, seconds))
        self._emit(events.Gone(worker.epoch, obituary))

    def _note_release(self, epoch: int, seconds: float) -> None:
        for heir in self._heirs(epoch):
            heir.timings["release"] = seconds

    def _refuse(self, worker: Life, error: errors.HermeticError) -> None:
        """There is no memory for it, and there will not be."""
        if worker.state != "ending":
            worker.patience.clear()
            self._emit(events.LoadFailed(worker.epoch, error))

    def _heirs(self, epoch: int) -> list[Life]:
        """Who takes the place of the epoch, and is not ready yet."""
        return [
            one
            for one in self._workers.values()
            if epoch in one.replaces and "ready" not in one.timings
        ]


def _verdict(
    worker: Life, message: wire.Done | wire.Failed | wire.Cancelled
) -> errors.HermeticError | None:
    """Why this end of a job is rather one of its worker, and the job not to blame; None if not."""
    match message:
        case wire.Cancelled() if not worker.cancelling:
            return errors.WorkerDied(
                f"Somebody ended the worker of {worker.name} (epoch {worker.epoch}) in the middle "
                "of the job, by SIGTERM."
            )
        case wire.Failed() if message.error.code == errors.WorkerDied.code:
            return errors.from_body(message.error)
        case _:
            return None


def _told(timings: dict[str, float]) -> str:
    """Milliseconds by stage, for the log."""
    return ", ".join(f"{stage} {1000 * seconds:.0f} ms" for stage, seconds in timings.items())


def _with_timings(output: Output, start: dict[str, float]) -> Output:
    """The job's own stages beside those of its worker's start and load."""
    return msgspec.structs.replace(output, timings=start | output.timings)
