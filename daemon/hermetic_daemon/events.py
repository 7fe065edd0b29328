"""What can happen to the device and its jobs, and what can be done about it. Data only.

Events go into the dispatcher, effects come out of it; both are frozen. Points in time are seconds
of one clock that only grows, and whoever sends an event says what it shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from hermetic_wire.errors import HermeticError
from hermetic_wire.generation import Priority

__all__ = [
    "Answer",
    "Begun",
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
    "Park",
    "PauseAsked",
    "Ready",
    "Requeue",
    "Run",
    "Settle",
    "StartStandby",
    "StartWorker",
    "Submitted",
    "Tick",
    "UnloadAsked",
    "WorkerOptions",
]

# Events: what happened.


@dataclass(frozen=True)
class Begun:
    """The daemon serves."""


@dataclass(frozen=True)
class Tick:
    """Time has passed: `Dispatcher.wake_at` has come, or nearly."""


@dataclass(frozen=True)
class WorkerOptions:
    """How long a model may stay, as the configuration has it."""

    keep_alive: float | None
    """Seconds idle; None is for ever."""
    pin: bool = False
    """Never ended for being idle, ended last, loaded again when there is nothing else to do."""


@dataclass(frozen=True)
class Submitted:
    """A job was accepted, or was found in the store."""

    job_id: str
    model: str
    app: str = ""
    """Whose share of the device it takes: jobs of one app have one text here."""
    priority: Priority = "normal"
    at: float | None = None
    """When it was submitted; None is now. Earlier where it comes from the store."""
    expires_at: float | None = None
    """When it fails unless it has started."""
    keep_alive: float | None = None
    """Seconds for which its model stays after it; negative is for ever, None as configured."""
    deaths: tuple[HermeticError, ...] = ()
    """How workers ended under it before."""
    counts: bool = True
    """Whether its time says how long jobs take: not that of one that only loads."""


@dataclass(frozen=True)
class PauseAsked:
    """Begin no job, or begin jobs again."""

    paused: bool


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
    """The daemon shall end: after all jobs (`drain`), after the running one if that ends within
    `budget` seconds (`stop`), at once (`kill`). The others are parked."""

    mode: Literal["drain", "stop", "kill"]
    budget: float = 0.0


@dataclass(frozen=True)
class Ready:
    """The worker's model answers."""

    epoch: int
    footprint: int = 0
    """Bytes of memory that it takes on its device."""


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
    Begun
    | Tick
    | Submitted
    | PauseAsked
    | CancelAsked
    | UnloadAsked
    | EndAsked
    | Ready
    | LoadFailed
    | Finished
    | Gone
)

# Effects: what to do.


@dataclass(frozen=True)
class StartWorker:
    """Make the model ready in the epoch's process: the standby of that epoch, else a new one.

    `job_id` is the job that caused it, None where a pinned model comes back by itself. `replaces`
    are the epochs that go for it; EndWorker tells of each. Whether they may hold memory at once is
    not decided here.
    """

    epoch: int
    model: str
    job_id: str | None
    replaces: tuple[int, ...] = ()
    low_memory: bool = False
    """The model has run out of memory: in the way that needs least."""


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
class Requeue:
    """Its worker ended under the job, which waits again: once more, on another worker."""

    job_id: str
    error: HermeticError
    retry_after: float
    """Seconds until its model may be started."""
    death: bool = True
    """Whether this counts towards its quarantine; it does not where memory ran out."""


@dataclass(frozen=True)
class Park:
    """The daemon ends before the job has: the next daemon goes on with it."""

    job_id: str


@dataclass(frozen=True)
class Answer:
    """What the ticket asked for is done."""

    ticket: int | None
    found: bool


@dataclass(frozen=True)
class Exit:
    """Nothing waits, no worker lives, and the daemon was asked to end."""


Effect: TypeAlias = (
    StartWorker
    | StartStandby
    | Run
    | CancelRun
    | EndWorker
    | Requeue
    | Park
    | Settle
    | Answer
    | Exit
)
