"""What the dead leave behind: a worker's children, and the workers of an earlier daemon.

The daemon is a subreaper, so that a worker which the template has forked is the daemon's own child.
The same makes it the parent of whatever a worker started and left behind, also of what has moved to
a session of its own. None of that outlives the worker. Workers die with their daemon; should one
not have, the next daemon ends it, known by its pid and the time of its start.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from .process import CENSUS

__all__ = ["Strays", "become_subreaper", "end_orphans"]

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 0.1
ORPHAN_SECONDS = 5.0
"""For an orphan to be gone after SIGKILL; a driver may take its time."""
SAME_START_SECONDS = 0.02
"""Starts closer than this are one: the kernel counts them in hundredths of a second."""
_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def become_subreaper() -> None:
    """Orphans among this process's descendants become its children: prctl(2). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(code)}")


class Strays:
    """Ends and reaps the children that nobody here has started.

    `expecting` tells whether a worker is just being forked: then a child may be unknown that
    will be known in a moment, and nobody is touched.
    """

    def __init__(self, expecting: Callable[[], bool]) -> None:
        self._expecting = expecting
        self._again: asyncio.TimerHandle | None = None

    def sweep(self) -> None:
        """To be called when a child has died; looks again later while a fork is expected."""
        if self._expecting():
            if self._again is None:
                loop = asyncio.get_running_loop()
                self._again = loop.call_later(AGAIN_SECONDS, self._sweep_again)
            return
        for pid in _children() - CENSUS.living:
            # A child that is not reaped keeps its number: nobody else can be meant by it.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    logger.warning("ended process %d, which a worker had left behind", pid)

    def _sweep_again(self) -> None:
        self._again = None
        self.sweep()


async def end_orphans(recorded: Iterable[tuple[int, float]]) -> list[int]:
    """Kill what an earlier daemon has started and recorded as (pid, start), and wait until it is
    gone; returns the pids. A number that somebody else has by now is left alone."""
    ended = []
    for pid, started in recorded:
        try:
            # The descriptor first: what it names cannot become another process any more.
            descriptor = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            if _is_same(pid, started):
                logger.warning("ending process %d, which an earlier daemon has left", pid)
                await _end_orphan(pid, descriptor)
                ended.append(pid)
        finally:
            os.close(descriptor)
    return ended


def _is_same(pid: int, started: float) -> bool:
    try:
        found: float = psutil.Process(pid).create_time()
    except psutil.Error:
        return False
    return abs(found - started) < SAME_START_SECONDS


async def _end_orphan(pid: int, descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(descriptor, gone.set)
    try:
        with suppress(ProcessLookupError):
            if os.getpgid(pid) == pid:  # workers lead a group of their own
                os.killpg(pid, signal.SIGKILL)
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        async with asyncio.timeout(ORPHAN_SECONDS):
            await gone.wait()
    except TimeoutError:
        logger.error("process %d does not end: it hangs in the kernel", pid)
    finally:
        loop.remove_reader(descriptor)


def _children() -> set[int]:
    main = Path(f"/proc/self/task/{os.getpid()}/children")
    try:
        return {int(pid) for pid in main.read_text().split()}
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return {child.pid for child in psutil.Process().children()}
