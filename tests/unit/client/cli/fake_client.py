"""A client without a daemon: answers from rows, runs jobs from scripts of updates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hermetic import JobUpdate, Result, WatchUpdate
from hermetic_wire.errors import HermeticError, UnknownModel
from hermetic_wire.generation import Image, Load, Output, Task, TextToImage, WorkerIdentity
from hermetic_wire.messages import (
    JobLoading,
    JobQueued,
    JobRow,
    JobRunning,
    JobStep,
    JobSucceeded,
    ModelRow,
    Status,
    StoreStatus,
    TemplateStatus,
    WorkerRow,
)

JOB_ID = "3f2a91bc" * 4
SIDE = 8

Script = Sequence[JobUpdate | BaseException]


def updates(steps: int = 8) -> list[JobUpdate]:
    """What a job says that waits, loads and draws."""
    return [
        JobQueued(job_id=JOB_ID, position=1),
        JobQueued(job_id=JOB_ID, position=0),
        JobLoading(job_id=JOB_ID, stage="unet", fraction=0.2),
        JobLoading(job_id=JOB_ID, stage="unet", fraction=0.4),
        JobLoading(job_id=JOB_ID, stage="smoke run", fraction=0.9),
        JobRunning(job_id=JOB_ID, epoch=3, pid=4242),
        *(JobStep(job_id=JOB_ID, step=i, steps=steps) for i in range(1, steps + 1)),
    ]


def identity(model: str, *, epoch: int = 3, pid: int = 4242) -> WorkerIdentity:
    """The worker that a result names."""
    return WorkerIdentity(model=model, architecture="sd15", epoch=epoch, pid=pid, device="cpu")


def succeeded(
    task: Task, model: str, *, worker: WorkerIdentity | None = None, shade: int = 7
) -> Result:
    """A result with grey images, as many as the task asks for."""
    images = task.count if isinstance(task, TextToImage) else 0
    seeds = task.seeds if isinstance(task, TextToImage) else ()
    end = JobSucceeded(
        job_id=JOB_ID,
        task=task,
        output=Output(
            images=(Image(width=SIDE, height=SIDE),) * images,
            seeds=seeds or tuple(range(images)),
            timings={"fork": 0.01, "load": 0.25, "denoise": 1.5, "total": 1.75},
            memory={"resident": 2**28, "peak": 2**29},
        ),
        worker=worker or identity(model),
    )
    return Result(end, [bytes([shade]) * (SIDE * SIDE * 3)] * images)


class FakeJob:
    """A job that says its script; an exception in the script is raised in its place."""

    def __init__(self, script: Script, end: Result | HermeticError) -> None:
        self.id = JOB_ID
        self.cancelled = 0
        self._script = list(script)
        self._end = end

    def __iter__(self) -> Iterator[JobUpdate]:
        while self._script:
            news = self._script.pop(0)
            if isinstance(news, BaseException):
                raise news
            yield news

    def cancel(self) -> str:
        self.cancelled += 1
        return "cancelling"

    def result(self, timeout: float | None = None) -> Result:
        for _ in self:
            pass
        if isinstance(self._end, HermeticError):
            raise self._end
        return self._end


@dataclass
class FakeClient:
    """Stands where `hermetic.Client` does; a test fills in what it answers and reads `calls`."""

    model_rows: list[ModelRow] = field(default_factory=list)
    worker_rows: list[WorkerRow] = field(default_factory=list)
    job_rows: list[JobRow] = field(default_factory=list)
    template: TemplateStatus | None = None
    script: Script = field(default_factory=updates)
    error: HermeticError | None = None
    """Raised by whatever is asked."""
    end: HermeticError | None = None
    """How a job fails."""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    started: FakeJob | None = None
    store: StoreStatus | None = None
    paused: bool = False
    images: int = 1
    """Of a job that is taken hold of."""
    news: Sequence[WatchUpdate | BaseException] = ()
    """What a watch tells; an exception is raised in its place."""

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.calls.append(("close", None))

    def _asked(self, name: str, what: Any = None) -> None:
        self.calls.append((name, what))
        if self.error is not None:
            raise self.error

    def models(self) -> list[ModelRow]:
        self._asked("models")
        return self.model_rows

    def model(self, name: str) -> ModelRow:
        self._asked("model", name)
        for row in self.model_rows:
            if row.name == name:
                return row
        raise UnknownModel(f"There is no model {name}.")

    def workers(self) -> list[WorkerRow]:
        self._asked("workers")
        return self.worker_rows

    def jobs(self) -> list[JobRow]:
        self._asked("jobs")
        return self.job_rows

    def cancel(self, job_id: str) -> str:
        self._asked("cancel", job_id)
        return "cancelled"

    def unload(self, model: str) -> str:
        self._asked("unload", model)
        return f"{model} is unloaded"

    def stop(self, mode: str = "stop") -> str:
        self._asked("stop", mode)
        return "stopping"

    def status(self) -> Status:
        self._asked("status")
        return Status(
            seq=1,
            version="0.1.0",
            pid=99,
            state="serving",
            endpoint="/run/user/0/hermetic/hermetic.sock",
            device="cpu",
            start_method="fork",
            uptime_s=75,
            resident_bytes=40 * 2**20,
            queued=2,
            running=1,
            ended={"succeeded": 5, "failed": 1},
            workers_started=3,
            template=self.template,
            store=self.store,
            paused=self.paused,
        )

    def submit(
        self,
        prompt: str | Sequence[str],
        *,
        model: str,
        n: int = 1,
        seed: int | None = None,
        **given: Any,
    ) -> FakeJob:
        self._asked("submit", {"prompt": prompt, "model": model, "n": n, "seed": seed, **given})
        prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
        task = TextToImage(prompts=prompts, images_per_prompt=n, steps=8, width=SIDE, height=SIDE)
        return self._start(task, model)

    def load(self, model: str, *, keep_alive: float | None = None) -> FakeJob:
        self._asked("load", model if keep_alive is None else (model, keep_alive))
        return self._start(Load(), model)

    def job(self, job_id: str, *, preview_seconds: float | None = None) -> FakeJob:
        self._asked("job", (job_id, preview_seconds))
        task = TextToImage(prompts=("a",), images_per_prompt=self.images, width=SIDE, height=SIDE)
        return self._start(task, "demo-sd15")

    def events(self, *, app: str | None = None) -> Iterator[WatchUpdate]:
        self._asked("events", app)
        for update in self.news:
            if isinstance(update, BaseException):
                raise update
            yield update

    def pause(self) -> str:
        self._asked("pause")
        return "paused"

    def resume(self) -> str:
        self._asked("resume")
        return "resumed"

    def _start(self, task: Task, model: str) -> FakeJob:
        self.started = FakeJob(self.script, self.end or succeeded(task, model))
        return self.started

    def asked(self, name: str) -> list[Any]:
        """What was asked for under this name, in order."""
        return [what for called, what in self.calls if called == name]
