"""What the worker's loop asks of a pipeline, and what every pipeline may assume of a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from hermetic_wire.codec import Frame
from hermetic_wire.errors import InvalidParameter
from hermetic_wire.generation import Image, Output, TextToImage
from hermetic_wire.worker import Assign, ModelSpec

if TYPE_CHECKING:
    from hermetic_worker.standby import Standby

__all__ = [
    "OUTLINED",
    "Footprint",
    "OnProgress",
    "OnStep",
    "Pipeline",
    "Result",
    "Settings",
    "settle",
]

OUTLINED = "ready"
"""What `Pipeline.outline` says of a model that a forked worker can take over as it is."""

Value = TypeVar("Value")


class OnProgress(Protocol):
    """Called at every stage of a load; it may raise to end the load."""

    def __call__(self, stage: str, fraction: float) -> None:
        """`stage` begins; `fraction` of the whole load, 0 to 1, is done."""


class OnStep(Protocol):
    """Called after every denoising step; it raises to end the job, and must be let through."""

    def __call__(
        self,
        step: int,
        steps: int,
        timestep: float | None = None,
        show: Callable[[], tuple[Image, Frame]] | None = None,
    ) -> None:
        """Step 1 to `steps` is done; `timestep` is the noise schedule's. `show` draws how the
        first image looks by now, and is called only where somebody wants to see it."""


@dataclass(frozen=True)
class Footprint:
    """What a loaded model took."""

    memory: dict[str, int] = field(default_factory=dict)
    """Bytes: `resident`, `peak`, on a GPU also `device` and `device_peak`."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds by stage of the load."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the libraries that it stands on."""
    loaded_by: dict[str, str] = field(default_factory=dict)
    """By component: `skeleton`, or `from_pretrained` and why."""
    fingerprint: str = ""
    """Of all that decided whether the model passed its checks."""
    stale_template: bool = False
    """The files are not those that the outline was made of."""


class Result(NamedTuple):
    """A job's end: what the header says, and one raw frame per image."""

    output: Output
    frames: Sequence[Frame]


class Pipeline(Protocol):
    """One model of one architecture: loaded once, then run job by job.

    Nothing of a job may be left behind for the next one. Whatever is raised ends the process.
    """

    def outline(self, spec: ModelSpec, device: str) -> str:
        """In the template: build what needs neither a computation nor a device.

        `device` is a name, for the default dtype. OUTLINED, or why `load` has to do everything.
        """
        ...

    def load(
        self, assign: Assign, on_progress: OnProgress, standby: Standby | None = None
    ) -> Footprint:
        """Make the model ready and check that it is what it claims to be.

        `standby` is what this process made ready beforehand, on the same device. Raises
        ModelInvalid for files that contradict each other, LoadFailed for what is not their fault.
        """
        ...

    def run(self, task: TextToImage, on_step: OnStep) -> Result:
        """Do the job. Raises InvalidParameter for what the model cannot take."""
        ...


@dataclass(frozen=True)
class Settings:
    """The values of a task that the daemon always fills in."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    steps: int
    guidance: float
    seeds: tuple[int, ...]
    """One per image, or one for the batch."""


def settle(task: TextToImage) -> Settings:
    """The task's values, all there. Raises InvalidParameter where one is missing or senseless."""
    seeds = task.seeds
    if len(seeds) not in {1, task.count}:
        raise InvalidParameter(
            f"{task.count} images were asked for with {len(seeds)} seeds; give one seed per "
            "image, or one for the whole batch."
        )
    negatives = len(task.negative_prompts)
    if negatives not in {0, 1, len(task.prompts)}:
        raise InvalidParameter(
            f"{len(task.prompts)} prompts came with {negatives} negative prompts; give none, "
            "one for all, or one per prompt."
        )
    return Settings(
        width=_filled(task.width, "width"),
        height=_filled(task.height, "height"),
        steps=_filled(task.steps, "steps"),
        guidance=_filled(task.guidance, "guidance"),
        seeds=seeds,
    )


def _filled(value: Value | None, name: str) -> Value:
    if value is None:
        raise InvalidParameter(f"The task has no {name}; the daemon should have filled it in.")
    return value
