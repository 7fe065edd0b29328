"""What is known of one worker, from its start to its burial. Data and words; it does nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from hermetic_wire.errors import HermeticError, WorkerDied
from hermetic_wire.generation import Task, WorkerIdentity
from hermetic_wire.messages import WorkerRow, WorkerState
from hermetic_wire.worker import ModelSpec

from .alarm import Alarm
from .process import ChildProcess, ExitStatus

__all__ = ["Life"]

MEMORY_SECONDS = 0.5
"""Between two looks at a worker's memory, which the kernel forgets at its death."""


@dataclass
class Life:
    """One epoch. Points in time are those of `time.monotonic`."""

    epoch: int
    device: str
    token: str
    """Only the process that was started for this epoch knows it."""
    started: float
    """When its process was asked for."""
    patience: Alarm
    """Rings unless it comes forward in time."""
    model: ModelSpec | None = None
    """None while it is a standby."""
    called: float = 0.0
    """When it was chosen for its model."""
    waits_for: set[int] = field(default_factory=set)
    """Epochs whose memory has to be free before it may load."""
    process: ChildProcess | None = None
    start_method: Literal["fork", "exec"] = "exec"
    peer: bytes | None = None
    """Its socket's identity, once it said Hello."""
    state: WorkerState = "starting"
    job_id: str | None = None
    task: Task | None = None
    """Of that job."""
    stepped_at: float | None = None
    """When the job's last step was told."""
    low_memory: bool = False
    baseline: int = 0
    """Bytes that it had resident when it was ready."""
    resident: int = 0
    """Bytes that it had resident when that was last looked at."""
    looked_at: float = 0.0
    cancelling: bool = False
    jobs: int = 0
    """How many it has ended."""
    replaces: tuple[int, ...] = ()
    """The epochs that went for it, where its start completes a switch."""
    loaded_by: dict[str, str] = field(default_factory=dict)
    """By component: `skeleton`, or `from_pretrained` and why."""
    timings: dict[str, float] = field(default_factory=dict)
    """Of the start and the load, in seconds; they travel with its first result."""
    ended_at: float | None = None
    """When it was told to end."""
    versions: dict[str, str] = field(default_factory=dict)
    verdict: HermeticError | None = None
    """Why it is being ended, where that is its own fault."""

    @property
    def name(self) -> str:
        """Of its model, in words."""
        return repr(self.model.name) if self.model else "no model (a standby)"

    @property
    def may_load(self) -> bool:
        """Whether it can be told its model: it has one, it listens, and the memory is there."""
        listens = self.peer is not None and self.state in ("starting", "standby")
        return listens and self.model is not None and not self.waits_for

    @property
    def pid(self) -> int:
        """Of its process; 0 where none could be started."""
        return self.process.pid if self.process else 0

    def look_at_memory(self) -> None:
        """Note its resident memory, unless that was done just now."""
        now = time.monotonic()
        if self.process is not None and now - self.looked_at > MEMORY_SECONDS:
            self.looked_at = now
            self.resident, _ = self.process.memory()

    def identity(self) -> WorkerIdentity:
        """As results carry it."""
        return WorkerIdentity(
            model=self.model.name if self.model else "",
            architecture=self.model.architecture if self.model else "",
            epoch=self.epoch,
            pid=self.pid,
            device=self.device,
            versions=self.versions,
        )

    def row(self) -> WorkerRow:
        """As `hermetic ps` shows it."""
        resident, peak = self.process.memory() if self.process else (0, 0)
        return WorkerRow(
            model=self.model.name if self.model else "",
            architecture=self.model.architecture if self.model else "",
            epoch=self.epoch,
            pid=self.pid,
            device=self.device,
            state=self.state,
            resident_bytes=resident,
            peak_bytes=peak,
            jobs=self.jobs,
            versions=self.versions,
            start_method=self.start_method,
            timings=self.timings,
            loaded_by=self.loaded_by,
            low_memory=self.low_memory,
        )

    def obituary(self, exit: ExitStatus) -> HermeticError:
        """What a job that was on it gets: the verdict, or how it ended; with a crash report."""
        error = self.verdict or WorkerDied(
            f"The worker of {self.name} ended while it was {self.state}: {exit.words}."
        )
        error.report = "\n".join(self._report(exit))
        return error

    def _report(self, exit: ExitStatus) -> list[str]:
        return [
            f"epoch {self.epoch}, pid {self.pid}, model {self.name} on {self.device}",
            f"end: {exit.words} (code {exit.code}, ended by: {exit.rung})",
            f"state: {self.state}, job: {self.job_id or 'none'}, jobs before it: {self.jobs}",
            f"memory resident: {self.resident / 2**20:.0f} MiB when last looked at, "
            f"{exit.peak_bytes / 2**20:.0f} MiB at most",
            "its last lines:" if exit.stderr else "it wrote nothing",
            *(f"  {line}" for line in exit.stderr),
        ]
