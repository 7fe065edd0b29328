"""Who submits what, and which accidents come when: all of it from one seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from hermetic_wire.messages import OnDisconnect

__all__ = ["DEMO", "ECHO", "CancelAt", "Fault", "Kind", "PlannedJob", "Scale", "faults", "jobs"]

ECHO = ("left", "right")
"""Two models without files: a switch between them costs a new interpreter and little else."""
DEMO = ("demo-sd15", "demo-sdxl")
DEMO_PROMPTS = ("a red circle on a white background", "a blue star on a black background")
DEMO_SEEDS = (7, 8)
"""Few pictures, so that each can be drawn once beforehand to compare with."""
DEMO_STEPS = 2
STEP_SECONDS = (0.0, 0.0, 0.002, 0.01)
"""Of an echo's step: some jobs are over at once, others can be hit while they run."""
SIDES = (8, 16, 64)
"""Pixels: of several sizes, so that a crossed result is not even of the right length."""
KEPT = 0.8
"""The share of jobs that go on without their app; the others are cancelled with it."""
QUIET = 0.6
"""No daemon is killed after this share of the jobs: the last one lives long enough to be seen to
grow, if it grows."""

Kind: TypeAlias = Literal["worker", "daemon", "app"]
CancelAt: TypeAlias = Literal["accepted", "running", "step"]


class PlannedJob(msgspec.Struct, frozen=True, kw_only=True):
    """One job of one app, and what its app does to it."""

    id: str
    model: str
    prompt: str
    seed: int
    steps: int
    side: int | None
    """Pixels of width and height; None is the model's own."""
    step_seconds: float | None
    on_disconnect: OnDisconnect
    cancel_at: CancelAt | None = None
    """It is cancelled as soon as its app hears this of it."""
    leave: bool = False
    """Its app disconnects once it is accepted, and comes back."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """SIGKILL for a worker, the daemon or an app, once so many jobs have ended."""

    after: int
    kind: Kind
    pick: float
    """Which of several: 0 to 1."""


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How much of everything there is."""

    jobs: int
    apps: int
    demo_share: float
    """Of the jobs."""
    workers: int
    """Workers killed."""
    daemons: int
    killed_apps: int
    leaves: int
    """Disconnects of apps that live on."""
    cancels: int


def jobs(seed: int, scale: Scale) -> list[list[PlannedJob]]:
    """Of each app, in the order in which it submits them. Each app has all that come its turn."""
    rng = random.Random(f"jobs/{seed}")
    numbers = range(scale.jobs)
    cancelled = set(rng.sample(numbers, min(scale.cancels, scale.jobs)))
    leaving = set(rng.sample(numbers, min(scale.leaves, scale.jobs)))
    planned = [
        _job(rng, scale, cancelled=number in cancelled, leaving=number in leaving)
        for number in numbers
    ]
    return [planned[app :: scale.apps] for app in range(scale.apps)]


def _job(rng: random.Random, scale: Scale, *, cancelled: bool, leaving: bool) -> PlannedJob:
    """The same draws whatever kind of job it becomes."""
    job_id = f"{rng.getrandbits(128):032x}"
    demo = rng.random() < scale.demo_share
    cancel_at: Sequence[CancelAt] = ("accepted", "running", "step")
    at = rng.choice(cancel_at)
    return PlannedJob(
        id=job_id,
        model=rng.choice(DEMO if demo else ECHO),
        prompt=rng.choice(DEMO_PROMPTS) if demo else f"picture of {job_id}",
        seed=rng.choice(DEMO_SEEDS) if demo else rng.getrandbits(32),
        steps=DEMO_STEPS if demo else rng.randint(1, 4),
        side=None if demo else rng.choice(SIDES),
        step_seconds=None if demo else rng.choice(STEP_SECONDS),
        on_disconnect="keep" if rng.random() < KEPT else "cancel",
        cancel_at=at if cancelled else None,
        leave=leaving,
    )


def faults(seed: int, scale: Scale) -> list[Fault]:
    """In the order in which they come."""
    rng = random.Random(f"faults/{seed}")
    ends: Mapping[Kind, tuple[int, float]] = {
        "worker": (scale.workers, 0.95),
        "daemon": (scale.daemons, QUIET),
        "app": (scale.killed_apps, 0.95),
    }
    found = [
        Fault(after=int(rng.uniform(0.02, end) * scale.jobs), kind=kind, pick=rng.random())
        for kind, (count, end) in ends.items()
        for _ in range(count)
    ]
    return sorted(found, key=lambda fault: fault.after)
