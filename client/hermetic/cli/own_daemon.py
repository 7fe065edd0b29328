"""A daemon for one command alone: a socket, a state directory and a log that nobody else has.

It is ended with the command, whatever ends that: an error, Ctrl-C, or SIGKILL.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hermetic import Client
from hermetic_wire.errors import DaemonError, DaemonUnreachable, HermeticError

__all__ = ["OwnDaemon", "own_daemon"]

_START_S = 30.0
"""Budget from the daemon's start to its first answer."""
_STOP_S = 15.0
"""Budget of an orderly stop, and then again of SIGTERM."""
_POLL_S = 0.05
_TAIL = 25
"""Lines of the log that are shown when something failed."""
_PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True)
class OwnDaemon:
    """A daemon that answers."""

    client: Client
    directory: Path
    log: Path

    def log_tail(self) -> str:
        """The last lines of its log."""
        return _tail(self.log)


@contextmanager
def own_daemon(
    *,
    device: str | None = None,
    config: Path | None = None,
    threads: int | None = None,
    keep: bool = False,
) -> Iterator[OwnDaemon]:
    """Start a daemon, wait until it answers, end it afterwards.

    Without `config` it has no configuration: embedded models and defaults only. `threads` is how
    many a worker computes with on a CPU, by default as many as there are cores. `keep` leaves its
    directory behind. Errors that leave the context carry the log's tail as their report.
    """
    # Directly under /tmp: a socket's path may have 107 bytes, and TMPDIR may be long.
    directory = Path(tempfile.mkdtemp(prefix="hermetic-", dir="/tmp"))
    log = directory / "daemon.log"
    try:
        process = _start(directory, log, device, config, threads)
        try:
            with _connected(directory, process) as client:
                yield OwnDaemon(client, directory, log)
        finally:
            _end(process)
    except HermeticError as error:
        error.report = error.report or _tail(log)
        raise
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)


def _start(
    directory: Path, log: Path, device: str | None, config: Path | None, threads: int | None
) -> subprocess.Popen[bytes]:
    if config is None:
        config = directory / "hermetic.toml"
        config.touch()
    words = [
        sys.executable,
        "-m",
        "hermetic_daemon",
        "--endpoint",
        str(directory / "hermetic.sock"),
    ]
    if device:
        words += ["--device", device]
    environment = {
        **os.environ,
        "HERMETIC_CONFIG": str(config),
        "HERMETIC_STATE_DIR": str(directory / "state"),
    }
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    libc = ctypes.CDLL(None)
    with log.open("wb") as output:
        return subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A session of its own: Ctrl-C is for this command, which then ends the daemon.
            start_new_session=True,
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
        )


@contextmanager
def _connected(directory: Path, process: subprocess.Popen[bytes]) -> Iterator[Client]:
    deadline = time.monotonic() + _START_S
    # A daemon of our own that goes away is not waited for: nobody starts it again.
    with Client(directory / "hermetic.sock", app="hermetic", reconnect_timeout=0.5) as client:
        while True:
            try:
                client.status()
                break
            except DaemonUnreachable:
                _check_start(process, deadline)
                time.sleep(_POLL_S)
        yield client


def _check_start(process: subprocess.Popen[bytes], deadline: float) -> None:
    if process.poll() is not None:
        raise DaemonError(f"The daemon ended at its start, with exit code {process.returncode}.")
    if time.monotonic() > deadline:
        raise DaemonError(f"The daemon did not answer within {_START_S:.0f} s.")


def _end(process: subprocess.Popen[bytes]) -> None:
    for how, patience in ((signal.SIGTERM, _STOP_S), (signal.SIGKILL, None)):
        process.send_signal(how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(["the daemon's log ends so:", *lines[-_TAIL:]])
