"""What counts as lost, as duplicated, as crossed and as growth, and what is an honest end."""

from __future__ import annotations

from typing import Any

import pytest

from _chaos_journal import End, History
from _chaos_plan import PlannedJob
from _chaos_verdict import ENOUGH, Told, complaints, growth, verdict
from _proc import Census
from _soak import GROWTH_MIB

DONE = End(state="succeeded", digest="d")
CANCELLED = End(state="cancelled", code="cancelled")
QUARANTINED = End(state="failed", code="quarantined")
INTERRUPTED = End(state="interrupted", code="interrupted")
UNKNOWN = End(state="unknown", code="unknown_job")


def told(*ends: End, again: tuple[End, ...] = (), ended: int = 1, **facts: Any) -> Told:
    """A job that was accepted and whose end was told so."""
    plan = PlannedJob(
        id="a",
        model="left",
        prompt="p",
        seed=1,
        steps=1,
        side=8,
        step_seconds=0.0,
        on_disconnect=facts.pop("on_disconnect", "keep"),
    )
    history = History(
        **({"asked": True, "accepted": True} | facts), ends=list(ends), again=list(again)
    )
    return Told(plan, history, ended)


def broken(job: Told) -> list[str]:
    return [name for name, finding in verdict([job]).items() if not finding.holds]


@pytest.mark.parametrize(
    "job",
    [
        told(DONE),
        told(DONE, again=(DONE,)),
        told(DONE, DONE, ended=0),
        told(QUARANTINED),
        told(INTERRUPTED),
        told(CANCELLED, cancelled=True),
        told(CANCELLED, on_disconnect="cancel"),
        told(asked=True, accepted=False),
    ],
)
def test_an_end_that_nobody_has_to_explain(job: Told) -> None:
    assert broken(job) == []
    assert complaints([job]) == []


@pytest.mark.parametrize(
    ("job", "name"),
    [
        (told(), "lost"),
        (told(UNKNOWN), "lost"),
        (told(DONE, again=(UNKNOWN,)), "lost"),
        (told(DONE, again=(CANCELLED,)), "duplicated"),
        (told(DONE, again=(End(state="succeeded", digest="e"),)), "duplicated"),
        (told(DONE, ended=2), "duplicated"),
        (told(End(state="succeeded", digest="d", right=False)), "crossed"),
        (told(DONE, again=(End(state="succeeded", digest="d", right=False),)), "crossed"),
        (told(CANCELLED), "unexplained"),
        (told(End(state="failed", code="worker_died")), "unexplained"),
    ],
)
def test_what_must_not_be(job: Told, name: str) -> None:
    assert broken(job) == [name]
    (words,) = complaints([job])
    assert words.startswith(name)


def test_ends_are_counted_by_their_kind() -> None:
    found = verdict([told(DONE), told(DONE), told(QUARANTINED), told()])
    assert found["jobs_acknowledged"].value == 4
    assert found["ended/succeeded"].value == 2
    assert found["ended/quarantined"].value == 1
    assert found["lost"].value == 1


QUIET = Census(descriptors=20, threads=3, resident_mib=40.0)


def grown(name: str, by: float) -> list[str]:
    """What is found where one figure is larger in the last half of a life."""
    facts = {"descriptors": 20, "threads": 3, "resident_mib": 40.0}
    more = Census(**(facts | {name: facts[name] + by}))  # type: ignore[arg-type]
    found = growth([QUIET] * ENOUGH + [more] * ENOUGH)
    return [figure for figure, finding in found.items() if not finding.holds]


def test_a_daemon_that_stays_as_it_is_has_not_grown() -> None:
    assert all(finding.holds for finding in growth([QUIET] * ENOUGH).values())


def test_a_daemon_that_grows_is_found() -> None:
    assert grown("descriptors", 3) == ["daemon_descriptors_growth"]
    assert grown("threads", 1) == ["daemon_threads_growth"]
    assert grown("resident_mib", GROWTH_MIB + 1) == ["daemon_resident_mib_growth"]


def test_what_fills_at_the_start_is_no_growth() -> None:
    small = Census(descriptors=5, threads=1, resident_mib=10.0)
    found = growth([small] * (ENOUGH // 4) + [QUIET] * ENOUGH)
    assert all(finding.holds for finding in found.values())


def test_of_a_short_life_nothing_is_said() -> None:
    assert growth([QUIET] * (ENOUGH - 1)) == {}
