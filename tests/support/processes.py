"""Waiting for conditions, and telling whether a process has ended."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

__all__ = ["gone", "until"]


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a condition; fail with `what` where it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.005)  # the pace of a poll, not a guess at how long things take


def gone(pid: int) -> bool:
    """Whether the process has ended; a zombie has: whoever adopted it may not have reaped it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
