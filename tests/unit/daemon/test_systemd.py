"""The service manager hears what it should, and a daemon without one is none the worse."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermetic_daemon import systemd


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(10)
        yield listening


@pytest.mark.parametrize("abstract", [True, False])
def test_the_manager_is_told(
    abstract: bool, manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"hermetic-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    manager.bind("\0" + name if abstract else name)
    monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else name)
    systemd.notify("STOPPING=1", "EXTEND_TIMEOUT_USEC=5000000")
    assert manager.recv(1000) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=5000000"


def test_a_manager_that_has_gone_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    systemd.notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    systemd.notify("READY=1")
