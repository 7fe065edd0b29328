"""From mapped files to the device: weights are copied through a small ring of staging memory.

    layout    where each tensor lies in the one block on the device
    ring      the slots, and that none is overwritten before its copy has ended
    engine    what differs between CUDA and host memory, and nothing else
    copying   `stage`: threads fill slots while earlier slots are in flight
    rates     what this machine's memory and link can do, to compare with

Stock safetensors copies from pageable memory, a tenth of what the link gives; to register whole
weights as pinned takes longer than the copy, and holds locks of the driver that stall others.
Imports torch; never writes to a source.
"""

from __future__ import annotations

from .copying import stage
from .engine import Engine
from .rates import Rates, measure
from .ring import Ring

__all__ = ["Engine", "Rates", "Ring", "measure", "stage"]
