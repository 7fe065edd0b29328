"""What this machine can do at best: the yardstick that staging is measured with.

Each rate is the best of some passes over memory that is present already and larger than the
caches: what stands in a pass's way is not the machine's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import memmove
from dataclasses import dataclass

import torch

from hermetic_worker.device import Device

from .copying import default_threads

__all__ = ["Rates", "measure"]

_BYTES = 256 << 20
_PASSES = 5


@dataclass(frozen=True)
class Rates:
    """In GB/s, a GB being 1e9 bytes copied (memory moves twice that: read and written)."""

    memcpy_one: float
    """memcpy within the host's memory by one thread."""
    memcpy_many: float
    """The same by `threads` threads together."""
    threads: int
    pinned: float | None = None
    """The link: from pinned memory to the device. None without a GPU."""
    pageable: float | None = None
    """From plain memory to the device, as a library without staging copies. None without a GPU."""


def measure(
    device: Device, *, threads: int | None = None, nbytes: int = _BYTES, passes: int = _PASSES
) -> Rates:
    """Takes half a second and `2 * nbytes` of memory; on CUDA also `nbytes` of the device's."""
    threads = threads or default_threads()
    source = torch.ones(nbytes, dtype=torch.uint8)
    one, many = (_within_host(source, each, passes) for each in (1, threads))
    if device.kind == "cpu":
        return Rates(one, many, threads)
    link = [_to_device(origin, device, passes) for origin in (source.pin_memory(), source)]
    return Rates(one, many, threads, pinned=link[0], pageable=link[1])


def _within_host(source: torch.Tensor, threads: int, passes: int) -> float:
    target = torch.zeros_like(source)
    return _best(lambda: _memcpy(source, target, threads), source.nbytes, passes)


def _to_device(source: torch.Tensor, device: Device, passes: int) -> float:
    block = torch.empty_like(source, device=device.torch_name)

    def copy() -> None:
        block.copy_(source, non_blocking=True)
        device.synchronize()

    copy()  # the first use of the block and the link is not the link's rate
    return _best(copy, source.nbytes, passes)


def _memcpy(source: torch.Tensor, target: torch.Tensor, threads: int) -> None:
    nbytes = source.nbytes
    share = -(-nbytes // threads)

    def copy(start: int) -> None:
        memmove(target.data_ptr() + start, source.data_ptr() + start, min(share, nbytes - start))

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(copy, range(0, nbytes, share)):
            pass


def _best(work: Callable[[], None], nbytes: int, passes: int) -> float:
    seconds = []
    for _ in range(passes):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return nbytes / min(seconds) / 1e9
