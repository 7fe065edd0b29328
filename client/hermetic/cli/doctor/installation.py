"""The kernel, Python and the packages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hermetic.cli.installed import Requirement

from .finding import Finding

__all__ = ["kernel", "packages", "python"]

_KERNEL = (5, 3)
"""pidfd_open(2), by which the daemon learns of a worker's death."""
_PYTHON = (3, 11)
_OPTIONAL = {
    "daemon": "the daemon cannot be started here",
    "worker": "only the echo pipeline works here",
}
"""What is lost without an extra. The base and `cli` are not optional: this is the command line."""


def kernel(system: str, release: str) -> Finding:
    """Linux, and new enough for pidfd."""
    if system != "Linux":
        return Finding(
            "system",
            "fail",
            f"{system}",
            "Hermetic's promises rest on Linux: pidfd, parent-death signals, peer credentials. "
            "Run it there.",
        )
    found = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    if found < _KERNEL:
        return Finding(
            "system",
            "fail",
            f"Linux {release}",
            "pidfd needs Linux 5.3 or newer; update the kernel.",
        )
    return Finding("system", "ok", f"Linux {release}")


def python(version: tuple[int, ...]) -> Finding:
    """The interpreter that runs this, and that will run daemon and workers."""
    said = ".".join(map(str, version))
    if version[:2] < _PYTHON:
        return Finding("python", "fail", said, "Install Python 3.11 or newer.")
    return Finding("python", "ok", said)


def packages(requirements: Sequence[Requirement]) -> Iterator[Finding]:
    """A finding for the base and one for each extra that somebody needs."""
    for extra in ("", "cli", "daemon", "worker"):
        wanted = [one for one in requirements if one.extra == extra]
        bad = [one for one in wanted if not one.satisfied]
        subject = f"packages [{extra}]" if extra else "packages"
        if not bad:
            seen = ", ".join(f"{one.name} {one.found}" for one in wanted)
            yield Finding(subject, "ok", seen or "none needed")
            continue
        loss = _OPTIONAL.get(extra)
        seen = ", ".join(f"{one.name} {one.found or 'is missing'}" for one in bad)
        wants = ", ".join(f"{one.name}>={one.least}" for one in bad)
        yield Finding(
            subject,
            "warn" if loss else "fail",
            f"{seen}{f': {loss}' if loss else ''}",
            f"pip install 'hermetic{f'[{extra}]' if extra else ''}' (wants {wants})",
        )
