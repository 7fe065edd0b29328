"""The device a worker computes on: its name understood, its memory read.

Imports torch only inside what needs it, so that the host's figures cost nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hermetic_wire.errors import LoadFailed

__all__ = ["Device", "host_capacity", "host_memory", "parse"]

_NAME = re.compile(r"(cpu)|(cuda)(?::(\d{1,3}))?")


@dataclass(frozen=True)
class Device:
    """`cpu`, or one CUDA device by its number."""

    kind: Literal["cpu", "cuda"]
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"cuda:{self.index}"

    @property
    def default_dtype(self) -> str:
        """What weights are held in unless the model says otherwise."""
        return "float32" if self.kind == "cpu" else "float16"

    def require(self) -> None:
        """Raises LoadFailed, saying what is there, where torch cannot use this device."""
        if self.kind == "cpu":
            return
        import torch

        if not torch.cuda.is_available():
            built = torch.version.cuda or "none: this is a CPU build of torch"
            raise LoadFailed(
                f"The device {self} was asked for, but torch {torch.__version__} finds no CUDA "
                f"device (CUDA of this build: {built}). Set HERMETIC_DEVICE=cpu, or install a "
                "CUDA build of torch and a driver."
            )
        count = torch.cuda.device_count()
        if self.index >= count:
            raise LoadFailed(
                f"The device {self} was asked for, but there are only {count}: cuda:0 to "
                f"cuda:{count - 1}. Set HERMETIC_DEVICE to one of them."
            )

    def synchronize(self) -> None:
        """Wait until the device has done all it was given; nothing to do on a CPU."""
        if self.kind == "cuda":
            import torch

            torch.cuda.synchronize(self.index)

    def memory(self) -> dict[str, int]:
        """Bytes: the process's `resident` and `peak`, on CUDA also `device` and `device_peak`."""
        figures = host_memory()
        if self.kind == "cuda":
            import torch

            figures["device"] = torch.cuda.memory_reserved(self.index)
            figures["device_peak"] = torch.cuda.max_memory_reserved(self.index)
        return figures


def parse(name: str) -> Device:
    """The device of that name. Raises LoadFailed where it is none of ours."""
    match _NAME.fullmatch(name):
        case None:
            raise LoadFailed(
                f"The device {name!r} was asked for; a device is called cpu, cuda or cuda:1. "
                "Set HERMETIC_DEVICE to one of these."
            )
        case found if found.group(1):
            return Device("cpu")
        case found:
            return Device("cuda", int(found.group(3) or 0))


def host_memory() -> dict[str, int]:
    """Bytes of this process in the host's memory: `resident` now and its `peak` (proc(5))."""
    fields = _kilobytes(Path("/proc/self/status"))
    return {"resident": fields["VmRSS"] * 1024, "peak": fields["VmHWM"] * 1024}


def host_capacity() -> tuple[int, int]:
    """Bytes of the host's memory that could still be had, and in total."""
    fields = _kilobytes(Path("/proc/meminfo"))
    return fields["MemAvailable"] * 1024, fields["MemTotal"] * 1024


def _kilobytes(path: Path) -> dict[str, int]:
    pairs = (line.split(":", 1) for line in path.read_text().splitlines() if line.endswith(" kB"))
    return {name: int(value.split()[0]) for name, value in pairs}
