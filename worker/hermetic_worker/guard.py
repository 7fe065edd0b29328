"""A worker never outlives its parent, however the parent ends. Owns nothing but this process.

Two guards, because each has a gap: the kernel's parent-death signal kills even a process that
holds the GIL for ever, but spares the children of this process; the end of the parent's pipe
is noticed by a thread that takes the whole process group along.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from typing import NoReturn

__all__ = ["MAX_TOKEN_BYTES", "die_with_parent", "kill_own_group", "read_token", "watch_parent"]

MAX_TOKEN_BYTES = 256
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the parent's spawning thread ends (prctl(2)).

    Dies at once when the parent ended while this was asked for. A parent that was gone even
    before is told by its pipe: `read_token` finds it closed.
    """
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_PDEATHSIG): {os.strerror(code)}")
    if os.getppid() != parent:
        kill_own_group()


def read_token(pipe: int) -> str:
    """The first line on the parent's pipe, without its end. Raises EOFError where there is none.

    Reads byte by byte: nothing behind the line is taken, and nothing is kept in a buffer that
    a forked child would share.
    """
    line = bytearray()
    while len(line) <= MAX_TOKEN_BYTES:
        byte = os.read(pipe, 1)
        if byte == b"\n":
            return line.decode("ascii", errors="replace")
        if not byte:
            raise EOFError("the pipe from the daemon ended before it brought a token")
        line += byte
    raise EOFError(f"the pipe from the daemon brought no token in {MAX_TOKEN_BYTES} bytes")


def watch_parent(pipe: int) -> None:
    """Kill the own process group as soon as the parent's pipe ends. Returns at once."""
    threading.Thread(target=_die_at_eof, args=(pipe,), name="parent-watch", daemon=True).start()


def kill_own_group() -> NoReturn:
    """SIGKILL to the process group where this process leads it, else to this process alone.

    A worker started by hand from a shell's job or a test is a guest in its group.
    """
    own = os.getpid()
    if os.getpgrp() == own:
        os.killpg(own, signal.SIGKILL)
    os.kill(own, signal.SIGKILL)
    raise AssertionError("unreachable: SIGKILL cannot be survived")


def _die_at_eof(pipe: int) -> None:
    while os.read(pipe, 4096):  # nothing is expected behind the token
        pass
    kill_own_group()
