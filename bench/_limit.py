"""The least that a durable job can take in this construction: its hops and commits, no more."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import _children
from _crowd import Crowd, Wanted

__all__ = ["RESULT", "SOCKET", "crowd", "wanted"]

SOCKET = "limit.sock"
RESULT = bytes(192)
"""As many as a result of the crowd has."""
SUBMIT = bytes(200)
_END_S = 10.0


@contextmanager
def crowd(directory: Path, size: int) -> Iterator[Crowd]:
    """Connections to a server without a purpose, `_limit_server.py`, which commits to `directory`.

    The first runs a job, so that server and worker have begun.
    """
    words = [sys.executable, str(Path(__file__).with_name("_limit_server.py")), str(directory)]
    log = directory / "limit.log"
    with ExitStack() as stack:
        for more in ([], ["worker"]):
            process = _children.start([*words, *more], os.environ, log)
            stack.callback(_children.end, process, _END_S)
        found = stack.enter_context(Crowd(directory / SOCKET, size))
        found.run(wanted(1))
        yield found


def wanted(jobs: int) -> list[Wanted]:
    """So many jobs, all the same."""
    return [Wanted([SUBMIT], RESULT[:3])] * jobs
