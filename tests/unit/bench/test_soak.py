"""What counts as left behind by many switches, and what is only the noise of a moment."""

from __future__ import annotations

from dataclasses import replace

import pytest

from _soak import GROWTH_MIB, Sample, findings, quartiles

QUIET = Sample(
    switch_s=0.1,
    daemon_descriptors=20,
    daemon_threads=3,
    daemon_mib=30.0,
    template_descriptors=5,
    template_threads=1,
    template_mib=300.0,
    zombies=frozenset(),
)


def broken(samples: list[Sample]) -> list[str]:
    return [name for name, finding in findings(samples).items() if not finding.holds]


def test_nothing_is_found_where_nothing_grew() -> None:
    assert broken([QUIET] * 8) == []
    assert broken([QUIET]) == []


@pytest.mark.parametrize(
    "name", ["daemon_descriptors", "daemon_threads", "template_descriptors", "template_threads"]
)
def test_one_more_at_the_end_is_growth(name: str) -> None:
    more = replace(QUIET, **{name: getattr(QUIET, name) + 1})
    assert broken([QUIET, QUIET, more]) == [f"{name}_growth"]
    assert broken([QUIET, more, QUIET]) == [], "open for a while, closed again"


def test_a_zombie_of_a_moment_is_none_and_one_that_stays_is() -> None:
    dead = replace(QUIET, zombies=frozenset({(7, 1.0)}))
    reused = replace(QUIET, zombies=frozenset({(7, 2.0)}))
    assert broken([dead, QUIET]) == []
    assert broken([dead, reused, QUIET]) == [], "the same number is another process"
    assert broken([dead, dead, QUIET]) == ["zombies"]
    assert broken([QUIET, dead]) == ["zombies"], "nobody looks again after the end"


def test_memory_that_grows_is_found_and_one_peak_is_not() -> None:
    grown = replace(QUIET, daemon_mib=QUIET.daemon_mib + GROWTH_MIB + 1)
    assert broken([QUIET] * 4 + [grown] * 4) == ["daemon_last_quartile_mib"]
    assert broken([QUIET] * 6 + [grown] + [QUIET] * 5) == []


def test_quartiles_are_the_first_and_the_last_quarter() -> None:
    assert quartiles(range(8)) == (range(2), range(6, 8))
    assert quartiles([5]) == ([5], [5])
