"""What can happen to the device and its jobs, and what can be done about it. Data only.

Events go into the dispatcher, effects come out of it; both are frozen and know no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from hermetic_wire.errors import HermeticError

__all__ = [
    "Answer",
    "CancelAsked",
    "CancelRun",
    "Effect",
    "EndAsked",
    "EndWorker",
    "Event",
    "Exit",
    "Finished",
    "Gone",
    "LoadFailed",
    "Ready",
    "Run",
    "Settle",
    "StartWorker",
    "Submitted",
    "UnloadAsked",
]

# Events: what happened.


@dataclass(frozen=True)
class Begun:
    """The daemon serves."""


@dataclass(frozen=True)
class Submitted:
    """A job was accepted."""

    job_id: str
    model: str


@dataclass(frozen=True)
class CancelAsked:
    """Somebody who may do so wants the job ended."""

    job_id: str


@dataclass(frozen=True)
class UnloadAsked:
    """The model's worker shall end once its job is done; `ticket` wants to know when."""

    model: str
    ticket: int | None
    """None where nobody waits for the answer."""


@dataclass(frozen=True)
class EndAsked:
    """The daemon shall end: after all jobs (`drain`), politely (`stop`), at once (`kill`)."""

    mode: Literal["drain", "stop", "kill"]


@dataclass(frozen=True)
class Ready:
    """The worker's model answers."""

    epoch: int


@dataclass(frozen=True)
class LoadFailed:
    """The worker says that its model cannot be made ready."""

    epoch: int
    error: HermeticError


@dataclass(frozen=True)
class Finished:
    """The worker sent the one terminal message of its job; `error` is None where it succeeded.

    A worker is `reusable` unless its pipeline raised.
    """

    epoch: int
    job_id: str
    error: HermeticError | None
    reusable: bool


@dataclass(frozen=True)
class Gone:
    """The worker's process has been reaped; `error` is what a job that was on it gets."""

    epoch: int
    error: HermeticError


Event: TypeAlias = (
    Begun | Submitted | CancelAsked | UnloadAsked | EndAsked | Ready | LoadFailed | Finished | Gone
)

# Effects: what to do.


@dataclass(frozen=True)
class StartWorker:
    """Make the model ready in the epoch's process: the standby of that epoch, else a new one.

    `job_id` is the job that caused it; `replaces` is the epoch that has to go for it, where there
    is one. Whether both may hold memory at once is not decided here.
    """

    epoch: int
    model: str
    job_id: str
    replaces: int | None = None


@dataclass(frozen=True)
class StartStandby:
    """Start a process without a model, for whichever comes next."""

    epoch: int


@dataclass(frozen=True)
class Run:
    """Give the job to the worker."""

    epoch: int
    job_id: str


@dataclass(frozen=True)
class CancelRun:
    """Make the worker stop its job, or end it within the grace."""

    epoch: int
    job_id: str


@dataclass(frozen=True)
class EndWorker:
    """Kill the worker at once, or `politely`, rung by rung."""

    epoch: int
    politely: bool
    why: str


@dataclass(frozen=True)
class Settle:
    """The job has ended; `error` is None where it succeeded. Comes exactly once per job."""

    job_id: str
    error: HermeticError | None


@dataclass(frozen=True)
class Answer:
    """What the ticket asked for is done."""

    ticket: int | None
    found: bool


@dataclass(frozen=True)
class Exit:
    """Nothing waits, no worker lives, and the daemon was asked to end."""


Effect: TypeAlias = (
    StartWorker | StartStandby | Run | CancelRun | EndWorker | Settle | Answer | Exit
)
