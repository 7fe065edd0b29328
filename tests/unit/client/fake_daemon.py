"""A daemon of a hundred lines: speaks hermetic_wire over a real socket, draws flat colours.

Prompts are its script: `fail` ends a job in an error, `wait` leaves it running until it is
cancelled, `quiet` accepts it and says nothing, `full` is refused, `preview` shows a picture between
its steps, anything else is drawn in two steps.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import zmq

from hermetic_wire.codec import Frame
from hermetic_wire.errors import (
    GenerationFailed,
    HermeticError,
    JobCancelled,
    StoreUnavailable,
    UnknownJob,
    to_body,
)
from hermetic_wire.generation import Image, JobState, Output, TextToImage, WorkerIdentity
from hermetic_wire.messages import (
    Accepted,
    Bye,
    Cancel,
    Done,
    Follow,
    FromApp,
    FromDaemon,
    GetStatus,
    Hello,
    JobFailed,
    JobPreview,
    JobQueued,
    JobRow,
    JobRunning,
    Jobs,
    JobStep,
    JobSubmitted,
    JobSucceeded,
    ListJobs,
    ListModels,
    ListWorkers,
    ModelRow,
    Models,
    Pause,
    Rejected,
    Resume,
    Status,
    Stop,
    Submit,
    TemplateStatus,
    Unload,
    Watch,
    Welcome,
    WorkerRow,
    Workers,
    from_app,
    from_daemon,
)

__all__ = ["MODEL", "WORKER", "FakeDaemon", "row", "succeeded"]

Request = TypeVar("Request", bound=msgspec.Struct)

MODEL = ModelRow(name="demo-sd15", architecture="sd15", source="embedded")
WORKER = WorkerIdentity(model="demo-sd15", architecture="sd15", epoch=3, pid=77, device="cpu")
_ROW = WorkerRow(
    model="demo-sd15",
    architecture="sd15",
    epoch=3,
    pid=77,
    device="cpu",
    state="ready",
    start_method="fork",
    timings={"fork": 0.01, "ready": 0.2},
    loaded_by={"unet": "skeleton", "safety_checker": "from_pretrained: it is no module"},
)
_TEMPLATE = TemplateStatus(
    state="serving", pid=70, forks=3, private_bytes=2**20, skeletons={"demo-sd15": "ready"}
)


class FakeDaemon:
    """Serves from a thread between `start` and `stop`, any number of times, and knows its jobs from
    one life to the next unless it is `forgetful`. With `mute` it takes everything and answers
    nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mute = False
        self.forgetful = False
        self.rows: list[JobRow] = [row("j")]
        """What it lists, and tells watchers of."""
        self.listed = 1000
        """How many of them it lists where none is named."""
        self.seen: queue.SimpleQueue[FromApp] = queue.SimpleQueue()
        """Every request, in order."""
        self._jobs: dict[str, Submit] = {}
        self._outbox: queue.SimpleQueue[list[Frame]] = queue.SimpleQueue()

    def start(self) -> None:
        """Binds and serves."""
        if self.forgetful:
            self._jobs.clear()
        self._bell, self._ring = socket.socketpair()
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.bind(f"ipc://{self.path}")
        self._thread = threading.Thread(target=self._serve, name="fake-daemon")
        self._thread.start()

    def stop(self) -> None:
        """Goes away like a killed process: what was not answered never is."""
        self._ring.send(b"stop")
        self._thread.join()
        self._router.close(linger=0)
        self._context.term()
        self._bell.close()
        self._ring.close()

    def await_request(self, kind: type[Request]) -> Request:
        """The next request of that kind; others before it are passed over."""
        while True:
            request = self.seen.get(timeout=10)
            if isinstance(request, kind):
                return request

    def say(self, message: FromDaemon | bytes, raw: Sequence[Frame] = ()) -> None:
        """Sends to the app that spoke last; bytes are sent as they are."""
        frames = [message, *raw] if isinstance(message, bytes) else from_daemon.encode(message, raw)
        self._outbox.put(frames)
        self._ring.send(b"s")

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._bell, zmq.POLLIN)
        app = b""
        while True:
            ready = dict(poller.poll())
            if self._router in ready:
                app, *frames = self._router.recv_multipart()
                self._answer(app, frames)
            elif b"stop" in self._bell.recv(64):
                return
            while not self._outbox.empty():
                self._router.send_multipart([app, *self._outbox.get()])

    def _answer(self, app: bytes, frames: Sequence[Frame]) -> None:
        request, _ = from_app.decode(frames)
        if not self.mute:
            try:
                replies = self._replies(request)
            except HermeticError as error:
                replies = [(Rejected(seq=request.seq, error=to_body(error)), [])]
            for message, raw in replies:
                self._router.send_multipart([app, *from_daemon.encode(message, raw)])
        self.seen.put(request)

    def _replies(self, request: FromApp) -> list[tuple[FromDaemon, list[Frame]]]:
        seq = request.seq
        match request:
            case Submit(task=TextToImage(prompts=("full",))):
                raise StoreUnavailable("The disk is full.", retry_after=5.0)
            case Submit(job_id=job_id):
                self._jobs[job_id] = request
                return [(_accepted(seq, job_id), []), *_story(request)]
            case Follow(job_id=job_id):
                return [(_accepted(seq, job_id), []), *_story(self._job(job_id))]
            case Cancel(job_id=job_id):
                self._job(job_id)
                return [(Done(seq=seq, message="Cancelled."), []), (_cancelled(job_id), [])]
            case ListJobs(job_ids=None):
                listed, omitted = self.rows[: self.listed], self.rows[self.listed :]
                return [(Jobs(seq=seq, jobs=tuple(listed), omitted=len(omitted)), [])]
            case ListJobs(job_ids=tuple(job_ids)):
                named = [one for one in self.rows if one.id in job_ids]
                return [(Jobs(seq=seq, jobs=tuple(named)), [])]
            case Watch():
                return [(Done(seq=seq, message="Watching."), []), *self._open_jobs()]
            case _:
                return [(_reading(request), [])]

    def _open_jobs(self) -> list[tuple[FromDaemon, list[Frame]]]:
        return [
            (JobSubmitted(job_id=one.id, job=one), []) for one in self.rows if one.ended_at is None
        ]

    def _job(self, job_id: str) -> Submit:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise UnknownJob(f"There is no job {job_id}.") from None


