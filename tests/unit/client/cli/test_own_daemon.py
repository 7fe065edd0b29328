"""A daemon of one command's own, and lives of processes. The daemon here is a small program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hermetic.cli import own_daemon
from hermetic.cli.process_life import ProcessLife
from hermetic_wire.errors import DaemonError, DaemonUnreachable, HermeticError
from unit.client.cli.fake_client import FakeClient


class StartingClient(FakeClient):
    """Answers at the second try: a daemon takes its time to start."""

    tries = 0

    def status(self) -> Any:
        StartingClient.tries += 1
        if StartingClient.tries == 1:
            raise DaemonUnreachable("not yet")
        return super().status()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Processes that were started; each of them is PROGRAM instead of the daemon."""
    found: list[subprocess.Popen[bytes]] = []
    start: type[subprocess.Popen[bytes]] = subprocess.Popen

    def popen(words: list[str], **how: Any) -> subprocess.Popen[bytes]:
        assert words[:3] == [sys.executable, "-m", "hermetic_daemon"]
        directory = os.path.dirname(how["env"]["HERMETIC_STATE_DIR"])
        assert words[words.index("--endpoint") + 1] == os.path.join(directory, "hermetic.sock")
        found.append(start([sys.executable, "-c", PROGRAM[0]], **how))
        return found[-1]

    monkeypatch.setattr("hermetic.cli.own_daemon.subprocess.Popen", popen)
    monkeypatch.setattr(own_daemon, "Client", lambda *where, **how: StartingClient())
    monkeypatch.setattr(StartingClient, "tries", 0)
    return found


PROGRAM = ["import signal; print('serving', flush=True); signal.pause()"]


def test_it_serves_and_ends(started: list[subprocess.Popen[bytes]]) -> None:
    with own_daemon.own_daemon(device="cpu") as daemon:
        assert started[0].poll() is None
        assert daemon.client.status().pid == 99
        assert (daemon.directory / "hermetic.toml").read_text() == "", "no configuration"
    assert started[0].returncode is not None
    assert not daemon.directory.exists()


def test_an_error_ends_it_and_carries_the_log(
    started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PROGRAM", ["print('serving'); print('it broke')"])
    monkeypatch.setattr(StartingClient, "tries", 1)

    def fail() -> None:
        with own_daemon.own_daemon():
            started[0].wait()
            raise HermeticError("a job failed")

    with pytest.raises(HermeticError, match="a job failed") as caught:
        fail()
    assert caught.value.report == "the daemon's log ends so:\nserving\nit broke"


def test_ctrl_c_ends_it(started: list[subprocess.Popen[bytes]]) -> None:
    with pytest.raises(KeyboardInterrupt), own_daemon.own_daemon():
        raise KeyboardInterrupt
    assert started[0].returncode is not None


def test_keep_leaves_its_directory(started: list[subprocess.Popen[bytes]]) -> None:
    with own_daemon.own_daemon(keep=True) as daemon:
        pass
    assert daemon.log.exists()
    daemon.log.unlink()
    (daemon.directory / "hermetic.toml").unlink()
    daemon.directory.rmdir()


def test_a_daemon_that_ends_at_once(
    started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def status(self: StartingClient) -> None:
        started[0].wait()
        raise DaemonUnreachable("not there")

    monkeypatch.setattr(StartingClient, "status", status)
    monkeypatch.setattr(
        sys.modules[__name__], "PROGRAM", ["raise SystemExit('the config is bent')"]
    )
    with pytest.raises(DaemonError, match="exit code 1") as caught, own_daemon.own_daemon():
        raise AssertionError("it never served")
    assert caught.value.report is not None
    assert "the config is bent" in caught.value.report


def test_a_process_lives_until_it_is_reaped() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        life = ProcessLife.of(process.pid)
        assert life is not None
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert life.goes_on, "a zombie has not gone"
        process.wait()
        assert not life.goes_on


def test_a_pid_used_again_is_another_life() -> None:
    mine = ProcessLife.of(os.getpid())
    assert mine is not None
    assert mine.goes_on
    assert not ProcessLife(mine.pid, mine.started - 1).goes_on


def test_a_command_name_may_hold_anything(tmp_path: Path) -> None:
    odd = tmp_path / "a) R 1 (b"
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([odd, "60"]) as process:
        life = ProcessLife.of(process.pid)
        process.kill()
    assert life is not None
    assert life.started > 0
