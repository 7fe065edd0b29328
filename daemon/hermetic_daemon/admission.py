"""Admits a job: checks its task against the model, fills in what the app left open, finds room.

Who may be refused is decided here, before anything is written or told.
"""

from __future__ import annotations

import math
import re
import secrets
from collections import Counter

import msgspec

from hermetic_wire.codec import MAX_HEADER_BYTES, MAX_RAW_BYTES
from hermetic_wire.errors import InvalidParameter, QueueFull
from hermetic_wire.generation import Parameter, Task, TextToImage
from hermetic_wire.messages import MAX_APP_NAME_BYTES, Submit

from .catalog import Model
from .config import DaemonSection
from .dispatcher import Dispatcher

__all__ = [
    "RETRY_SECONDS",
    "Room",
    "check_app_name",
    "check_job_id",
    "check_preview_seconds",
    "check_terms",
    "complete",
]

RETRY_SECONDS = 5.0
"""The hint in refusals that time heals, where nothing better is measured."""
MAX_IMAGES = 64
MAX_SIDE = 8192
MAX_STEPS = 1000
MAX_GUIDANCE = 100.0
MAX_SECONDS = 10 * 365 * 86400.0
MIN_PREVIEW_SECONDS = 0.01
MAX_TASK_BYTES = MAX_HEADER_BYTES - (64 << 10)
"""As msgpack, with nothing left open. What goes with it to the worker and to the app (64 images'
sizes and seeds, timings, the worker's versions) takes a tenth of what is left of a header."""
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Room:
    """How many more jobs may wait, in all and of one app. The dispatcher counts those that it has;
    those that are being written down and that it has not yet are counted here."""

    def __init__(self, config: DaemonSection, dispatcher: Dispatcher) -> None:
        self._config = config
        self._dispatcher = dispatcher
        self._coming = 0
        self._coming_of: Counter[str] = Counter()

    def require(self, share: str) -> None:
        """Raises QueueFull, which names the limit, where no other job of the app may wait."""
        waiting = self._dispatcher.waiting_count + self._coming
        if waiting >= self._config.queue_limit:
            raise QueueFull(
                f"{waiting} jobs wait already, as many as may (queue_limit). Submit again later.",
                retry_after=RETRY_SECONDS,
            )
        own = self._dispatcher.count_of(share) + self._coming_of[share]
        if own >= self._config.app_queue_limit:
            raise QueueFull(
                f"{own} jobs of this app wait already, as many as one app may have "
                "(app_queue_limit). Submit again when some have ended.",
                retry_after=RETRY_SECONDS,
            )

    def take(self, share: str) -> None:
        """A job of the app is on its way."""
        self._coming += 1
        self._coming_of[share] += 1

    def free(self, share: str) -> None:
        """It has come to the dispatcher, or never will."""
        self._coming -= 1
        self._coming_of[share] -= 1
        if not self._coming_of[share]:
            del self._coming_of[share]


def check_app_name(name: str) -> None:
    """Raises InvalidParameter unless the name is short enough to stand in everybody's lists."""
    size = len(name.encode())
    if size > MAX_APP_NAME_BYTES:
        raise InvalidParameter(
            f"The app's name {name[:40] + '...'!r} has {size:,} bytes; at most "
            f"{MAX_APP_NAME_BYTES} are allowed. Say hello under a shorter one."
        )


def check_job_id(job_id: str) -> None:
    """Raises InvalidParameter unless the id is one that can name a file."""
    if not _JOB_ID.fullmatch(job_id):
        raise InvalidParameter(
            f"The job id {job_id[:80]!r} is not 1 to 64 characters of A-Z a-z 0-9 _ -."
        )


def check_terms(request: Submit) -> None:
    """What is asked of the daemon rather than of the model. Raises InvalidParameter."""
    if request.expires_in is not None:
        _check_range("expires_in", request.expires_in, 0.0, MAX_SECONDS)
    check_preview_seconds(request.preview_seconds)
    if request.keep_alive is not None and math.isnan(request.keep_alive):
        raise InvalidParameter("keep_alive is not a number; give seconds, or -1 for ever.")


def check_preview_seconds(seconds: float | None) -> None:
    """Raises InvalidParameter unless previews can come at that pace; None asks for none."""
    if seconds is not None:
        _check_range("preview_seconds", seconds, MIN_PREVIEW_SECONDS, MAX_SECONDS)


