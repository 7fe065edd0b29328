"""The client library: an app's way to the daemon.

    from hermetic import Client

    with Client() as client:
        result = client.generate("a red circle", model="demo-sd15", steps=10, seed=5)
        result.images[0].show()

Imports neither torch nor numpy, and Pillow only when images are asked for.
"""

from __future__ import annotations

from hermetic_wire.errors import (
    DaemonError,
    DaemonRunning,
    DaemonUnreachable,
    ErrorBody,
    GenerationFailed,
    HermeticError,
    InvalidConfiguration,
    InvalidParameter,
    JobCancelled,
    JobError,
    JobExpired,
    JobInterrupted,
    LoadFailed,
    MalformedMessage,
    MemoryNotReleased,
    MessageTooLarge,
    ModelInvalid,
    NotPermitted,
    OutOfMemory,
    ProtocolMismatch,
    Quarantined,
    QueueFull,
    RequestError,
    ResultDropped,
    ResultTimeout,
    ShuttingDown,
    StoreBroken,
    StoreUnavailable,
    UnknownJob,
    UnknownModel,
    WorkerDied,
    WorkerUnresponsive,
)
from hermetic_wire.generation import WorkerIdentity
from hermetic_wire.messages import (
    JobEnded,
    JobFailed,
    JobLoading,
    JobQueued,
    JobRetrying,
    JobRow,
    JobRunning,
    JobStep,
    JobSubmitted,
    JobSucceeded,
    ModelRow,
    Status,
    WorkerRow,
)

from ._async import AsyncClient
from ._async_job import AsyncJob
from ._result import Result
from ._sync import Client, Job
from ._updates import JobForgotten, JobUpdate, Preview, WatchUpdate
from ._version import __version__
from .remote_pipeline import RemotePipeline

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "Client",
    "DaemonError",
    "DaemonRunning",
    "DaemonUnreachable",
    "ErrorBody",
    "GenerationFailed",
    "HermeticError",
    "InvalidConfiguration",
    "InvalidParameter",
    "Job",
    "JobCancelled",
    "JobEnded",
    "JobError",
    "JobExpired",
    "JobFailed",
    "JobForgotten",
    "JobInterrupted",
    "JobLoading",
    "JobQueued",
    "JobRetrying",
    "JobRow",
    "JobRunning",
    "JobStep",
    "JobSubmitted",
    "JobSucceeded",
    "JobUpdate",
    "LoadFailed",
    "MalformedMessage",
    "MemoryNotReleased",
    "MessageTooLarge",
    "ModelInvalid",
    "ModelRow",
    "NotPermitted",
    "OutOfMemory",
    "Preview",
    "ProtocolMismatch",
    "Quarantined",
    "QueueFull",
    "RemotePipeline",
    "RequestError",
    "Result",
    "ResultDropped",
    "ResultTimeout",
    "ShuttingDown",
    "Status",
    "StoreBroken",
    "StoreUnavailable",
    "UnknownJob",
    "UnknownModel",
    "WatchUpdate",
    "WorkerDied",
    "WorkerIdentity",
    "WorkerRow",
    "WorkerUnresponsive",
    "__version__",
]
