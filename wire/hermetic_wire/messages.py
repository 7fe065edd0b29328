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
from .generation import Image, JobState, Output, Parameter, Priority, Task, WorkerIdentity

__all__ = [
    "JOB_UPDATES",
    "MAX_APP_NAME_BYTES",
    "Accepted",
    "Bye",
    "Cancel",
    "Done",
    "Follow",
    "FromApp",
    "FromDaemon",
    "GetStatus",
    "Hello",
    "JobEnded",
    "JobFailed",
    "JobLoading",
    "JobPreview",
    "JobQueued",
    "JobRetrying",
    "JobRow",
    "JobRunning",
    "JobStep",
    "JobSubmitted",
    "JobSucceeded",
    "JobUpdate",
    "Jobs",
    "ListJobs",
    "ListModels",
    "ListWorkers",
    "ModelRow",
    "Models",
    "OnDisconnect",
    "Pause",
    "Rejected",
    "Reply",
    "Resume",
    "Status",
    "Stop",
    "StoreStatus",
    "Submit",
    "TemplateStatus",
    "Unload",
    "Watch",
    "WatchUpdate",
    "Welcome",
    "WorkerRow",
    "WorkerState",
    "Workers",
    "from_app",
    "from_daemon",
]


WorkerState: TypeAlias = Literal[
    "starting", "standby", "loading", "ready", "running", "ending", "waiting"
]
"""`waiting` is no process: the model's last worker crashed, and another is not started yet."""
OnDisconnect: TypeAlias = Literal["keep", "cancel"]
MAX_APP_NAME_BYTES = 128
"""In UTF-8. A thousand of them have to fit into one list of jobs, beside all else that is there."""


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
    priority: Priority = "normal"
    expires_in: float | None = None
    """Seconds in which it has to start, or it fails with `expired`."""
    on_disconnect: OnDisconnect = "keep"
    """Whether it goes on when the app that submitted it is gone."""
    keep_alive: float | None = None
    """Seconds for which the model stays loaded after this job, while nothing else wants the
    device; negative is for ever. None is what the configuration says."""
    preview_seconds: float | None = None
    """Send small pictures of the unfinished image, at most one in so many seconds."""


class Follow(_Request, frozen=True, kw_only=True, tag="follow"):
    """Take hold of a job again. Answered by Accepted, then by JobUpdates from now on."""

    job_id: str
    preview_seconds: float | None = None
    """As of Submit; where several apps ask, the shortest time counts for all."""


class Watch(_Request, frozen=True, kw_only=True, tag="watch"):
    """News of all jobs of the asker's uid, also of later ones; root sees everyone's.

    Answered by Done, then by a JobSubmitted for every job that has not ended, then by WatchUpdates.
    """

    app: str | None = None
    """Only jobs of apps with this name."""


class Bye(_Request, frozen=True, kw_only=True, tag="bye"):
    """The last message of a connection: its app wants no more news. Answered by Done."""


class Cancel(_Request, frozen=True, kw_only=True, tag="cancel"):
    """End a job. Answered by Done when the cancel is under way; the job's end is an update."""

    job_id: str


class ListJobs(_Request, frozen=True, kw_only=True, tag="list_jobs"):
    """Answered by Jobs: all of them, or those named that the daemon knows."""

    job_ids: tuple[str, ...] | None = None


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


class Pause(_Request, frozen=True, kw_only=True, tag="pause"):
    """Begin no job until Resume; what runs goes on, and jobs are accepted. Answered by Done.

    Only the daemon's own uid or root may. A restart of the daemon does not end the pause.
    """


class Resume(_Request, frozen=True, kw_only=True, tag="resume"):
    """Begin jobs again. Answered by Done. Only the daemon's own uid or root may."""


class Stop(_Request, frozen=True, kw_only=True, tag="stop"):
    """End the daemon. Answered by Done at once; the endpoint's end tells when it is over.

    `drain` finishes every accepted job; `stop` only the one that runs, if it ends within the
    daemon's `drain_seconds`; `kill` ends workers at once. Jobs that have not ended by then stay
    written down, and the next daemon goes on with them. Only the daemon's own uid or root may.
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
    priority: Priority = "normal"
    expires_at: float | None = None
    """When it fails unless it has started."""
    not_before: float | None = None
    """When its model's worker is started again after a crash."""


