"""What is known of one worker, from its start to its burial. Data and words; it does nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hermetic_wire.errors import HermeticError, WorkerDied
from hermetic_wire.generation import WorkerIdentity
from hermetic_wire.messages import WorkerRow, WorkerState
from hermetic_wire.worker import ModelSpec

from .process import ExitStatus, WorkerProcess

__all__ = ["Life"]


@dataclass
class Life:
    """One epoch. Points in time are those of `time.monotonic`."""

    epoch: int
    model: ModelSpec
    device: str
    token: str
    """Only the process that was started for this epoch knows it."""
    started: float
    process: WorkerProcess | None = None
    peer: bytes | None = None
    """Its socket's identity, once it said Hello."""
    state: WorkerState = "starting"
    job_id: str | None = None
    cancelling: bool = False
    jobs: int = 0
    """How many it has ended."""
    replaces: float | None = None
    """When the worker before it was told to end, where this one's start completes a switch."""
    timings: dict[str, float] = field(default_factory=dict)
    """Of the start and the load, in seconds; they travel with its first result."""
    versions: dict[str, str] = field(default_factory=dict)
    verdict: HermeticError | None = None
    """Why it is being ended, where that is its own fault."""
    patience: asyncio.TimerHandle | None = None
    """Fires unless it comes forward in time."""

    @property
    def pid(self) -> int:
        """Of its process; 0 where none could be started."""
        return self.process.pid if self.process else 0

    def settle_down(self) -> None:
        """Nothing is expected of it any more."""
        if self.patience is not None:
            self.patience.cancel()
            self.patience = None

    def identity(self) -> WorkerIdentity:
        """As results carry it."""
        return WorkerIdentity(
            model=self.model.name,
            architecture=self.model.architecture,
            epoch=self.epoch,
            pid=self.pid,
            device=self.device,
            versions=self.versions,
        )

    def row(self) -> WorkerRow:
        """As `hermetic ps` shows it."""
        resident, peak = self.process.memory() if self.process else (0, 0)
        return WorkerRow(
            model=self.model.name,
            architecture=self.model.architecture,
            epoch=self.epoch,
            pid=self.pid,
            device=self.device,
            state=self.state,
            resident_bytes=resident,
            peak_bytes=peak,
            jobs=self.jobs,
            versions=self.versions,
        )

    def obituary(self, exit: ExitStatus) -> HermeticError:
        """What a job that was on it gets: the verdict, or how it ended; with a crash report."""
        error = self.verdict or WorkerDied(
            f"The worker of {self.model.name!r} ended while it was {self.state}: {exit.words}."
        )
        error.report = "\n".join(self._report(exit))
        return error

    def _report(self, exit: ExitStatus) -> list[str]:
        return [
            f"epoch {self.epoch}, pid {self.pid}, model {self.model.name} on {self.device}",
            f"end: {exit.words} (code {exit.code}, ended by: {exit.rung})",
            f"state: {self.state}, job: {self.job_id or 'none'}, jobs before it: {self.jobs}",
            f"most memory resident: {exit.peak_bytes / 2**20:.0f} MiB",
            "its last lines:" if exit.stderr else "it wrote nothing",
            *(f"  {line}" for line in exit.stderr),
        ]
