"""What the daemon and a client cost, and what they must never import."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import psutil
import pytest

from support.daemon import RunningDaemon

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

BUDGET_BYTES = 60 * 10**6
HEAVY = ("torch", "numpy", "diffusers", "transformers", "PIL")
PROJECT = Path(__file__).parents[2]


def test_client_and_daemon_import_neither_torch_nor_numpy() -> None:
    program = f"""
import sys
import hermetic, hermetic_daemon.__main__
sys.exit(", ".join(name for name in {HEAVY} if name in sys.modules) or 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_daemon_idles_within_its_budget(daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        client.generate("a", model="echo")
        client.unload("echo")
        assert client.status().resident_bytes < BUDGET_BYTES
    assert psutil.Process(daemon.pid).memory_info().rss < BUDGET_BYTES


def test_the_base_install_pulls_three_packages() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    names = sorted(each.split(">")[0] for each in project["dependencies"])
    assert names == ["msgpack", "msgspec", "pyzmq"]
