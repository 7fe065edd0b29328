"""How long jobs and loads take and what memory models need, as measured. Pure: no clock."""

from __future__ import annotations

import math

__all__ = ["Averages"]

WEIGHT = 0.25
"""Of the newest measurement in a moving average."""
UNKNOWN_SECONDS = 1.0
"""What a job is taken to need while none of any model has been measured."""
SWITCH_SHARE = 0.05
"""Of the device's time that switches may cost: as many jobs in a row as it takes to stay below."""
MOST_PASSES = 16
UNMEASURED_PASSES = 4


class Averages:
    """Moving averages by model."""

    def __init__(self) -> None:
        self._job_seconds: dict[str, float] = {}
        self._load_seconds: dict[str, float] = {}
        self._footprints: dict[str, int] = {}

    def teach(
        self,
        model: str,
        job_seconds: float | None,
        load_seconds: float | None,
        footprint: int | None,
    ) -> None:
        """What is known from before; None is nothing."""
        for known, value in (
            (self._job_seconds, job_seconds),
            (self._load_seconds, load_seconds),
        ):
            if value is not None:
                known[model] = value
        if footprint:
            self._footprints[model] = footprint

    def learnt(self, model: str) -> tuple[float | None, float | None, int | None]:
        """Seconds of a job, seconds of a load, bytes on the device; None where not measured."""
        return (
            self._job_seconds.get(model),
            self._load_seconds.get(model),
            self._footprints.get(model),
        )

    def ran(self, model: str, seconds: float) -> None:
        """A job took so long, from Run to its successful end."""
        _mix(self._job_seconds, model, seconds)

    def loaded(self, model: str, seconds: float, footprint: int) -> None:
        """It took so long from StartWorker to Ready; a `footprint` of 0 bytes was not measured."""
        _mix(self._load_seconds, model, seconds)
        if footprint:
            self._footprints[model] = footprint

    def needs_at_least(self, model: str, footprint: int) -> None:
        """It was not enough for the model to have less."""
        if footprint:
            self._footprints[model] = max(footprint, self._footprints.get(model, 0))

    def job_seconds(self, model: str) -> float:
        """What a job of the model is expected to take: as the others do, where it is new."""
        known = self._job_seconds
        if model in known:
            return known[model]
        return sum(known.values()) / len(known) if known else UNKNOWN_SECONDS

    def load_seconds(self, model: str) -> float:
        """The same for its load; 0 while no load of any model has been measured."""
        known = self._load_seconds
        if model in known:
            return known[model]
        return sum(known.values()) / len(known) if known else 0.0

    def footprint(self, model: str) -> int | None:
        """Bytes on the device; None where it was never measured."""
        return self._footprints.get(model)

    def passes(self, model: str) -> int:
        """How often a job of the model may be overtaken: K of docs/dispatching.md.

        So many jobs of its own length that the switch to it is `SWITCH_SHARE` of their time, in
        the bounds of 1 and 16.
        """
        switch, job = self._load_seconds.get(model), self._job_seconds.get(model)
        if switch is None or job is None:
            return UNMEASURED_PASSES
        if switch >= MOST_PASSES * SWITCH_SHARE * job:  # also where a job takes no time at all
            return MOST_PASSES
        return max(1, math.ceil(switch / (SWITCH_SHARE * job)))


def _mix(known: dict[str, float], model: str, seconds: float) -> None:
    before = known.get(model, seconds)
    known[model] = before + WEIGHT * (seconds - before)
