"""A real worker that first starts a process which would outlive it. Same command line.

`LEFT_BEHIND` in the environment names the file that takes the pid of that process, which has a
session of its own; `LEAVE` says how it is started: `child`, or `orphan` (forked twice).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from hermetic_worker.__main__ import leave, main


def _start() -> None:
    first = os.fork()
    if first == 0:
        os.setsid()
        if os.environ["LEAVE"] == "orphan" and os.fork() != 0:
            os._exit(0)
        Path(os.environ["LEFT_BEHIND"]).write_text(f"{os.getpid()}\n")
        while True:
            signal.pause()
    if os.environ["LEAVE"] == "orphan":
        os.waitpid(first, 0)


if __name__ == "__main__":
    _start()
    leave(main(sys.argv[1:]))