def complete(task: Task, model: Model) -> Task:
    """The task with nothing left open. Raises InvalidParameter, which names the parameter."""
    if not isinstance(task, TextToImage):
        return task
    _check_prompts(task)
    filled = msgspec.structs.replace(
        task,
        width=_filled("width", task.width, model),
        height=_filled("height", task.height, model),
        steps=_filled("steps", task.steps, model),
        guidance=_filled("guidance", task.guidance, model),
        seeds=task.seeds or tuple(secrets.randbelow(2**32) for _ in range(task.count)),
    )
    _check_size(filled, model)
    _check_range("steps", filled.steps, 1, MAX_STEPS)
    _check_range("guidance", filled.guidance, 0.0, MAX_GUIDANCE)
    _check_seeds(filled)
    _check_extra(filled.extra, model)
    _check_bytes(filled)
    return filled


def _filled(name: str, value: float | None, model: Model) -> float | Parameter:
    return model.defaults[name] if value is None else value


def _check_prompts(task: TextToImage) -> None:
    if not task.prompts:
        raise InvalidParameter("prompts is empty; give at least one.")
    _check_range("images_per_prompt", task.images_per_prompt, 1, MAX_IMAGES)
    if task.count > MAX_IMAGES:
        raise InvalidParameter(
            f"{len(task.prompts)} prompts x {task.images_per_prompt} images are {task.count} "
            f"images; one job yields at most {MAX_IMAGES}. Submit several jobs."
        )
    if len(task.negative_prompts) not in (0, 1, len(task.prompts)):
        raise InvalidParameter(
            f"negative_prompts has {len(task.negative_prompts)} entries; give none, one, or one "
            f"for each of the {len(task.prompts)} prompts."
        )


def _check_size(task: TextToImage, model: Model) -> None:
    multiple = model.architecture.size_multiple
    for name, value in (("width", task.width), ("height", task.height)):
        _check_range(name, value, multiple, MAX_SIDE)
        if value is not None and value % multiple:
            raise InvalidParameter(
                f"{name} is {value}; model {model.spec.name!r} ({model.architecture.name}) needs a "
                f"multiple of {multiple}, such as {value // multiple * multiple or multiple}."
            )
    total = task.count * (task.width or 0) * (task.height or 0) * 3
    if total > MAX_RAW_BYTES:
        raise InvalidParameter(
            f"{task.count} images of {task.width} x {task.height} are {total:,} bytes; one job "
            f"yields at most {MAX_RAW_BYTES:,}. Ask for fewer or smaller ones."
        )


def _check_range(name: str, value: float | None, low: float, high: float) -> None:
    if value is None or not math.isfinite(value) or not low <= value <= high:
        raise InvalidParameter(f"{name} is {value}; it must be between {low} and {high}.")


def _check_seeds(task: TextToImage) -> None:
    if len(task.seeds) not in (1, task.count):
        raise InvalidParameter(
            f"seeds has {len(task.seeds)} entries for {task.count} images; give none, one for the "
            "whole batch, or one per image."
        )
    for seed in task.seeds:
        if not 0 <= seed < 2**64:
            raise InvalidParameter(f"The seed {seed} is not between 0 and 2**64 - 1.")


def _check_extra(extra: dict[str, Parameter], model: Model) -> None:
    allowed = model.architecture.extra
    for name, value in extra.items():
        kind = allowed.get(name)
        if kind is None:
            known = ", ".join(sorted(allowed)) or "none"
            raise InvalidParameter(
                f"{model.architecture.name} has no parameter {name!r}; those it has besides the "
                f"common ones: {known}."
            )
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or isinstance(value, bool) is not (kind is bool):
            raise InvalidParameter(f"{name} is {value!r}; it must be of type {kind.__name__}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidParameter(f"{name} is {value}; it must be finite.")


def _check_bytes(task: TextToImage) -> None:
    """A job that was accepted and that no message can hold could neither be run nor be ended."""
    size = len(msgspec.msgpack.encode(task))
    if size > MAX_TASK_BYTES:
        raise InvalidParameter(
            f"The task has {size:,} bytes with everything filled in; at most {MAX_TASK_BYTES:,} "
            "are allowed. Shorten its prompts, or submit several jobs."
        )
