"""How soon a killed process's device memory is back, by the driver's own figures."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hermetic_worker.device import Device
from support.processes import until

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(120)]
pynvml: Any = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")

HELD = 2 << 30
SLACK = 256 << 20
"""Bytes that another program may take or give meanwhile."""
RELEASE_SECONDS = 10.0
PROGRAM = f"""
import sys, torch
block = torch.ones({HELD}, dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
print("held", flush=True)
sys.stdin.read()
"""


def test_killed_memory_comes_back(
    claimed: Device, record_property: Callable[[str, object], None]
) -> None:
    pynvml.nvmlInit()
    uuid = torch.cuda.get_device_properties(claimed.torch_name).uuid
    handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")

    def used() -> int:
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)

    before = used()
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        assert used() - before > HELD - SLACK
        holder.kill()
        killed = time.perf_counter()
        holder.wait()
        reaped = time.perf_counter()
        until(lambda: used() - before < SLACK, RELEASE_SECONDS, "the device's memory is back")
        back = time.perf_counter()
    pynvml.nvmlShutdown()
    told = f"kill to reaped {reaped - killed:.3f} s, kill to memory back {back - killed:.3f} s"
    record_property("release", told)
    print(told)  # noqa: T201  # a figure for people: it depends on the machine
