"""What copying to a device takes, behind one small interface: CUDA's, and host memory's.

Host memory stands in where there is no GPU: the same code copies, slot by slot, with every copy
ended at once.
"""

from __future__ import annotations

import ctypes
from typing import Protocol

import torch

from hermetic_worker.device import Device

from .layout import ALIGNMENT

__all__ = ["CudaEngine", "Engine", "HostEngine", "engine_for"]


class Engine(Protocol):
    """Copies in the order they are begun in; slots and blocks are flat tensors of uint8."""

    def slots(self, count: int, nbytes: int) -> tuple[torch.Tensor, ...]:
        """So many slots of host memory, each of `nbytes`, present and not only promised."""
        ...

    def allocate(self, nbytes: int) -> torch.Tensor:
        """A block on the device, aligned. Raises as torch does where there is no room."""
        ...

    def begin(self, index: int, source: torch.Tensor, target: torch.Tensor) -> None:
        """Begin to copy `source`, the front of slot `index`, into `target`, a cut of a block.

        May return before it has ended, so the slot must be left alone until `wait`.
        """
        ...

    def wait(self, index: int) -> None:
        """Until the copy last begun from slot `index` has ended; at once where there was none."""
        ...

    def finish(self) -> None:
        """Until every copy has ended. Raises what the device has to say of them."""
        ...


def engine_for(device: Device) -> Engine:
    """The engine that copies to this device."""
    return HostEngine() if device.kind == "cpu" else CudaEngine(device)


class HostEngine:
    """Copies within the host's memory; each has ended when `begin` returns."""

    def slots(self, count: int, nbytes: int) -> tuple[torch.Tensor, ...]:
        """Plain memory, written once so that no copy pays for its first touch."""
        return tuple(torch.zeros(nbytes, dtype=torch.uint8) for _ in range(count))

    def allocate(self, nbytes: int) -> torch.Tensor:
        """torch aligns to 64 bytes on the host, so a little more is taken."""
        room = torch.empty(nbytes + ALIGNMENT, dtype=torch.uint8)
        start = -room.data_ptr() % ALIGNMENT
        return room[start : start + nbytes]

    def begin(self, index: int, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy, at once."""
        ctypes.memmove(target.data_ptr(), source.data_ptr(), source.nbytes)

    def wait(self, index: int) -> None:
        """Nothing is in flight."""

    def finish(self) -> None:
        """Nothing is in flight."""


class CudaEngine:
    """One copy stream, an event per slot, pinned slots: the link's full rate needs all three."""

    def __init__(self, device: Device) -> None:
        self._device = torch.device(device.torch_name)
        self._stream = torch.cuda.Stream(self._device)
        self._events: dict[int, torch.cuda.Event] = {}

    def slots(self, count: int, nbytes: int) -> tuple[torch.Tensor, ...]:
        """Pinned. Exact powers of two, because torch's allocator rounds up to the next one."""
        with torch.cuda.device(self._device):
            return tuple(
                torch.empty(nbytes, dtype=torch.uint8, pin_memory=True) for _ in range(count)
            )

    def allocate(self, nbytes: int) -> torch.Tensor:
        """From torch's caching allocator, which counts it as it counts every tensor."""
        block = torch.empty(nbytes, dtype=torch.uint8, device=self._device)
        # Room that the allocator gives again may still be read by kernels of its last owner.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        return block

    def begin(self, index: int, source: torch.Tensor, target: torch.Tensor) -> None:
        """Queue the copy, and behind it the slot's event."""
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
        if index not in self._events:
            # Blocking: whoever waits sleeps, and leaves its core to the threads that fill slots.
            self._events[index] = torch.cuda.Event(blocking=True)
        self._events[index].record(self._stream)

    def wait(self, index: int) -> None:
        """Until the slot's event has passed; the interpreter is free meanwhile."""
        event = self._events.get(index)
        if event is not None:
            event.synchronize()

    def finish(self) -> None:
        """Wait for the copy stream, so that whoever holds the block may use it on any stream."""
        self._stream.synchronize()
