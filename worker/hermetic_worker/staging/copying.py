"""`stage`: threads copy mapped weights into slots while earlier slots are on their way.

The block is cut into windows of a slot's size. Window k passes through slot k modulo their number:

    1. wait until the copy that last used the slot has ended
    2. threads fill it, each its share of the window
    3. when all shares are in, begin the copy to the device

While the threads are at window k, the copy of window k - 1 is begun: neither waits for the other.
The threads use memmove, which lets go of the interpreter and, unlike torch's copy, starts no
OpenMP threads of its own; it was measured to be as fast.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from ctypes import memmove
from dataclasses import dataclass

import torch

from hermetic_worker import failures
from hermetic_worker.device import Device

from .engine import Engine
from .layout import Layout
from .ring import Ring

__all__ = ["ALLOCATION_SECONDS", "RETRY_SECONDS", "allocate", "default_threads", "stage"]

RETRY_SECONDS = 0.005
"""Between two attempts to allocate."""
ALLOCATION_SECONDS = 2.0
"""Budget for the allocation: a killed process's device memory is back within 0.02 to 1.5 s."""
_PAGE = 4096


def default_threads() -> int:
    """4 to 8: fewer leave the link idle while they take page faults, more only wait for memory."""
    return max(4, min(8, len(os.sched_getaffinity(0))))


def stage(
    sources: Sequence[torch.Tensor],
    device: Device,
    ring: Ring,
    threads: int | None = None,
    on_progress: Callable[[float], None] | None = None,
    *,
    allocation_seconds: float = ALLOCATION_SECONDS,
) -> list[torch.Tensor]:
    """The sources on the device: the same dtypes, shapes and order, views of one block.

    Each view begins at a multiple of 256 bytes; the block lives as long as any of them. Sources
    are contiguous tensors in host memory, which are only read, and which the caller keeps mapped
    until this returns. `threads` is `default_threads()` unless given. `on_progress` is told the
    fraction on its way, in this thread, after each slot; what it raises ends the staging.

    Raises ValueError for sources of another kind and for a ring of another device, torch's own
    error where the device has no room for longer than `allocation_seconds`, and whatever a copy
    raises. No copy is in flight when this returns or raises.
    """
    _check(sources, device, ring)
    layout = Layout.of([source.nbytes for source in sources])
    block = allocate(ring.engine, layout.total, allocation_seconds)
    addresses = [source.data_ptr() for source in sources]
    threads = threads or default_threads()
    share = -(-ring.slot_bytes // (threads * _PAGE)) * _PAGE
    with ThreadPoolExecutor(threads, "staging") as pool:
        transfer = _Transfer(layout, addresses, block, ring, pool, share)
        transfer.run(on_progress or _ignore)
    return [
        block[offset : offset + source.nbytes].view(source.dtype).view(source.shape)
        for source, offset in zip(sources, layout.offsets, strict=True)
    ]


def allocate(
    engine: Engine,
    nbytes: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> torch.Tensor:
    """A block of `nbytes`, tried again every 5 ms while another process's memory may come back.

    Raises the last shortage as it came once `seconds` are over, and anything else at once.
    """
    deadline = clock() + seconds
    while True:
        try:
            return engine.allocate(nbytes)
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not failures.is_shortage(error) or clock() >= deadline:
                raise
        sleep(RETRY_SECONDS)


@dataclass(frozen=True)
class _Transfer:
    """One block on its way."""

    layout: Layout
    addresses: Sequence[int]
    """Of the sources' first bytes."""
    block: torch.Tensor
    ring: Ring
    pool: ThreadPoolExecutor
    share: int
    """Bytes that one thread fills at a time: whole pages, so that no two fault the same one."""

    def run(self, on_progress: Callable[[float], None]) -> None:
        """Every window, then the end of the last copy."""
        engine, slots = self.ring.engine, len(self.ring.slots)
        total, size = self.layout.total, self.ring.slot_bytes
        filling: deque[list[Future[None]]] = deque()
        try:
            for window in range(-(-total // size)):
                # The copy of window - 1 alone may not have been begun yet: not from this slot.
                engine.wait(window % slots)
                filling.append(self._fill(window))
                if window > 0:
                    self._send(window - 1, filling.popleft())
                    on_progress(window * size / total)
            if filling:
                self._send(-(-total // size) - 1, filling.popleft())
        finally:
            engine.finish()
        on_progress(1.0)

    def _fill(self, window: int) -> list[Future[None]]:
        low, high = self._bounds(window)
        return [
            self.pool.submit(self._copy_in, window, start, min(start + self.share, high))
            for start in range(low, high, self.share)
        ]

    def _copy_in(self, window: int, low: int, high: int) -> None:
        """In a thread: the bytes of [low, high) of the block into their window's slot."""
        slot = self.ring.slots[window % len(self.ring.slots)].data_ptr()
        slot -= window * self.ring.slot_bytes
        for piece in self.layout.pieces(low, high):
            source = self.addresses[piece.tensor] + piece.start
            memmove(slot + piece.offset, source, piece.nbytes)

    def _send(self, window: int, filling: Iterable[Future[None]]) -> None:
        for share in filling:
            share.result()
        low, high = self._bounds(window)
        index = window % len(self.ring.slots)
        source = self.ring.slots[index][: high - low]
        self.ring.engine.begin(index, source, self.block[low:high])

    def _bounds(self, window: int) -> tuple[int, int]:
        low = window * self.ring.slot_bytes
        return low, min(low + self.ring.slot_bytes, self.layout.total)


def _check(sources: Sequence[torch.Tensor], device: Device, ring: Ring) -> None:
    if ring.device != device:
        raise ValueError(f"The ring was made for {ring.device}, not for {device}.")
    for number, source in enumerate(sources):
        if source.device.type != "cpu" or not source.is_contiguous():
            raise ValueError(
                f"Source {number} is not a contiguous tensor in host memory: its device is "
                f"{source.device}, its strides {source.stride()}."
            )


def _ignore(fraction: float) -> None:
    """Nobody asked how far it is."""
