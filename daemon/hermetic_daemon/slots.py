"""The workers that hold a model on the device, and who has to go for another. Pure: no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from .lines import WaitingJob

__all__ = ["Slot", "Slots"]


@dataclass
class Slot:
    """A worker with a model that is to keep it. One that is told to end has none any more."""

    epoch: int
    model: str
    low_memory: bool = False
    cause: WaitingJob | None = None
    """The job that it was started for, until that runs."""
    phase: Literal["loading", "ready", "running"] = "loading"
    job: WaitingJob | None = None
    """The job that runs on it."""
    cancelling: bool = False
    charged: float = 0.0
    """Seconds that the job's line was charged when it began."""
    load_seconds: float = 0.0
    """What its load took, until somebody has been charged for it."""
    since: float = 0.0
    """When its present phase began."""
    keep_alive: float | None = None
    """Seconds, as its last job wanted; negative is for ever, None as configured."""
    tickets: list[int | None] = field(default_factory=list)
    """Who waits for its end."""


class Slots:
    """The slots of one device: at most `residency`, and more than one only where memory allows.

    `footprint` tells the bytes that a model takes on the device, None where that is not known.
    Without a `capacity_bytes` nobody's memory is counted.
    """

    def __init__(
        self,
        residency: int,
        capacity_bytes: int | None,
        footprint: Callable[[str], int | None],
    ) -> None:
        self._residency = residency
        self._capacity = capacity_bytes
        self._footprint = footprint
        self._slots: dict[int, Slot] = {}
        self._solitary: set[str] = set()

    def __iter__(self) -> Iterator[Slot]:
        return iter(tuple(self._slots.values()))

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, epoch: int) -> bool:
        return epoch in self._slots

    def __getitem__(self, epoch: int) -> Slot:
        return self._slots[epoch]

    def get(self, epoch: int) -> Slot | None:
        """The slot of that epoch."""
        return self._slots.get(epoch)

    def of(self, model: str) -> Slot | None:
        """The slot that has the model."""
        return next((slot for slot in self._slots.values() if slot.model == model), None)

    def add(self, slot: Slot) -> None:
        """A worker is being started."""
        self._slots[slot.epoch] = slot

    def remove(self, slot: Slot) -> None:
        """It is to keep its model no longer, or is gone."""
        del self._slots[slot.epoch]

    def in_phase(self, phase: Literal["loading", "running"]) -> Slot | None:
        """The only one that may be in such a phase."""
        return next((slot for slot in self._slots.values() if slot.phase == phase), None)

    def loaded(self) -> list[Slot]:
        """Those that could run a job at once."""
        return [slot for slot in self._slots.values() if slot.phase == "ready"]

    def is_solitary(self, model: str) -> bool:
        """Whether it is never put beside another."""
        return model in self._solitary

    def isolate(self, model: str) -> None:
        """From now on it is never put beside another."""
        self._solitary.add(model)

    def in_the_way_of(self, model: str, pinned: Callable[[str], bool]) -> list[Slot]:
        """Who has to go before the model can be loaded: the pinned last, of the others those
        that have been idle for longest."""
        leaving = [slot for slot in self if slot.phase == "loading"]  # one at a time
        staying = sorted(self.loaded(), key=lambda slot: (not pinned(slot.model), -slot.since))
        while staying and not self._fit([*(slot.model for slot in staying), model]):
            leaving.append(staying.pop())
        return leaving

    def _fit(self, models: list[str]) -> bool:
        if len(models) > self._residency or not self._solitary.isdisjoint(models):
            return False
        if self._capacity is None:
            return True
        sizes = [self._footprint(model) for model in models]
        return None not in sizes and sum(size or 0 for size in sizes) <= self._capacity
