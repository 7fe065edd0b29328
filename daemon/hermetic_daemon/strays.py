"""What dead workers leave to the daemon: their children become ours, and go where they went.

The daemon is a subreaper, so that a worker which the template has forked is the daemon's own child.
The same makes it the parent of whatever a worker started and left behind, also of what has moved to
a session of its own. None of that outlives the worker.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from .process import living

__all__ = ["Strays", "become_subreaper"]

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 0.1
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
        for pid in _children() - living():
            # A child that is not reaped keeps its number: nobody else can be meant by it.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    logger.warning("ended process %d, which a worker had left behind", pid)

    def _sweep_again(self) -> None:
        self._again = None
        self.sweep()


def _children() -> set[int]:
    main = Path(f"/proc/self/task/{os.getpid()}/children")
    try:
        return {int(pid) for pid in main.read_text().split()}
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return {child.pid for child in psutil.Process().children()}
