"""A real daemon process for tests: started, waited for by condition, ended, leaks counted."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

import psutil

from hermetic import Client

from .processes import until

__all__ = ["RunningDaemon"]

FAKES = Path(__file__).parent.parent / "fakes"
START_SECONDS = 20.0
END_SECONDS = 20.0
REVIVE_SECONDS = 60.0


class RunningDaemon:
    """`hermeticd` on a private endpoint, with a configuration of its own.

    Without models of real files there is nothing to fork for, so `fork` has to be asked for.
    """

    def __init__(
        self,
        config: str = "",
        *,
        misbehaving: bool = False,
        start_method: str = "exec",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="hm-")  # short: 107 bytes for a socket
        self.directory = Path(self._scratch.name)
        self.endpoint = self.directory / "hermetic.sock"
        self.log = self.directory / "log"
        self._config = self.directory / "hermetic.toml"
        self._config.write_text(config)
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("HERMETIC")},
            "HERMETIC_STATE_DIR": str(self.directory / "state"),
            "HERMETIC_WORKER__START_METHOD": start_method,
            "HERMETIC_DAEMON__DRAIN_SECONDS": "0",  # no test waits for the job it has left
            "OMP_NUM_THREADS": "1",  # tiny models on busy cores wait for threads, not for work
            **(environment or {}),
        }
        if misbehaving:
            command = f"{sys.executable} {FAKES / 'misbehaving_worker.py'}"
            self._environment["HERMETIC_WORKER__COMMAND"] = command
        self.process = self._spawn()
        try:
            self.await_serving()
        except BaseException:
            self._scratch.cleanup()
            raise

    def _spawn(self, *options: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "hermetic_daemon", "--log-level", "debug"),
                    *("--endpoint", str(self.endpoint), "--config", str(self._config)),
                    *("--device", "cpu", *options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def configure(self, config: str) -> None:
        """Write another configuration; the daemon reads it when it is told to."""
        self._config.write_text(config)

    def await_serving(self) -> None:
        """Until somebody listens on the endpoint."""
        until(self._listens, START_SECONDS, f"a daemon serves; its log:\n{self.log.read_text()}")

    def _listens(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended:\n{self.log.read_text()}")
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(self.endpoint))
            return True
        return False

    def client(self, app: str = "test") -> Client:
        """A new client of this daemon, to be closed by the caller."""
        return Client(self.endpoint, app=app)

    def workers(self) -> list[psutil.Process]:
        """Every living process that was started as a worker of this daemon, orphans included."""
        mine = str(self.endpoint.with_suffix(".workers"))
        return list(self._found(lambda one: any(mine in part for part in one.cmdline())))

    def processes(self) -> list[psutil.Process]:
        """Every living process that this daemon or one of its children has started or forked."""
        return list(self._found(lambda one: True))

    def _found(self, wanted: Callable[[psutil.Process], bool]) -> Iterator[psutil.Process]:
        """By the environment, which all of them were given: an orphan has it too."""
        mine = str(self.directory / "state")
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get("HERMETIC_STATE_DIR") == mine
                lives = process.pid != self.pid and process.status() != psutil.STATUS_ZOMBIE
                if ours and lives and wanted(process):
                    yield process

    def kill(self) -> None:
        """SIGKILL, as the OOM killer would."""
        self.process.kill()
        self.process.wait()

    def restart(self, *options: str) -> None:
        """A new daemon on the same endpoint, after the old one has ended; no fault is injected."""
        self._environment.pop("HERMETIC_FAULT", None)
        self.process = self._spawn(*options)
        self.await_serving()

    def restart_and_fail(self, fault: str) -> None:
        """A new daemon, which is killed at that point before it serves anybody."""
        self._environment["HERMETIC_FAULT"] = fault
        self.process = self._spawn()
        assert self.process.wait(REVIVE_SECONDS) == -signal.SIGKILL, f"{fault} was reached"

    def revive(self) -> None:
        """Wait until the daemon has ended, however, and start another."""
        self.process.wait(REVIVE_SECONDS)
        self.restart()

    def end(self) -> int:
        """SIGTERM; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the daemon did not end:\n{self.log.read_text()}") from None

    def __enter__(self) -> RunningDaemon:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(f"the daemon's log:\n{self.log.read_text()}")
        try:
            self.end()
            if error is None:
                left = self.processes()
                assert not left, f"processes outlived their daemon: {left}"
                log = self.log.read_text()
                assert "Exception in callback" not in log, f"the daemon stumbled:\n{log}"
        finally:
            for process in self.processes():
                process.kill()
            self._scratch.cleanup()
