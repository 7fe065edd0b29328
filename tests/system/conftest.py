"""Real daemons for the system tests; every one of them is checked for what it leaves behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermetic import Client
from support import tiny_models
from support.daemon import RunningDaemon


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """A test that leaves threads or descriptors behind in its own process fails."""
    threads = set(threading.enumerate())
    descriptors = len(os.listdir("/proc/self/fd"))
    yield
    left = [each.name for each in threading.enumerate() if each not in threads and each.is_alive()]
    assert not left, f"threads left behind: {left}"
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2


@pytest.fixture
def daemon() -> Iterator[RunningDaemon]:
    """A daemon with the built-in models."""
    with RunningDaemon() as running:
        yield running


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[Client]:
    """A client of `daemon`."""
    with daemon.client() as connected:
        yield connected


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two random models in the real layout, the UNet's first block 320 wide; made once."""
    folder = tmp_path_factory.mktemp("models")
    tiny_models.sd15(folder / "tiny-sd15")
    tiny_models.sdxl(folder / "tiny-sdxl")
    return {name: folder / name for name in ("tiny-sd15", "tiny-sdxl")}


@pytest.fixture
def tiny_daemon(tiny: dict[str, Path]) -> Iterator[RunningDaemon]:
    """A daemon that serves the two random models."""
    sections = [f'[models.{name}]\npath = "{path}"\n' for name, path in tiny.items()]
    with RunningDaemon("".join(sections)) as running:
        yield running
