"""A fake daemon on a real socket."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermetic import Client
from unit.client.fake_daemon import FakeDaemon


@pytest.fixture
def endpoint() -> Iterator[Path]:
    """A socket's path, short enough whatever the test is called."""
    with tempfile.TemporaryDirectory(prefix="hermetic-") as directory:
        yield Path(directory) / "hermetic.sock"


@pytest.fixture
def daemon(endpoint: Path) -> Iterator[FakeDaemon]:
    """Serves; a test may stop and start it again, and leaves it serving."""
    fake = FakeDaemon(endpoint)
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Client]:
    """A client of the fake daemon."""
    with Client(daemon.path, app="test", connect_timeout=5, reconnect_timeout=10) as client:
        yield client
