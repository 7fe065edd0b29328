"""The truth about a device's memory: what is free, and whether an ended process still holds some.

The host's figures come from psutil, a CUDA device's from NVML: asked in this process, imported only
for CUDA, and never by reading what nvidia-smi prints. NVML that is missing or fails costs speed,
never work: nothing is then loaded beside a living model, and no process counts as holding memory.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar

import psutil

from hermetic_wire.errors import HermeticError, MemoryNotReleased

__all__ = ["POLL_SECONDS", "Memory", "Release", "Then", "prove_release"]

POLL_SECONDS = 0.005
"""Between two looks at a release: the driver takes from some milliseconds to seconds for it."""

Then: TypeAlias = Callable[[HermeticError | None], None]
"""Called once: with None, or with why not."""

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Memory:
    """The memory of one device: `cpu`, `cuda` or `cuda:N`. All sizes are bytes."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._source: _Source = _Cuda(device) if device.startswith("cuda") else _Host()

    def total_bytes(self) -> int:
        """All there is; 0 where nobody can say."""
        return self._source.total()

    def free_bytes(self) -> int:
        """What a new process could have now; 0 where nobody can say."""
        return self._source.free()

    def allows_beside(self, size_bytes: int) -> bool:
        """Whether a model whose files have so many bytes fits while the present worker lives."""
        return self._source.free() >= self._source.needs(size_bytes)

    def holds(self, pid: int) -> bool:
        """Whether the device's driver still accounts memory to that process."""
        return self.held_bytes(pid) is not None

    def held_bytes(self, pid: int) -> int | None:
        """How much it does; None for a process that it does not know, 0 for an untold amount."""
        return self._source.held(pid)


class Release:
    """The proof that an ended process has let go of its device memory, or the failure of it."""

    def __init__(
        self,
        memory: Memory,
        pid: int,
        seconds: float,
        loop: asyncio.AbstractEventLoop,
        then: Then,
    ) -> None:
        self._memory = memory
        self._pid = pid
        self._seconds = seconds
        self._loop = loop
        self._then = then
        self._deadline = loop.time() + seconds
        self._next: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """Look now, and again until nothing is held or the time is up."""
        held = self._memory.held_bytes(self._pid)
        if held is None:
            self._then(None)
        elif self._loop.time() >= self._deadline:
            self._then(self._failure(held))
        else:
            self._next = self._loop.call_later(POLL_SECONDS, self.look)

    def cancel(self) -> None:
        """Nobody wants to know any more."""
        if self._next is not None:
            self._next.cancel()

    def _failure(self, held: int) -> MemoryNotReleased:
        free, total = self._memory.free_bytes(), self._memory.total_bytes()
        return MemoryNotReleased(
            f"The memory of process {self._pid} on {self._memory.device} should have been free "
            f"within {self._seconds:g} s of its end, but the driver still accounts {_size(held)} "
            f"to it; {_size(free)} of {_size(total)} are free. Nothing is loaded beside it. Try "
            "again; if it goes away later, raise worker.release_seconds; if it stays, the driver "
            "has lost track of the process: reload the driver or restart the machine."
        )


def prove_release(
    memory: Memory, pid: int, seconds: float, loop: asyncio.AbstractEventLoop, then: Then
) -> Release:
    """Wait until a reaped process holds no memory of the device, for at most `seconds`.

    `then` is called once: with None when nothing is held any more, which may be before this
    returns, or with MemoryNotReleased. To be called soon after the reap: a number is used again
    one day.
    """
    release = Release(memory, pid, seconds, loop, then)
    release.look()
    return release


class _Source(Protocol):
    """Where the figures come from, and what a model takes there."""

    def total(self) -> int: ...

    def free(self) -> int: ...

    def needs(self, size_bytes: int) -> int: ...

    def held(self, pid: int) -> int | None: ...


class _Host:
    """The machine's own memory."""

    def total(self) -> int:
        return psutil.virtual_memory().total

    def free(self) -> int:
        return psutil.virtual_memory().available

    def needs(self, size_bytes: int) -> int:
        """Twice the files, because float16 on disk becomes float32 on a CPU, and room to draw."""
        return 2 * size_bytes + (512 << 20)

    def held(self, pid: int) -> None:
        """Nothing: the kernel takes an address space down before its process can be reaped."""


class _Cuda:
    """A GPU as NVML tells it. After its first failure it is not asked again."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._nvml: Any = None
        self._gpu: Any = None
        try:
            import pynvml
        except ImportError as error:
            self._give_up(error)
            return
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            self._gpu = _handle(pynvml, device, os.environ.get("CUDA_VISIBLE_DEVICES"))
        except (pynvml.NVMLError, LookupError, ValueError) as error:
            self._give_up(error)

    def total(self) -> int:
        return self._ask(lambda: int(self._nvml.nvmlDeviceGetMemoryInfo(self._gpu).total), 0)

    def free(self) -> int:
        return self._ask(lambda: int(self._nvml.nvmlDeviceGetMemoryInfo(self._gpu).free), 0)

    def needs(self, size_bytes: int) -> int:
        """The files and a quarter for what drawing takes, and a context with its kernels."""
        return size_bytes + size_bytes // 4 + (1 << 30)

    def held(self, pid: int) -> int | None:
        return self._ask(lambda: self._accounted(pid), None)

    def _accounted(self, pid: int) -> int | None:
        for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._gpu):
            if process.pid == pid:
                return int(process.usedGpuMemory or 0)  # None where the driver does not tell
        return None

    def _ask(self, question: Callable[[], T], otherwise: T) -> T:
        if self._nvml is None:
            return otherwise
        try:
            return question()
        except self._nvml.NVMLError as error:
            self._give_up(error)
            return otherwise

    def _give_up(self, error: Exception) -> None:
        self._nvml = None
        logger.warning(
            "NVML does not tell the memory of %s (%s): until the daemon is restarted models are "
            "loaded one after the other, and no release of memory is proven",
            self._device,
            error,
        )


def _handle(nvml: Any, device: str, visible: str | None) -> Any:
    """The device that CUDA calls by this name. Raises NVMLError, LookupError or ValueError.

    CUDA_VISIBLE_DEVICES renumbers devices, and names them by number, by the beginning of a UUID
    (`GPU-8932f937`), or as a MIG instance by its whole UUID: CUDA programming guide, "CUDA
    environment variables". The numbers are NVML's where the GPUs are alike or CUDA_DEVICE_ORDER
    is PCI_BUS_ID.
    """
    number = int(device.partition(":")[2] or 0)
    if visible is None:
        return nvml.nvmlDeviceGetHandleByIndex(number)
    name = dict(enumerate(map(str.strip, visible.split(",")))).get(number, "")
    if name.isdecimal():
        return nvml.nvmlDeviceGetHandleByIndex(int(name))
    if name.startswith("MIG-"):
        return nvml.nvmlDeviceGetHandleByUUID(name)
    if name.startswith("GPU-"):
        for gpu in map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount())):
            if nvml.nvmlDeviceGetUUID(gpu).startswith(name):
                return gpu
    raise LookupError(f"CUDA_VISIBLE_DEVICES={visible!r} has no such device")


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count else "an untold amount"
