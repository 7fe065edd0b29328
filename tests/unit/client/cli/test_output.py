"""Units and tables."""

from __future__ import annotations

import pytest

from hermetic.cli.installed import Requirement, missing, requirements
from hermetic.cli.output import age, duration, size


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (None, "-"),
        (0, "-"),
        (512, "512 B"),
        (2048, "2.0 KiB"),
        (300 * 2**20, "300.0 MiB"),
        (3 * 2**30 // 2, "1.5 GiB"),
        (-(2**21), "-2.0 MiB"),
    ],
)
def test_size(count: int | None, said: str) -> None:
    assert size(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "-"),
        (0.0, "0 ms"),
        (0.0852, "85 ms"),
        (0.9996, "1.00 s"),
        (1.519, "1.52 s"),
        (185.0, "3 min 05 s"),
    ],
)
def test_duration(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-3, "0 s"),
        (12.9, "12 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
        (90000, "1 d 01 h"),
    ],
)
def test_age(seconds: float, said: str) -> None:
    assert age(seconds) == said


def test_requirements_are_read_by_extra() -> None:
    lines = [
        "msgspec>=0.19",
        "click>=8.1; extra == 'all'",
        "click>=8.1; extra == 'cli'",
        "no-such-package>=3; extra == 'daemon'",
    ]
    found = requirements(lines)
    assert [(one.name, one.least, one.extra) for one in found] == [
        ("msgspec", "0.19", ""),
        ("click", "8.1", "cli"),
        ("no-such-package", "3", "daemon"),
    ]
    assert [one.satisfied for one in found] == [True, True, False]


@pytest.mark.parametrize(
    ("found", "satisfied"),
    [("2.6", True), ("2.13.0+cpu", True), ("2.5.1", False), (None, False)],
)
def test_versions_are_compared_as_numbers(found: str | None, satisfied: bool) -> None:
    assert Requirement("torch", "2.6", "worker", found).satisfied is satisfied


def test_this_installation_has_what_the_command_line_needs() -> None:
    assert missing("cli") == []
