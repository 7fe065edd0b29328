"""What jobs are told that the dispatcher ends without a result. Words only."""

from __future__ import annotations

from collections.abc import Sequence

from hermetic_wire.errors import HermeticError, JobCancelled, JobExpired, Quarantined

__all__ = ["cancelled", "expired", "quarantined"]


def cancelled() -> JobCancelled:
    """Somebody wanted it to end."""
    return JobCancelled("The job was cancelled.")


def expired(job_id: str) -> JobExpired:
    """It waited for longer than it was meant to."""
    return JobExpired(
        f"Job {job_id} did not start within the time that it was given (expires_in), because other "
        "jobs were before it. Submit it again with more time, or when fewer jobs wait."
    )


def quarantined(job_id: str, deaths: Sequence[HermeticError]) -> Quarantined:
    """Workers have ended under it, one after the other: each end in words and with its report."""
    ends = " ".join(f"({number}) {death.message}" for number, death in enumerate(deaths, 1))
    reports = [
        f"Worker {number}: {death.report or death.message}"
        for number, death in enumerate(deaths, 1)
    ]
    return Quarantined(
        f"{len(deaths)} workers ended under job {job_id}, so it is not run again: {ends} "
        "If the job is not to blame, submit it under a new id.",
        report="\n\n".join(reports),
    )
