"""`python bench/_rates.py DEVICE FOLDER`: what the machine can do, and what staging makes of it.

A process of its own, because a device's context and first kernels can be had only once in one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _arms import BenchError

__all__ = ["measured"]

PASSES = 3
"""The best one counts, as for the machine's own rates: what stands in its way is not its speed."""


def measured(device: str, folder: Path) -> dict[str, float]:
    """By the figure's name; `_s` are seconds, `_gb_per_s` 1e9 bytes a second."""
    program = [sys.executable, str(Path(__file__)), device, str(folder)]
    done = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"the machine's rates could not be measured on {device}; see above")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure(name: str, folder: Path) -> dict[str, float]:
    from hermetic_worker import staging, standby
    from hermetic_worker.folder import Folder

    ready = standby.prepare(name, [Folder.read(str(folder)).class_name])
    found: dict[str, float] = {}
    if ready.device.kind != "cpu":
        found |= {f"{stage}_s": ready.timings[stage] for stage in ("context", "kernels", "ring")}
    rates = staging.measure(ready.device)
    found["memcpy_one_gb_per_s"] = rates.memcpy_one
    found["memcpy_gb_per_s"] = rates.memcpy_many
    if rates.pinned is not None and rates.pageable is not None:
        found["h2d_pinned_gb_per_s"] = rates.pinned
        found["h2d_pageable_gb_per_s"] = rates.pageable
    ring = ready.ring or staging.Ring.make(ready.device)
    into_ring = staging.Ring(ring.device, _NoCopy(), ring.slots)
    found["staging_into_ring_gb_per_s"] = _staging(folder, into_ring, ready.device)
    if ready.device.kind != "cpu":
        found["staging_gb_per_s"] = _staging(folder, ring, ready.device)
    return found


def _staging(folder: Path, ring: Any, device: Any) -> float:
    """Of the largest component, mapped anew each time as a switch does, page faults included."""
    from hermetic_worker import staging, weights

    files = [max(folder.rglob("*.safetensors"), key=lambda file: file.stat().st_size)]
    best = 0.0
    for _ in range(PASSES + 1):  # the first pass brings the files into the page cache
        sources = list(weights.tensors_of(files).values())
        began = time.perf_counter()
        staging.stage(sources, device, ring)
        seconds = time.perf_counter() - began
        best = max(best, sum(source.nbytes for source in sources) / seconds / 1e9)
    return best


class _NoCopy:
    """An engine that leaves everything in the ring: how fast the threads alone can fill it."""

    def slots(self, count: int, nbytes: int) -> tuple[Any, ...]:
        """Another ring's are used."""
        raise NotImplementedError

    def allocate(self, nbytes: int) -> Any:
        """Never touched, so it costs address space alone."""
        import torch

        return torch.empty(nbytes, dtype=torch.uint8)

    def begin(self, index: int, source: Any, target: Any) -> None:
        """Leave it there."""

    def wait(self, index: int) -> None:
        """Nothing is in flight."""

    def finish(self) -> None:
        """Nothing is in flight."""


if __name__ == "__main__":
    told = _measure(sys.argv[1], Path(sys.argv[2]))
    print(json.dumps(told))
