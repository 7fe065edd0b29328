"""The one seam where errors become words, exit codes and JSON."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from hermetic.cli.session import Session
from hermetic_wire.errors import (
    DaemonUnreachable,
    HermeticError,
    QueueFull,
    WorkerDied,
    error_classes,
)
from unit.client.cli.conftest import Run
from unit.client.cli.fake_client import FakeClient

CLASSES = sorted(error_classes().items())


@pytest.mark.parametrize(("code", "kind"), CLASSES, ids=[code for code, _ in CLASSES])
def test_every_error_has_its_exit_code(
    client: FakeClient, run: Run, code: str, kind: type[HermeticError]
) -> None:
    client.error = kind("It went wrong.")
    done = run("ps", "--json")
    assert done.exit_code == kind.exit_code
    assert done.stderr.splitlines()[0] == "hermetic: error: It went wrong."
    assert json.loads(done.stdout) == {
        "error": {"code": code, "message": "It went wrong.", "retry_after": None, "report": None}
    }


def test_without_json_stdout_stays_empty(client: FakeClient, run: Run) -> None:
    client.error = HermeticError("It went wrong.")
    assert run("ps").stdout == ""


def test_an_unreachable_daemon_comes_with_the_remedy(client: FakeClient, run: Run) -> None:
    client.error = DaemonUnreachable("Nobody answers.")
    assert run("ps").stderr.endswith("hint: start a daemon with: hermetic serve\n")
    said = run("ps", "--endpoint", "/tmp/x.sock").stderr
    assert said.endswith("hint: start a daemon with: hermetic serve --endpoint /tmp/x.sock\n")


def test_a_remedy_is_not_said_twice(client: FakeClient, run: Run) -> None:
    client.error = DaemonUnreachable("Nobody answers; start one: hermetic serve")
    assert run("ps").stderr.count("hermetic serve") == 1


def test_when_to_try_again(client: FakeClient, run: Run) -> None:
    client.error = QueueFull("64 jobs wait.", retry_after=12.4)
    assert "hint: try again in 12 s" in run("ps").stderr


def test_a_crash_report_is_shown(client: FakeClient, run: Run) -> None:
    client.error = WorkerDied("The worker died.", report="signal 9 (SIGKILL)\n")
    assert run("ps").stderr.splitlines()[1] == "signal 9 (SIGKILL)"


def test_a_file_that_cannot_be_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "ring.png")

    monkeypatch.setattr("hermetic.png.save_png", full)
    done = run("generate", "a ring", "--quiet")
    assert done.exit_code == 74
    assert done.stderr == "hermetic: error: [Errno 28] No space left on device: 'ring.png'\n"


def test_ctrl_c_anywhere(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Session, connect_timeout: float = 5.0) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "client", interrupted)
    done = run("ps")
    assert done.exit_code == 130
    assert done.stderr == "hermetic: interrupted\n"
