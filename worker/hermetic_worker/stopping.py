"""SIGTERM, remembered: a flag to ask at every step and a descriptor that wakes who waits."""

from __future__ import annotations

import os
import signal
from types import FrameType

__all__ = ["StopRequest"]


class StopRequest:
    """Whether this process was asked to end in order."""

    def __init__(self) -> None:
        self.requested = False
        self._waker, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        """Readable once the request has come; a poller can wait for it beside a socket."""
        return self._waker

    def install(self) -> None:
        """Listen to SIGTERM, in the main thread only.

        The wakeup descriptor is written by the C-level handler, in whichever thread the kernel
        chose: a handler in Python alone would not wake a main thread that waits in a poll.
        """
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_signal)

    def request(self) -> None:
        """What SIGTERM does, for those who are in the same process."""
        self.requested = True
        os.write(self._wake, b"\0")

    def close(self) -> None:
        """Give the descriptors back; only where `install` was not called."""
        os.close(self._waker)
        os.close(self._wake)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
