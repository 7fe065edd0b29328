"""Every error an app can meet: one tree, one table of wire codes and exit codes.

    HermeticError
    ├── RequestError               the request cannot be right: nothing was changed
    │   ├── MalformedMessage       bytes that are no message
    │   ├── MessageTooLarge        a frame over its limit
    │   ├── ProtocolMismatch       two versions that cannot work together
    │   ├── InvalidParameter       a value the model cannot take
    │   ├── UnknownModel           no such model in the catalog
    │   ├── UnknownJob             no such job, or no longer kept
    │   └── NotPermitted           another user's job
    ├── DaemonError                the daemon cannot do it now
    │   ├── DaemonUnreachable      nobody answers at the endpoint
    │   ├── DaemonRunning          another daemon owns the endpoint
    │   ├── QueueFull              too many jobs wait
    │   ├── ShuttingDown           it drains and takes no new jobs
    │   ├── StoreUnavailable       it cannot write jobs down, so it takes none
    │   ├── StoreBroken            what it wrote down cannot be read; it does not start
    │   └── InvalidConfiguration   the configuration file says something it cannot mean
    ├── JobError                   the job was accepted and did not end in a result
    │   ├── ModelInvalid           the model's files contradict each other
    │   ├── LoadFailed             the model could not be made ready
    │   ├── GenerationFailed       the pipeline raised
    │   ├── OutOfMemory            the device's memory was not enough
    │   ├── MemoryNotReleased      an ended worker's device memory did not come back
    │   ├── WorkerDied             the worker's process ended under the job
    │   ├── WorkerUnresponsive     the worker's steps stopped; it was killed
    │   ├── Quarantined            two workers ended under the job; it is not run again
    │   ├── JobExpired             it did not start within the time it was given
    │   ├── JobInterrupted         the daemon itself ended under the job, again and again
    │   ├── JobCancelled           cancelled, by its owner or by a daemon that stops
    │   └── ResultDropped          it succeeded, but its pixels are no longer kept
    └── ResultTimeout              the caller's patience ended; the job goes on

A message says what was asked, what was found and what to do. Exit codes are those of sysexits.h
where one fits.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

__all__ = [
    "DaemonError",
    "DaemonRunning",
    "DaemonUnreachable",
    "ErrorBody",
    "GenerationFailed",
    "HermeticError",
    "InvalidConfiguration",
    "InvalidParameter",
    "JobCancelled",
    "JobError",
    "JobExpired",
    "JobInterrupted",
    "LoadFailed",
    "MalformedMessage",
    "MemoryNotReleased",
    "MessageTooLarge",
    "ModelInvalid",
    "NotPermitted",
    "OutOfMemory",
    "ProtocolMismatch",
    "Quarantined",
    "QueueFull",
    "RequestError",
    "ResultDropped",
    "ResultTimeout",
    "ShuttingDown",
    "StoreBroken",
    "StoreUnavailable",
    "UnknownJob",
    "UnknownModel",
    "WorkerDied",
    "WorkerUnresponsive",
    "error_classes",
    "from_body",
    "to_body",
]


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """An error as it crosses the wire."""

    code: str
    message: str
    retry_after: float | None = None
    """Seconds after which asking again may succeed; None where asking again cannot help."""
    report: str | None = None
    """A crash report: what was known of the worker when it ended, as text."""


class HermeticError(Exception):
    """The root: whoever catches this catches everything that Hermetic raises on purpose."""

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 70  # EX_SOFTWARE

    def __init__(
        self, message: str, *, retry_after: float | None = None, report: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.report = report


class RequestError(HermeticError):
    """The request cannot be right; nothing was changed by it."""

    code = "bad_request"
    exit_code = 64  # EX_USAGE


class MalformedMessage(RequestError):
    """Bytes that are no message of this protocol."""

    code = "malformed_message"
    exit_code = 76  # EX_PROTOCOL


class MessageTooLarge(RequestError):
    """A frame, a map or a string over the protocol's limits."""

    code = "message_too_large"
    exit_code = 76


class ProtocolMismatch(RequestError):
    """Client and daemon are of versions that cannot work together."""

    code = "protocol_mismatch"
    exit_code = 76


class InvalidParameter(RequestError):
    """A parameter that the model cannot take, such as a width that is no multiple of 8."""

    code = "invalid_parameter"
    exit_code = 65  # EX_DATAERR


class UnknownModel(RequestError):
    """No model of that name is in the catalog."""

    code = "unknown_model"
    exit_code = 66  # EX_NOINPUT


class UnknownJob(RequestError):
    """No job of that id is known, or it ended too long ago."""

    code = "unknown_job"
    exit_code = 66