def row(job_id: str, state: JobState = "queued", ended_at: float | None = None) -> JobRow:
    """One line of what it lists."""
    position = 0 if state == "queued" else None
    return JobRow(
        id=job_id,
        app="a",
        uid=1,
        pid=2,
        model="demo-sd15",
        state=state,
        position=position,
        ended_at=ended_at,
    )


def succeeded(job_id: str, task: TextToImage) -> tuple[JobSucceeded, list[Frame]]:
    """The end of a job: 2 x 1 pixels of the seed's colour per image."""
    seeds = task.seeds or tuple(range(task.count))
    colours = seeds if len(seeds) == task.count else seeds * task.count
    filled = msgspec.structs.replace(task, seeds=seeds, steps=task.steps or 2, guidance=2.0)
    output = Output(
        images=(Image(width=2, height=1),) * task.count,
        seeds=seeds,
        timings={"total": 0.5},
        memory={"resident": 1000},
    )
    end = JobSucceeded(job_id=job_id, task=filled, output=output, worker=WORKER)
    return end, [bytes([seed % 256, 0, 255] * 2) for seed in colours]


def _story(request: Submit) -> list[tuple[FromDaemon, list[Frame]]]:
    job_id, task = request.job_id, request.task
    opening: list[tuple[FromDaemon, list[Frame]]] = [
        (JobQueued(job_id=job_id, position=0), []),
        (JobRunning(job_id=job_id, epoch=3, pid=77), []),
        (JobStep(job_id=job_id, step=1, steps=2, timestep=501.0), []),
    ]
    if not isinstance(task, TextToImage):
        end = JobSucceeded(job_id=job_id, task=task, output=Output(), worker=WORKER)
        return [*opening[:1], (end, [])]
    match task.prompts[0]:
        case "quiet":
            return []
        case "wait":
            return opening
        case "fail":
            error = GenerationFailed("It raised.", report="Traceback")
            failed = JobFailed(job_id=job_id, state="failed", error=to_body(error))
            return [*opening, (failed, [])]
        case "preview":
            shown = JobPreview(job_id=job_id, step=1, image=Image(width=2, height=1))
            return [*opening, (shown, [b"\1\2\3\4\5\6"]), succeeded(job_id, task)]
        case _:
            last = JobStep(job_id=job_id, step=2, steps=2, timestep=1.0)
            return [*opening, (last, []), succeeded(job_id, task)]


def _accepted(seq: int, job_id: str, state: JobState = "queued") -> Accepted:
    return Accepted(seq=seq, job_id=job_id, state=state)


def _cancelled(job_id: str) -> JobFailed:
    error = to_body(JobCancelled("Cancelled by its owner."))
    return JobFailed(job_id=job_id, state="cancelled", error=error)


def _reading(request: FromApp) -> FromDaemon:
    seq = request.seq
    match request:
        case Hello():
            return Welcome(seq=seq, version="0", pid=1)
        case ListModels(model=name):
            return Models(seq=seq, models=(MODEL,) if name in (None, MODEL.name) else ())
        case ListWorkers():
            return Workers(seq=seq, workers=(_ROW,))
        case GetStatus():
            return _status(seq)
        case Unload(model=model):
            return Done(seq=seq, message=f"{model} is unloaded.")
        case Bye():
            return Done(seq=seq, message="Goodbye.")
        case Pause():
            return Done(seq=seq, message="Paused.")
        case Resume():
            return Done(seq=seq, message="Jobs are begun.")
        case Stop(mode=mode):
            return Done(seq=seq, message=f"The daemon ends: {mode}.")
        case _:
            raise AssertionError(f"{request} is answered elsewhere")


def _status(seq: int) -> Status:
    return Status(
        seq=seq,
        version="0",
        pid=1,
        state="serving",
        endpoint="/e",
        device="cpu",
        start_method="fork",
        uptime_s=1.0,
        resident_bytes=1,
        queued=0,
        running=0,
        ended={},
        workers_started=3,
        template=_TEMPLATE,
    )
