"""Daemon and worker: the whole life of a worker in one file.

    worker  Hello          I am epoch E, born with token T
    daemon  Prepare        only to a standby: your device, no model yet
    worker  Prepared       or its death
    daemon  Assign         your model, your device
    worker  Loading...     how far the load has come
    worker  Ready          or LoadFailed, after which it is killed
    daemon  Run            one job at a time
    worker  Step...        not more than one in 50 ms; each is the heartbeat too
    worker  Done           or Failed, or Cancelled: exactly one per Run
    daemon  Quit           end in order; the kill ladder follows whoever does not

A worker that sent Failed or LoadFailed waits to be ended: a death is noticed before its last words.

Every message of a worker carries its epoch: what an older epoch says is dropped.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from . import PROTOCOL
from .codec import Codec
from .errors import ErrorBody
from .generation import Image, Output, Parameter, Task

__all__ = [
    "Assign",
    "Cancel",
    "Cancelled",
    "Done",
    "Failed",
    "FromWorker",
    "Hello",
    "LoadFailed",
    "Loading",
    "ModelSpec",
    "Prepare",
    "Prepared",
    "Quit",
    "Ready",
    "Run",
    "Step",
    "ToWorker",
    "from_worker",
    "to_worker",
]


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    v: int = PROTOCOL


class _FromWorker(_Message, frozen=True, kw_only=True):
    epoch: int


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that a worker is told of its model."""

    name: str
    architecture: str
    path: str | None = None
    pipeline: str | None = None
    """The diffusers class that the folder must turn out to be."""
    dtype: str | None = None
    """`float32`, `float16` or `bfloat16`; None is the device's own default."""
    options: dict[str, Parameter] = {}
    """From the configuration, for the pipeline of that architecture."""


# Worker -> daemon.


class Hello(_FromWorker, frozen=True, kw_only=True, tag="hello"):
    """The first message; proves by the token that it is the process the daemon started."""

    token: str
    pid: int
    version: str
    born: float = 0.0
    """Its first instruction, in seconds of CLOCK_MONOTONIC, which all processes share."""


class Prepared(_FromWorker, frozen=True, kw_only=True, tag="prepared"):
    """A standby's device is at hand: it can be assigned a model at any time."""

    timings: dict[str, float] = {}
    """Seconds by stage of the preparation."""


class Loading(_FromWorker, frozen=True, kw_only=True, tag="loading"):
    """Progress of the load; resets the load deadline."""

    stage: str
    fraction: float
    """Of the whole load, 0 to 1."""


class Ready(_FromWorker, frozen=True, kw_only=True, tag="ready"):
    """The model answers: it has passed its checks and one smoke step."""

    device: str
    memory: dict[str, int]
    """Bytes: `resident`, `peak`, on a GPU also `device` and `device_peak`."""
    timings: dict[str, float]
    """Seconds by stage of the load."""
    versions: dict[str, str] = {}
    loaded_by: dict[str, str] = {}
    """By component: `skeleton`, or `from_pretrained` and why."""
    fingerprint: str = ""
    """Of the files and all else that the checks depended on; see Assign.proven."""
    stale_template: bool = False
    """The files are not those that the template has seen: it should be made anew."""


class LoadFailed(_FromWorker, frozen=True, kw_only=True, tag="load_failed"):
    """The model cannot be made ready in this process."""

    error: ErrorBody


class Step(_FromWorker, frozen=True, kw_only=True, tag="step"):
    """One denoising step of the job is done."""

    job_id: str
    step: int
    steps: int
    timestep: float | None = None
    preview: Image | None = None
    """What the one raw frame holds, where there is one: the image as it looks by now."""


class Done(_FromWorker, frozen=True, kw_only=True, tag="done"):
    """The job's end: pixels in the raw frames."""

    job_id: str
    output: Output


class Failed(_FromWorker, frozen=True, kw_only=True, tag="failed"):
    """The job's end: the pipeline raised. The worker is not used again."""

    job_id: str
    error: ErrorBody


class Cancelled(_FromWorker, frozen=True, kw_only=True, tag="cancelled"):
    """The job's end: it stopped at a step because it was told to."""

    job_id: str


# Daemon -> worker.


class Prepare(_Message, frozen=True, kw_only=True, tag="prepare"):
    """Make the device ready for whatever model comes; it has none yet."""

    device: str


class Assign(_Message, frozen=True, kw_only=True, tag="assign"):
    """The only model this process will ever hold."""

    model: ModelSpec
    device: str
    proven: str = ""
    """The fingerprint with which this model became ready before: what has not changed since
    needs no second smoke step."""
    smoke: Literal["once", "always", "never"] = "once"
    read_ahead: bool = False
    """Have all weights in memory before Ready."""
    low_memory: bool = False
    """Hold the model in the way that needs the least device memory, however slow."""


class Run(_Message, frozen=True, kw_only=True, tag="run"):
    """One job, complete: the daemon has filled in everything the app left open."""

    job_id: str
    task: Task
    preview_seconds: float | None = None
    """Show the unfinished image with a step, at most once in so many seconds."""


class Cancel(_Message, frozen=True, kw_only=True, tag="cancel"):
    """Stop the job at its next step."""

    job_id: str


class Quit(_Message, frozen=True, kw_only=True, tag="quit"):
    """End in order: no job is running."""


FromWorker: TypeAlias = (
    Hello | Prepared | Loading | Ready | LoadFailed | Step | Done | Failed | Cancelled
)
ToWorker: TypeAlias = Prepare | Assign | Run | Cancel | Quit

from_worker: Codec[FromWorker] = Codec(FromWorker, "message of a worker")
to_worker: Codec[ToWorker] = Codec(ToWorker, "message to a worker")