class NotPermitted(RequestError):
    """Only a job's owner (the same uid) or root may do that."""

    code = "not_permitted"
    exit_code = 77  # EX_NOPERM


class DaemonError(HermeticError):
    """The daemon cannot do it now."""

    code = "daemon"
    exit_code = 69  # EX_UNAVAILABLE


class DaemonUnreachable(DaemonError):
    """Nobody answers at the endpoint."""

    code = "daemon_unreachable"


class DaemonRunning(DaemonError):
    """Another daemon owns the endpoint already."""

    code = "daemon_running"


class QueueFull(DaemonError):
    """Too many jobs wait; `retry_after` says when to ask again."""

    code = "queue_full"
    exit_code = 75  # EX_TEMPFAIL


class ShuttingDown(DaemonError):
    """The daemon drains: it finishes what it has and takes nothing new."""

    code = "shutting_down"
    exit_code = 75


class StoreUnavailable(DaemonError):
    """A job cannot be written down now, so it was not accepted; what was accepted goes on."""

    code = "store_unavailable"
    exit_code = 74  # EX_IOERR


class StoreBroken(DaemonError):
    """The journal of jobs cannot be read, so the daemon does not start on it."""

    code = "store_broken"
    exit_code = 74


class InvalidConfiguration(DaemonError):
    """The configuration cannot mean what it says."""

    code = "invalid_configuration"
    exit_code = 78  # EX_CONFIG


class JobError(HermeticError):
    """The job was accepted and did not end in a result."""

    code = "job"


class ModelInvalid(JobError):
    """The model's files contradict each other or their declared class."""

    code = "model_invalid"
    exit_code = 65


class LoadFailed(JobError):
    """The model could not be made ready."""

    code = "load_failed"


class GenerationFailed(JobError):
    """The pipeline raised; its worker was replaced."""

    code = "generation_failed"


class OutOfMemory(JobError):
    """The device's memory was not enough; the message says what was asked and what was free."""

    code = "out_of_memory"
    exit_code = 71  # EX_OSERR


class MemoryNotReleased(JobError):
    """An ended worker's device memory did not come back in time, so nothing was loaded."""

    code = "memory_not_released"
    exit_code = 71  # EX_OSERR


class WorkerDied(JobError):
    """The worker's process ended under the job; `report` says how."""

    code = "worker_died"


class WorkerUnresponsive(JobError):
    """The worker's steps stopped, so it was killed; `report` says how."""

    code = "worker_unresponsive"


class Quarantined(JobError):
    """Two workers ended under the job, so it is never run again; `report` has both ends."""

    code = "quarantined"


class JobExpired(JobError):
    """The job did not start within the `expires_in` that it was submitted with."""

    code = "expired"
    exit_code = 75


class JobInterrupted(JobError):
    """The daemon ended under the job too often, so it was not begun once more."""

    code = "interrupted"
    exit_code = 75


class JobCancelled(JobError):
    """The job was cancelled, by its owner or because the daemon stopped."""

    code = "cancelled"
    exit_code = 130  # what a shell reports of an interrupted command


class ResultDropped(JobError):
    """The job succeeded, but its pixels are no longer kept."""

    code = "result_dropped"
    exit_code = 66


class ResultTimeout(HermeticError, TimeoutError):
    """The result did not come within the caller's timeout; the job goes on."""

    code = "result_timeout"
    exit_code = 75


def error_classes() -> dict[str, type[HermeticError]]:
    """Every class of the tree by its wire code; two classes with one code are a bug."""
    found: dict[str, type[HermeticError]] = {}
    pending: list[type[HermeticError]] = [HermeticError]
    while pending:
        kind = pending.pop()
        pending.extend(kind.__subclasses__())
        if found.setdefault(kind.code, kind) is not kind:
            raise AssertionError(f"{kind.__name__} repeats the code {kind.code!r}")
    return found


_BY_CODE = error_classes()


MOST_WORDS = 4_000
MOST_REPORT = 60_000
"""Characters of a message and of a report: with four bytes each they fit into one header. What
quotes its input, or a library's own words, can be of any length."""


def to_body(error: HermeticError) -> ErrorBody:
    """The error as the wire carries it; words past all measure are cut off."""
    return ErrorBody(
        code=error.code,
        message=_shortened(error.message, MOST_WORDS),
        retry_after=error.retry_after,
        report=None if error.report is None else _shortened(error.report, MOST_REPORT),
    )


def _shortened(words: str, most: int) -> str:
    return words if len(words) <= most else f"{words[: most - 3]}..."


def from_body(body: ErrorBody) -> HermeticError:
    """The error to raise for one that came over the wire; a newer peer's code becomes the root."""
    kind = _BY_CODE.get(body.code, HermeticError)
    return kind(body.message, retry_after=body.retry_after, report=body.report)
