"""Processes that a benchmark starts: none of them outlives it, whatever ends it."""

from __future__ import annotations

import ctypes
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["end", "start"]

_PR_SET_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None)


def start(
    words: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    *,
    descriptors: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """From the main thread: the kernel tells of a parent's death when the starting thread ends.

    It hears SIGTERM then, and no Ctrl-C: that is for the benchmark, which ends it. What it says is
    added to `log`; `descriptors` stay open in it under their numbers.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            words,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(descriptors),
            start_new_session=True,
            preexec_fn=lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
        )


def end(process: subprocess.Popen[bytes], seconds: float) -> int:
    """SIGTERM, and SIGKILL where that has not ended it in `seconds`. Returns the exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            return process.wait(seconds)
        process.kill()
    return process.wait()