class Jobs(_Reply, frozen=True, kw_only=True, tag="jobs"):
    """Waiting and running jobs in the order they will run, then ended ones, youngest first; jobs
    that were asked for by name in the order of their names in the request."""

    jobs: tuple[JobRow, ...]
    omitted: int = 0
    """How many more there are, after these: a header has its limit."""


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
    """When it is ended unless a job comes; seconds since the epoch of Unix. None: for ever, or
    it is not idle."""
    versions: dict[str, str] = {}
    start_method: str = "exec"
    """`fork` from the template, or `exec` of a new interpreter."""
    timings: dict[str, float] = {}
    """Seconds by stage of its start and load."""
    loaded_by: dict[str, str] = {}
    """By component: `skeleton`, or `from_pretrained` and why."""
    low_memory: bool = False
    """Whether it holds its model in the way that needs the least memory, after an OutOfMemory."""
    retry_after: float | None = None
    """`waiting`: in so many seconds the model's worker is started again."""
    reason: str = ""
    """`waiting`: what the last one died of."""


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


class StoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where jobs are written down."""

    path: str
    state: Literal["writing", "failing"]
    """`failing`: new jobs are refused until it can be written again."""
    reason: str = ""
    """What it fails of, and what to do."""
    jobs: int = 0
    """How many it knows, ended ones included."""
    pixel_bytes: int = 0
    """Of kept results."""


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
    store: StoreStatus | None = None
    paused: bool = False
    """Whether jobs are accepted but not begun."""


# Job updates: daemon -> app.


class JobQueued(_Update, frozen=True, kw_only=True, tag="job_queued"):
    """It waits."""

    position: int
    """How many jobs run before it."""
    estimate_s: float | None = None
    """Seconds until it has ended, from measured times; None while nothing is measured."""


class JobRetrying(_Update, frozen=True, kw_only=True, tag="job_retrying"):
    """Its worker ended under it, or ran out of memory. It waits for another one."""

    attempt: int
    """How many workers have begun it."""
    error: ErrorBody
    retry_after: float = 0.0
    """Seconds before which its model is not started again."""


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


class JobPreview(_Update, frozen=True, kw_only=True, tag="job_preview"):
    """How the image looks by now, small and rough: `image` says what the raw frame holds."""

    step: int
    image: Image


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


class JobSubmitted(_Update, frozen=True, kw_only=True, tag="job_submitted"):
    """To watchers: a job that they have not heard of."""

    job: JobRow


class JobEnded(_Update, frozen=True, kw_only=True, tag="job_ended"):
    """To watchers: a job's end, without its pixels."""

    job: JobRow


FromApp: TypeAlias = (
    Hello
    | Submit
    | Follow
    | Watch
    | Bye
    | Cancel
    | ListJobs
    | ListModels
    | ListWorkers
    | GetStatus
    | Unload
    | Pause
    | Resume
    | Stop
)
Reply: TypeAlias = Welcome | Accepted | Done | Rejected | Jobs | Models | Workers | Status
JobUpdate: TypeAlias = (
    JobQueued
    | JobRetrying
    | JobLoading
    | JobRunning
    | JobStep
    | JobPreview
    | JobSucceeded
    | JobFailed
)
JOB_UPDATES = (
    JobQueued,
    JobRetrying,
    JobLoading,
    JobRunning,
    JobStep,
    JobPreview,
    JobSucceeded,
    JobFailed,
)
WatchUpdate: TypeAlias = (
    JobSubmitted | JobQueued | JobRetrying | JobLoading | JobRunning | JobStep | JobEnded
)
FromDaemon: TypeAlias = Reply | JobUpdate | JobSubmitted | JobEnded

from_app: Codec[FromApp] = Codec(FromApp, "request")
from_daemon: Codec[FromDaemon] = Codec(FromDaemon, "reply")
