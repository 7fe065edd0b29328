"""App and daemon: one class per message, two tagged unions. docs/protocol.md tells the story.

Four rules keep old and new peers talking: a new field has a default; a field is never retyped;
a name is never used again for something else; the order of fields means nothing. A peer ignores
fields that it does not know.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from . import PROTOCOL
from .codec import Codec
from .errors import ErrorBody
from .generation import JobState, Output, Parameter, Task, WorkerIdentity

__all__ = [
    "JOB_UPDATES",
    "Accepted",
    "Cancel",
    "Done",
    "Follow",
    "FromApp",
    "FromDaemon",
    "GetStatus",
    "Hello",
    "JobFailed",
    "JobLoading",
    "JobQueued",
    "JobRow",
    "JobRunning",
    "JobStep",
    "JobSucceeded",
    "JobUpdate",
    "Jobs",
    "ListJobs",
    "ListModels",
    "ListWorkers",
    "ModelRow",
    "Models",
    "Rejected",
    "Reply",
    "Status",
    "Stop",
    "Submit",
    "TemplateStatus",
    "Unload",
    "Welcome",
    "WorkerRow",
    "WorkerState",
    "Workers",
    "from_app",
    "from_daemon",
]


WorkerState: TypeAlias = Literal["starting", "standby", "loading", "ready", "running", "ending"]


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    v: int = PROTOCOL


class _Request(_Message, frozen=True, kw_only=True):
    """What an app asks. Every request is answered by one reply with the same `seq`."""

    seq: int


class _Reply(_Message, frozen=True, kw_only=True):
    seq: int


class _Update(_Message, frozen=True, kw_only=True):
    """News of one job, sent to whoever submitted or follows it."""

    job_id: str


# Requests: app -> daemon.


class Hello(_Request, frozen=True, kw_only=True, tag="hello"):
    """The first message of a connection. Answered by Welcome, or Rejected(protocol_mismatch)."""

    app: str = ""
    """The name the app gives itself; its identity comes from the kernel."""
    version: str = ""
    """The client library's version."""


class Submit(_Request, frozen=True, kw_only=True, tag="submit"):
    """A new job. Answered by Accepted, then followed by JobUpdates until one of them ends it.

    The app chooses the id (32 hexadecimal digits at best, at most 64 characters of
    `[A-Za-z0-9_-]`); the same id again is the same job.
    """

    job_id: str
    model: str
    task: Task


class Follow(_Request, frozen=True, kw_only=True, tag="follow"):
    """Take hold of a job again. Answered by Accepted, then by JobUpdates from now on."""

    job_id: str


class Cancel(_Request, frozen=True, kw_only=True, tag="cancel"):
    """End a job. Answered by Done when the cancel is under way; the job's end is an update."""

    job_id: str


class ListJobs(_Request, frozen=True, kw_only=True, tag="list_jobs"):
    """Answered by Jobs."""


class ListModels(_Request, frozen=True, kw_only=True, tag="list_models"):
    """Answered by Models: all of the catalog, or the one named."""

    model: str | None = None


class ListWorkers(_Request, frozen=True, kw_only=True, tag="list_workers"):
    """Answered by Workers."""


class GetStatus(_Request, frozen=True, kw_only=True, tag="get_status"):
    """Answered by Status."""


class Unload(_Request, frozen=True, kw_only=True, tag="unload"):
    """End a model's worker once its job is done. Answered by Done after the process is gone."""

    model: str


class Stop(_Request, frozen=True, kw_only=True, tag="stop"):
    """End the daemon. Answered by Done at once; the endpoint's end tells when it is over.

    `drain` finishes every accepted job, `stop` cancels them and ends workers politely, `kill`
    ends workers at once. Only the daemon's own uid or root may.
    """

    mode: Literal["drain", "stop", "kill"] = "stop"


# Replies: daemon -> app.


class Welcome(_Reply, frozen=True, kw_only=True, tag="welcome"):
    """The answer to Hello."""

    version: str
    """The daemon's version."""
    pid: int


class Accepted(_Reply, frozen=True, kw_only=True, tag="accepted"):
    """The job is the daemon's now; JobUpdates follow, the first of them its present state."""

    job_id: str
    state: JobState


class Done(_Reply, frozen=True, kw_only=True, tag="done"):
    """What was asked has been done, or was so already; `message` says which."""

    message: str


class Rejected(_Message, frozen=True, kw_only=True, tag="rejected"):
    """The request was refused and changed nothing."""

    seq: int | None
    """The request's; None where the bytes did not even tell that."""
    error: ErrorBody


class JobRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `hermetic jobs`."""

    id: str
    app: str
    uid: int
    pid: int
    model: str
    state: JobState
    position: int | None
    """How many jobs run before it; None when it waits no more."""
    estimate_s: float | None = None
    attempts: int = 0
    """How many workers have begun it."""
    step: int = 0
    steps: int = 0
    submitted_at: float = 0.0
    """Seconds since the epoch of Unix, as are the other times."""
    started_at: float | None = None
    ended_at: float | None = None
    error: ErrorBody | None = None


class Jobs(_Reply, frozen=True, kw_only=True, tag="jobs"):
    """Waiting and running jobs in the order they will run, then ended ones, youngest first."""

    jobs: tuple[JobRow, ...]


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `hermetic models`, a whole page of `hermetic show`."""

    name: str
    architecture: str
    source: Literal["embedded", "configured", "built-in"]
    path: str | None = None
    pipeline: str | None = None
    """The diffusers class that model_index.json declares."""
    size_bytes: int = 0
    defaults: dict[str, Parameter] = {}
    extra: dict[str, str] = {}
    """Names and types of the further parameters that a request may carry in `extra`."""
    components: dict[str, str] = {}
    """Component names and classes of a diffusers folder."""
    widths: dict[str, int] = {}
    """The dimensions that must agree: the text encoders' and the UNet's cross-attention."""
    problem: str | None = None
    """Why this model cannot be used, where it cannot."""


class Models(_Reply, frozen=True, kw_only=True, tag="models"):
    """The catalog, by name."""

    models: tuple[ModelRow, ...]


class WorkerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `hermetic ps`."""

    model: str
    architecture: str
    epoch: int
    pid: int
    device: str
    state: WorkerState
    resident_bytes: int = 0
    peak_bytes: int = 0
    jobs: int = 0
    """How many jobs it has ended."""
    idle_until: float | None = None
    versions: dict[str, str] = {}
    start_method: str = "exec"
    """`fork` from the template, or `exec` of a new interpreter."""
    timings: dict[str, float] = {}
    """Seconds by stage of its start and load."""
    loaded_by: dict[str, str] = {}
    """By component: `skeleton`, or `from_pretrained` and why."""


class Workers(_Reply, frozen=True, kw_only=True, tag="workers"):
    """The living workers."""

    workers: tuple[WorkerRow, ...]


class TemplateStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The process that workers are forked from."""

    state: Literal["off", "starting", "serving", "refused", "waiting"]
    """`refused`: it was not clean, so it is not used. `waiting`: it died and is started again."""
    reason: str = ""
    """Why it is refused, or what it died of."""
    pid: int = 0
    forks: int = 0
    """How many workers this very process has given."""
    private_bytes: int = 0
    """What it alone takes of the machine's memory."""
    skeletons: dict[str, str] = {}
    """By model: `ready`, or why workers have to load it by `from_pretrained`."""
    timings: dict[str, float] = {}
    """Seconds by stage of its own start."""


class Status(_Reply, frozen=True, kw_only=True, tag="status"):
    """The daemon itself."""

    version: str
    pid: int
    state: Literal["serving", "draining", "stopping"]
    endpoint: str
    device: str
    start_method: str
    uptime_s: float
    resident_bytes: int
    queued: int
    running: int
    ended: dict[str, int]
    """How many jobs ended in each state since the start."""
    workers_started: int
    """Also the newest epoch."""
    config_file: str | None = None
    template: TemplateStatus | None = None


# Job updates: daemon -> app.


class JobQueued(_Update, frozen=True, kw_only=True, tag="job_queued"):
    """It waits."""

    position: int
    """How many jobs run before it."""


class JobLoading(_Update, frozen=True, kw_only=True, tag="job_loading"):
    """Its model is being made ready."""

    stage: str
    fraction: float
    """Of the whole load, 0 to 1."""


class JobRunning(_Update, frozen=True, kw_only=True, tag="job_running"):
    """A worker has begun it."""

    epoch: int
    pid: int


class JobStep(_Update, frozen=True, kw_only=True, tag="job_step"):
    """One denoising step is done. Of several that wait for a slow app only the newest counts."""

    step: int
    """1 to `steps`."""
    steps: int
    timestep: float | None = None
    """The noise schedule's."""


class JobSucceeded(_Update, frozen=True, kw_only=True, tag="job_succeeded"):
    """The end: the pixels of `output.images` are the raw frames."""

    task: Task
    """As it ran: with everything filled in that the app left open."""
    output: Output
    worker: WorkerIdentity


class JobFailed(_Update, frozen=True, kw_only=True, tag="job_failed"):
    """The end, without a result."""

    state: Literal["failed", "cancelled", "interrupted"]
    error: ErrorBody


FromApp: TypeAlias = (
    Hello
    | Submit
    | Follow
    | Cancel
    | ListJobs
    | ListModels
    | ListWorkers
    | GetStatus
    | Unload
    | Stop
)
Reply: TypeAlias = Welcome | Accepted | Done | Rejected | Jobs | Models | Workers | Status
JobUpdate: TypeAlias = JobQueued | JobLoading | JobRunning | JobStep | JobSucceeded | JobFailed
JOB_UPDATES = (JobQueued, JobLoading, JobRunning, JobStep, JobSucceeded, JobFailed)
FromDaemon: TypeAlias = Reply | JobUpdate

from_app: Codec[FromApp] = Codec(FromApp, "request")
from_daemon: Codec[FromDaemon] = Codec(FromDaemon, "reply")
