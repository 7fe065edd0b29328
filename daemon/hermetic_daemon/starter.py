"""How a worker's process comes to be: forked from the template, or started as a new interpreter."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from hermetic_wire.errors import LoadFailed

from . import faults
from .config import WorkerSection
from .life import Life
from .process import ChildProcess, ExitStatus
from .template import Template

__all__ = ["Starter"]

logger = logging.getLogger(__name__)


class Starter:
    """Starts workers that connect to `endpoint`.

    `on_exit` is told of each process's end, `on_failure` of a worker that never had one.
    """

    def __init__(
        self,
        config: WorkerSection,
        template: Template,
        path: Path,
        on_exit: Callable[[Life, ExitStatus], None],
        on_failure: Callable[[Life], None],
    ) -> None:
        self._config = config
        self._template = template
        self._path = path
        self._on_exit = on_exit
        self._on_failure = on_failure

    def start(self, worker: Life) -> float:
        """Begin; returns within how many seconds its Hello may be expected.

        A model without files needs no libraries, so there a new interpreter is as quick as a fork.
        """
        faults.reach("start.before_spawn")
        if worker.model is not None and worker.model.path is None:
            self._exec(worker)
            return self._config.hello_seconds
        worker.start_method = "fork"
        waits = 0.0 if self._template.ready else self._config.template_seconds
        self._template.fork(
            worker.epoch,
            worker.token,
            on_exit=lambda exit: self._on_exit(worker, exit),
            then=lambda process: self._take(worker, process),
            asked=lambda: _note_wait(worker),
        )
        return waits + self._config.hello_seconds

    def withdraw(self, worker: Life) -> None:
        """It is to end, and has no process yet."""
        self._template.withdraw(worker.epoch)

    def give_up(self, worker: Life) -> None:
        """Its process has not come in time: whoever should have forked it hangs."""
        self._template.give_up(worker.epoch)

    def _take(self, worker: Life, process: ChildProcess | None) -> None:
        worker.process = process
        faults.reach("start.after_spawn")
        if worker.state == "ending":
            if process is None:
                self._on_failure(worker)
            else:
                process.end(None)
        elif process is None:
            self._exec(worker)
        else:
            logger.info("epoch %d: pid %d forked", worker.epoch, process.pid)

    def _exec(self, worker: Life) -> None:
        worker.start_method, worker.started = "exec", time.monotonic()
        argv = [
            *self._config.command,
            *("--endpoint", f"ipc://{self._path}"),
            *("--epoch", str(worker.epoch)),
        ]
        try:
            worker.process = ChildProcess.start(
                argv,
                os.environ,
                f"{worker.token}\n".encode(),
                lambda exit: self._on_exit(worker, exit),
            )
        except OSError as error:
            worker.verdict = LoadFailed(f"No worker can be started with {argv[0]}: {error}.")
            worker.state = "ending"
            self._on_failure(worker)
            return
        faults.reach("start.after_spawn")
        logger.info("epoch %d: pid %d started", worker.epoch, worker.process.pid)


def _note_wait(worker: Life) -> None:
    """The template is asked now; it may have had to be made first."""
    now = time.monotonic()
    if now - worker.started > 0.001:
        worker.timings["template"] = now - worker.started
    worker.started = now
