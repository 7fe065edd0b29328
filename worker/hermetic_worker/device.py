"""The device a worker computes on: its name understood, its memory read.

Imports torch only inside what needs it, so that the host's figures cost nothing.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from hermetic_wire.errors import LoadFailed

__all__ = ["Device", "host_capacity", "host_memory", "parse"]

_NAME = re.compile(r"(cpu)|(cuda)(?::(\d{1,3}))?")
_RESIDENT = re.compile(rb"^(VmHWM|VmRSS):\s*(\d+) kB$", re.MULTILINE)
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Device:
    """`cpu`, or one CUDA device by the daemon's number of it."""

    kind: Literal["cpu", "cuda"]
    index: int = 0
    claimed: bool = field(default=False, compare=False)
    """Whether this process sees no other device; see `claim`."""

    def __str__(self) -> str:
        """The name that the daemon knows it by, claimed or not."""
        return self.kind if self.kind == "cpu" else f"cuda:{self.index}"

    @property
    def torch_name(self) -> str:
        """The name that torch knows it by in this process: claimed, it is the only one."""
        return "cuda:0" if self.claimed else str(self)

    @property
    def default_dtype(self) -> str:
        """What weights are held in unless the model says otherwise."""
        return "float32" if self.kind == "cpu" else "float16"

    def claim(self) -> Device:
        """This device as the only one this process sees; before CUDA is touched.

        A worker that sees one device cannot open a context on another, which would take memory
        there that nobody accounts for. Narrows CUDA_VISIBLE_DEVICES, so `cuda:1` of `2,3` is 3;
        to claim it again changes nothing. Raises LoadFailed where it is not among the visible
        ones, where another was claimed, and where it is too late.
        """
        return self if self.kind == "cpu" else _CLAIM.take(self)

    def require(self) -> None:
        """Raises LoadFailed, saying what is there, where torch cannot use this device."""
        if self.kind == "cpu":
            return
        import torch

        if not torch.cuda.is_available():
            built = torch.version.cuda or "none: this is a CPU build of torch"
            seen = f"; {_VISIBLE}={os.environ[_VISIBLE]}" if _VISIBLE in os.environ else ""
            raise LoadFailed(
                f"The device {self} was asked for, but torch {torch.__version__} finds no CUDA "
                f"device (CUDA of this build: {built}{seen}). Set HERMETIC_DEVICE=cpu or to a "
                "device that exists, or install a CUDA build of torch and a driver."
            )
        count = torch.cuda.device_count()
        if not self.claimed and self.index >= count:
            raise LoadFailed(
                f"The device {self} was asked for, but there are only {count}: cuda:0 to "
                f"cuda:{count - 1}. Set HERMETIC_DEVICE to one of them."
            )

    def synchronize(self) -> None:
        """Wait until the device has done all it was given; nothing to do on a CPU."""
        if self.kind == "cuda":
            import torch

            torch.cuda.synchronize(self.torch_name)

    def memory(self) -> dict[str, int]:
        """Bytes: the process's `resident` and `peak`, on CUDA also `device` and `device_peak`."""
        figures = host_memory()
        if self.kind == "cuda":
            import torch

            figures["device"] = torch.cuda.memory_reserved(self.torch_name)
            figures["device_peak"] = torch.cuda.max_memory_reserved(self.torch_name)
        return figures


class _Claim:
    """What this process has narrowed itself to: once, because the environment is of the process."""

    def __init__(self) -> None:
        self._device: Device | None = None

    def take(self, device: Device) -> Device:
        if self._device is not None:
            if self._device == device:
                return self._device
            raise LoadFailed(
                f"The device {device} was asked for, but this process has claimed {self._device} "
                "for its whole life. Start another worker."
            )
        if _cuda_is_open():
            raise LoadFailed(
                f"The device {device} cannot be claimed: CUDA is open in this process already, "
                f"so {_VISIBLE} is no longer read. Claim it before torch touches a device."
            )
        os.environ[_VISIBLE] = _entry(device, os.environ.get(_VISIBLE))
        self._device = replace(device, claimed=True)
        return self._device


_CLAIM = _Claim()


def _cuda_is_open() -> bool:
    """Whether torch has made a context; a process without torch has not, and stays without it."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _entry(device: Device, visible: str | None) -> str:
    """What CUDA_VISIBLE_DEVICES must say for this device alone, given what it says now.

    Its entries are numbers, GPU- or MIG- identifiers; what follows an empty or negative one is
    invisible (CUDA C++ Programming Guide, "CUDA Environment Variables").
    """
    if visible is None:
        return str(device.index)
    entries: list[str] = []
    for entry in (part.strip() for part in visible.split(",")):
        if not entry or entry.startswith("-"):
            break
        entries.append(entry)
    if device.index >= len(entries):
        raise LoadFailed(
            f"The device {device} was asked for, but {_VISIBLE}={visible!r} leaves {len(entries)} "
            "to see. Set HERMETIC_DEVICE to one of them, counted from cuda:0, or that variable."
        )
    return entries[device.index]


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
    with open("/proc/self/status", "rb", buffering=0) as file:
        found = dict(_RESIDENT.findall(file.read()))
    return {"resident": int(found[b"VmRSS"]) * 1024, "peak": int(found[b"VmHWM"]) * 1024}


def host_capacity() -> tuple[int, int]:
    """Bytes of the host's memory that could still be had, and in total."""
    fields = _kilobytes(Path("/proc/meminfo"))
    return fields["MemAvailable"] * 1024, fields["MemTotal"] * 1024


def _kilobytes(path: Path) -> dict[str, int]:
    pairs = (line.split(":", 1) for line in path.read_text().splitlines() if line.endswith(" kB"))
    return {name: int(value.split()[0]) for name, value in pairs}
