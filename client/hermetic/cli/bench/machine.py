"""On what it was measured: from /proc, where it costs no import."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

__all__ = ["available_memory", "machine"]


def machine(device: str, proc: Path = Path("/proc")) -> dict[str, Any]:
    """The hardware and the kernel. `proc` is where the kernel tells."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", (proc / "cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": _meminfo("MemTotal", proc),
        "kernel": platform.release(),
        "device": device,
        "gpus": _gpus(proc),
    }


def available_memory(proc: Path = Path("/proc")) -> int:
    """Bytes that a new program could have without swapping."""
    return _meminfo("MemAvailable", proc)


def _meminfo(name: str, proc: Path) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB$", (proc / "meminfo").read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{proc / 'meminfo'} does not tell {name}")
    return int(found[1]) * 1024


def _gpus(proc: Path) -> list[str]:
    """The names of NVIDIA's devices, as their driver tells them."""
    told = sorted((proc / "driver/nvidia/gpus").glob("*/information"))
    names = (re.search(r"^Model:\s*(.+)$", one.read_text(), re.MULTILINE) for one in told)
    return [name[1] for name in names if name]
