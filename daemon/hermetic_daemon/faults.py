"""Where the daemon can be killed on purpose: a name for each point that a crash could fall on.

`HERMETIC_FAULT=NAME` or `NAME:N` ends the process by SIGKILL when it reaches the point, or reaches
it for the N-th time. The tests go through all of `POINTS`; nobody else sets the variable.
"""

from __future__ import annotations

import os
import signal

__all__ = ["POINTS", "reach"]

POINTS = (
    "submit.decoded",
    "submit.admitted",
    "add.before_commit",
    "add.after_commit",
    "accepted.before_send",
    "accepted.after_send",
    "start.before_spawn",
    "start.after_spawn",
    "hello",
    "assign.after_send",
    "loading",
    "ready",
    "begin.before_commit",
    "begin.after_commit",
    "run.before_send",
    "run.after_send",
    "step",
    "done.received",
    "finish.before_spool",
    "finish.half_spooled",
    "finish.before_rename",
    "finish.after_rename",
    "finish.before_commit",
    "finish.after_commit",
    "result.before_send",
    "result.after_send",
    "requeue.before_commit",
    "requeue.after_commit",
    "cancel.before_commit",
    "forget.before_commit",
    "forget.after_commit",
    "switch.after_start",
    "switch.after_end",
    "gone",
    "recovered",
)
"""Every commit of the store, and every state of the protocol with apps and with workers."""

_name, _, _count = os.environ.get("HERMETIC_FAULT", "").partition(":")
_left = int(_count or 1)


def reach(point: str) -> None:
    """The process is at `point`, and ends here if it was told to."""
    global _left
    if point != _name:
        return
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
