"""What `ps` and `top` call a process. A forked one would go on under its template's name."""

from __future__ import annotations

import ctypes

__all__ = ["MAX_BYTES", "take_title"]

MAX_BYTES = 15
"""Of a thread's name in the kernel; what is longer is cut."""
_PR_SET_NAME = 15  # <linux/prctl.h>


def take_title(title: str) -> None:
    """Call this process so, in the column `COMMAND` of `ps -o comm` and `top`: prctl(2)."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, title.encode()[:MAX_BYTES], 0, 0, 0)
