"""What /proc tells of a process: its own memory, descriptors, threads, zombies, its contents."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Census", "census", "cpu_seconds", "occurrences", "private_mib", "zombies"]

_PROC = Path("/proc")
_CHUNK = 16 << 20
_WRITABLE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw.p ", re.MULTILINE)


def private_mib(pid: int, proc: Path = _PROC) -> float:
    """MiB that no other process shares: private pages, clean and dirty, as in proc(5)."""
    told = (proc / str(pid) / "smaps_rollup").read_text()
    found = re.findall(r"^Private_(?:Clean|Dirty):\s*(\d+) kB$", told, re.MULTILINE)
    return sum(map(int, found)) / 1024


@dataclass(frozen=True)
class Census:
    """What a process holds."""

    descriptors: int
    threads: int
    resident_mib: float


def census(pid: int, proc: Path = _PROC) -> Census:
    """Now."""
    place = proc / str(pid)
    told = (place / "status").read_text()
    resident = re.search(r"^VmRSS:\s*(\d+) kB$", told, re.MULTILINE)
    return Census(
        descriptors=len(list((place / "fd").iterdir())),
        threads=len(list((place / "task").iterdir())),
        resident_mib=int(resident[1]) / 1024 if resident else 0.0,
    )


def cpu_seconds(pid: int, proc: Path = _PROC) -> float:
    """Seconds of a core that all its threads have used; in the kernel's ticks, of 10 ms mostly."""
    told = (proc / str(pid) / "stat").read_text()
    # Its name comes first, in parentheses that may stand in it too; then proc(5)'s third field.
    fields = told.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def zombies(pid: int) -> set[tuple[int, float]]:
    """Its descendants that have ended and were not reaped, each by pid and start time."""
    found = set()
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                found.add((child.pid, child.create_time()))
        except psutil.NoSuchProcess:
            continue
    return found


def occurrences(pid: int, wanted: bytes, proc: Path = _PROC) -> int:
    """How often the bytes stand in its writable private memory. It may run meanwhile.

    Raises PermissionError where the system forbids even a parent to look (ptrace_scope).
    """
    found = 0
    with (proc / str(pid) / "mem").open("rb", buffering=0) as memory:
        for begin, end in _writable((proc / str(pid) / "maps").read_text()):
            rest = b""
            for address in range(begin, end, _CHUNK):
                memory.seek(address)
                try:
                    chunk = rest + memory.read(min(_CHUNK, end - address))
                except OSError:  # it gave the range back since its maps were read
                    break
                found += chunk.count(wanted)
                rest = chunk[-(len(wanted) - 1) :]
    return found


def _writable(maps: str) -> Iterator[tuple[int, int]]:
    for begin, end in _WRITABLE.findall(maps):
        yield int(begin, 16), int(end, 16)
