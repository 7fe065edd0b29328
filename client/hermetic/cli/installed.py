"""Which packages this installation asks for, and which of them are here. Imports none of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata

__all__ = ["Requirement", "missing", "requirements"]

_LINE = re.compile(
    r"(?P<name>[\w.-]+)(?:>=(?P<least>[\d.]+))?(?:\s*;.*extra\s*==\s*['\"](?P<extra>\w+)['\"])?"
)
_COMBINED = "all"


@dataclass(frozen=True)
class Requirement:
    """One package that Hermetic, or an extra of it, needs."""

    name: str
    least: str
    """The least version that will do, or nothing."""
    extra: str
    """The extra that asks for it; nothing for the base."""
    found: str | None
    """The installed version."""

    @property
    def satisfied(self) -> bool:
        """Whether it is here and new enough."""
        return self.found is not None and _numbers(self.found) >= _numbers(self.least)


def requirements(lines: list[str] | None = None) -> list[Requirement]:
    """All requirements of the installed distribution, or of `lines` in the same form."""
    if lines is None:
        lines = metadata.requires("hermetic") or []
    return [
        Requirement(
            match["name"], match["least"] or "", match["extra"] or "", _version(match["name"])
        )
        for match in map(_LINE.match, lines)
        if match and match["extra"] != _COMBINED
    ]


def missing(extra: str) -> list[str]:
    """What an extra asks for and is not here, by name and version."""
    return [
        f"{one.name}>={one.least}" if one.least else one.name
        for one in requirements()
        if one.extra == extra and not one.satisfied
    ]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: what a `>=` on releases needs."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in release[0].split(".")) if release else ()
