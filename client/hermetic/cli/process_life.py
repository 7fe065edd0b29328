"""One life of a process: its pid *and* when it started, for pids are used again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ProcessLife"]

_STARTTIME = 22
"""The field of /proc/PID/stat, counted from 1: ticks since the machine's start (proc(5))."""
_BEFORE_STATE = 2
"""Fields up to the command's closing parenthesis; the command itself may hold anything."""


@dataclass(frozen=True)
class ProcessLife:
    """A process that was seen alive."""

    pid: int
    started: int
    """Clock ticks after the machine's start."""

    @classmethod
    def of(cls, pid: int) -> ProcessLife | None:
        """The life that has this pid now; None where no process has it."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        after_command = stat.rpartition(")")[2].split()
        return cls(pid, int(after_command[_STARTTIME - _BEFORE_STATE - 1]))

    @property
    def goes_on(self) -> bool:
        """Whether it still lives. A zombie does too: nobody has reaped it yet."""
        return ProcessLife.of(self.pid) == self
