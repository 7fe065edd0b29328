"""One endpoint and one state directory, over as many daemons as are killed there."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import psutil

import _children
from _arms import BenchError
from hermetic import Client
from hermetic_wire.errors import DaemonUnreachable

__all__ = ["Lives", "Process"]

START_S = 60.0
"""Budget from a daemon's start to its first answer."""
STOP_S = 60.0
"""Budget of an orderly end."""
_POLL_S = 0.01
_TAIL = 25

Process = tuple[int, float]
"""A process by pid and start time: the number alone may be another one's by now."""


class Lives:
    """Starts a daemon, kills it, starts the next one where it was. Started in the main thread.

    `state` is where jobs are written down, by default in a directory of its own that is removed in
    the end. `threads` is how many a worker computes with on a CPU.
    """

    def __init__(
        self, config: str, device: str, *, state: Path | None = None, threads: int | None = None
    ) -> None:
        # Directly under /tmp: a socket's path may have 107 bytes, and TMPDIR may be long.
        self.directory = Path(tempfile.mkdtemp(prefix="hermetic-", dir="/tmp"))
        self.endpoint = self.directory / "hermetic.sock"
        self.log = self.directory / "daemon.log"
        self.state = self.directory / "state" if state is None else state
        self.count = 0
        """How many daemons there have been."""
        file = self.directory / "hermetic.toml"
        file.write_text(config)
        self._words = [
            *(sys.executable, "-m", "hermetic_daemon", "--config", str(file)),
            *("--endpoint", str(self.endpoint), "--device", device),
        ]
        self._environment = {
            **{name: value for name, value in os.environ.items() if "HERMETIC" not in name},
            "HERMETIC_STATE_DIR": str(self.state),
        }
        if threads is not None:
            self._environment["OMP_NUM_THREADS"] = str(threads)
        self._process = _children.start(self._words, self._environment, self.log)
        self.count = 1

    @property
    def pid(self) -> int:
        """Of the present daemon."""
        return self._process.pid

    def client(self, app: str = "bench", patience: float = 0.5) -> Client:
        """A new client, to be closed by the caller; `patience` is for a daemon that went away."""
        return Client(self.endpoint, app=app, reconnect_timeout=patience)

    def await_answer(self) -> None:
        """Until the present daemon answers. Raises BenchError with its log where it does not."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                with self.client() as client:
                    client.status()
                return
            except DaemonUnreachable as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise BenchError(f"the daemon does not answer\n{self.log_tail()}") from error
                time.sleep(_POLL_S)

    def kill(self) -> set[Process]:
        """SIGKILL. Returns its processes that lived then, of which none may go on for long."""
        had = self.processes()
        self._process.kill()
        self._process.wait()
        return had

    def restart(self) -> None:
        """Another daemon, after the former one has ended."""
        self._process = _children.start(self._words, self._environment, self.log)
        self.count += 1

    def stop(self) -> int:
        """In order; returns the exit status."""
        return _children.end(self._process, STOP_S)

    def processes(self) -> set[Process]:
        """All living processes of its environment but itself: whoever was orphaned has it too."""
        found = set()
        mine = str(self.state)
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("HERMETIC_STATE_DIR") == mine
                if ours and process.pid != self.pid and _lives(process):
                    found.add((process.pid, process.create_time()))
            except psutil.Error:
                continue
        return found

    def log_tail(self) -> str:
        """The last lines of the log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(["the daemon's log ends so:", *lines[-_TAIL:]])

    def __enter__(self) -> Lives:
        """When it answers."""
        try:
            self.await_answer()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Whatever is left of it is ended, and its directory removed."""
        self._close()

    def _close(self) -> None:
        self.stop()
        for pid, created in self.processes():
            try:
                process = psutil.Process(pid)
                if process.create_time() == created:
                    process.kill()
            except psutil.NoSuchProcess:
                continue
        shutil.rmtree(self.directory, ignore_errors=True)


def _lives(process: psutil.Process) -> bool:
    return process.status() != psutil.STATUS_ZOMBIE
