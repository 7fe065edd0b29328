"""What the kernel's OOM killer has done lately: no signal says who has sent it."""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["OomKiller"]


class OomKiller:
    """How many processes the kernel's OOM killer has ended lately: among those of our own cgroup,
    where the kernel tells that, else on the whole machine.

    Lately is since the last look but one: the last may have come between a kill and the death,
    which takes its time in a process that is inside a driver.
    """

    def __init__(self, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> None:
        self._books = _oom_books(proc, cgroups)
        self._before = self._last = _oom_kills(self._books)

    def look(self) -> None:
        """What happened before the last look has caused nothing from here on."""
        self._before, self._last = self._last, _oom_kills(self._books)

    def lately(self) -> int | None:
        """None where the kernel does not count."""
        now = _oom_kills(self._books)
        return None if now is None or self._before is None else now - self._before


def _oom_books(proc: Path, cgroups: Path) -> Path:
    """Of our own cgroup, in which our children are born (cgroup-v2, memory.events), or of the whole
    machine (proc_vmstat)."""
    with contextlib.suppress(OSError):
        for line in (proc / "self/cgroup").read_text().splitlines():
            hierarchy, _, cgroup = line.partition("::/")
            books = cgroups / cgroup / "memory.events"
            if hierarchy == "0" and books.exists():
                return books
    return proc / "vmstat"


def _oom_kills(books: Path) -> int | None:
    with contextlib.suppress(OSError):
        for line in books.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None
