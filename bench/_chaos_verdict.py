"""What the journals of all apps come to: lost, duplicated, crossed, and whether it grew. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from _chaos_journal import End, History
from _chaos_plan import PlannedJob
from _proc import Census
from _soak import GROWTH_MIB, Finding, Findings, quartiles

__all__ = ["Told", "complaints", "growth", "verdict"]

HONEST = ("quarantined", "interrupted")
"""Ends that a job may have when workers and daemons are killed under it by chance."""
FORGOTTEN = ("unknown_job", "result_dropped")
"""What is told of a job that is lost; no end of it."""
ENOUGH = 80
"""Samples of one daemon, for quarters to say anything."""
SPARE_DESCRIPTORS = 2
"""What a worker that comes or an app that reconnects may have open at the moment of a look."""


@dataclass(frozen=True)
class Told:
    """One job, and all that was told of it."""

    plan: PlannedJob
    history: History
    ended: int
    """How often its end was announced to one who watched all jobs."""

    @property
    def ends(self) -> Sequence[End]:
        """What any app was told, whenever it asked."""
        return [*self.history.ends, *self.history.again]


def verdict(jobs: Iterable[Told]) -> Findings:
    """By the figure's name; one that does not hold ends in an exit code of 1."""
    asked = [job for job in jobs if job.history.asked]
    accepted = [job for job in asked if job.history.accepted]
    lost = [job for job in accepted if _is_lost(job)]
    states = Counter(_end_name(job) for job in accepted if job not in lost)
    return {
        "jobs_submitted": Finding(len(asked), "jobs"),
        "jobs_acknowledged": Finding(len(accepted), "jobs"),
        **{f"ended/{name}": Finding(number, "jobs") for name, number in sorted(states.items())},
        "ends_asked_again": Finding(sum(len(job.history.again) for job in accepted), "times"),
        "lost": _none(lost),
        "duplicated": _none(filter(_is_duplicated, asked)),
        "crossed": _none(job for job in asked if not all(end.right for end in job.ends)),
        "unexplained": _none(job for job in accepted if job not in lost and _is_unexplained(job)),
    }


def complaints(jobs: Iterable[Told], limit: int = 10) -> list[str]:
    """Words on the first of what is wrong."""
    found = []
    for job in jobs:
        history = job.history
        wrong = {
            "lost": history.accepted and _is_lost(job),
            "duplicated": _is_duplicated(job),
            "crossed": not all(end.right for end in job.ends),
            "unexplained": history.accepted and not _is_lost(job) and _is_unexplained(job),
        }
        names = [name for name, is_so in wrong.items() if is_so]
        if names:
            told = "; ".join(f"{end.state} {end.code} {end.message}" for end in job.ends)
            found.append(f"{', '.join(names)}: {job.plan} ended {job.ended} times: {told}")
    return found[:limit]


def growth(samples: Sequence[Census]) -> Findings:
    """Of one daemon's life; its first quarter, in which buffers and caches fill, is left out.

    Nothing where it did not live long enough.
    """
    if len(samples) < ENOUGH:
        return {}
    settled = samples[len(samples) // 4 :]
    found: Findings = {}
    limits: Mapping[str, tuple[str, float]] = {
        "descriptors": ("more", SPARE_DESCRIPTORS),
        "threads": ("more", 0),
        "resident_mib": ("MiB", GROWTH_MIB),
    }
    for name, (unit, limit) in limits.items():
        first, last = (median(getattr(one, name) for one in part) for part in quartiles(settled))
        found[f"daemon_{name}_growth"] = Finding(last - first, unit, last - first <= limit)
    found["daemon_resident_mib"] = Finding(settled[-1].resident_mib, "MiB")
    return found


def _none(jobs: Iterable[Told]) -> Finding:
    number = len(list(jobs))
    return Finding(number, "jobs", number == 0)


def _is_lost(job: Told) -> bool:
    """It was the daemon's, and there is nobody who knows its end, or not any more."""
    return not job.history.ends or any(end.code in FORGOTTEN for end in job.ends)


def _is_duplicated(job: Told) -> bool:
    """Two ends were told, or one was announced twice."""
    known = [end for end in job.ends if end.code not in FORGOTTEN]
    different = any(not end.same(known[0]) for end in known[1:])
    return different or job.ended > 1


def _is_unexplained(job: Told) -> bool:
    """It did not succeed, and nothing that was done to it says why."""
    end = job.ends[0]
    if end.state == "cancelled":
        return not (job.history.cancelled or job.plan.on_disconnect == "cancel")
    return end.state != "succeeded" and end.code not in HONEST


def _end_name(job: Told) -> str:
    end = job.ends[0]
    return end.state if end.state in ("succeeded", "cancelled") else end.code
