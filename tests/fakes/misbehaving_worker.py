"""A real worker whose pipeline misbehaves as its model's options say. Same command line.

The life around the pipeline is hermetic_worker's own. Without options it is the echo pipeline.
A number is a step (the first is 1); the misfortune comes before that step is told, and its name
is on standard error before it comes, so that a test can wait for it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable

from hermetic_wire.generation import TextToImage
from hermetic_wire.worker import Assign, ModelSpec
from hermetic_worker.__main__ import leave, main
from hermetic_worker.pipelines import PIPELINES
from hermetic_worker.pipelines.base import OUTLINED, Footprint, OnProgress, OnStep, Result
from hermetic_worker.pipelines.echo import Echo
from hermetic_worker.standby import Standby

FOR_EVER = 3600
"""Seconds; every test is over before."""
_STDERR = 2
_LINE = b"it could be worse, and it is about to be\n"


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _exit() -> None:
    os._exit(137)


def _hang() -> None:
    while True:  # a signal handler that returns would end a single sleep early
        time.sleep(FOR_EVER)


def _hold_gil() -> None:
    ctypes.PyDLL(None).sleep(FOR_EVER)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


AT_STEP: dict[str, Callable[[], None]] = {
    "crash_at_step": _crash,
    "exit_at_step": _exit,
    "hang_at_step": _hang,
    "hold_gil_at_step": _hold_gil,
    "stop_at_step": _stop,
}


class Misbehaving:
    """Options: those of AT_STEP; `ignore_sigterm`; `flood_stderr` (bytes, during the load);
    `hang_in_load` (silent for ever); `never_ready` (progress for ever, but never Ready)."""

    def __init__(self) -> None:
        self._echo = Echo()
        self._at_step: dict[int, str] = {}

    def outline(self, spec: ModelSpec, device: str) -> str:
        """There is nothing to build."""
        return OUTLINED

    def load(
        self, assign: Assign, on_progress: OnProgress, standby: Standby | None = None
    ) -> Footprint:
        """The echo pipeline's load, unless told otherwise."""
        spec = assign.model
        self._at_step = {int(step): name for name, step in spec.options.items() if name in AT_STEP}
        if spec.options.get("ignore_sigterm"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _flood(int(spec.options.get("flood_stderr", 0)))
        if spec.options.get("hang_in_load"):
            on_progress("hanging", 0.1)
            _hang()
        while spec.options.get("never_ready"):
            on_progress("soon", 0.5)
            time.sleep(0.05)
        return self._echo.load(assign, on_progress)

    def run(self, task: TextToImage, on_step: OnStep) -> Result:
        """The echo pipeline's run, until the step comes."""

        def misbehave(step: int, steps: int, timestep: float | None = None) -> None:
            if step in self._at_step:
                name = self._at_step[step]
                os.write(_STDERR, f"misfortune: {name}\n".encode())
                AT_STEP[name]()
            on_step(step, steps, timestep)

        return self._echo.run(task, misbehave)


def _flood(length: int) -> None:
    written = 0
    while written < length:
        written += os.write(_STDERR, _LINE)


if __name__ == "__main__":
    leave(main(pipelines={**PIPELINES, "echo": Misbehaving, "misbehaving": Misbehaving}))
