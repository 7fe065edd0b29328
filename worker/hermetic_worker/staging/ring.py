"""The slots of staging memory, made once in a standby and used for one model's whole copy."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hermetic_worker.device import Device

from .engine import Engine, engine_for
from .layout import ALIGNMENT

__all__ = ["Ring"]


@dataclass(frozen=True)
class Ring:
    """Slots of equal size, and the engine that copies from them to `device`."""

    device: Device
    engine: Engine
    slots: tuple[torch.Tensor, ...]
    """Flat, of uint8, in host memory that is there already."""

    @classmethod
    def make(
        cls,
        device: Device,
        slots: int = 4,
        slot_bytes: int = 64 << 20,
        *,
        engine: Engine | None = None,
    ) -> Ring:
        """On CUDA the slots are pinned, which takes a tenth of a second or more: do it early.

        `engine` is the device's own by default. Raises ValueError for fewer than two slots, of
        which one can never be filled while another is in flight, and for a size that is no power
        of two of at least 256.
        """
        if slots < 2:
            raise ValueError(f"A ring has at least 2 slots, not {slots}.")
        if slot_bytes < ALIGNMENT or slot_bytes & (slot_bytes - 1):
            raise ValueError(
                f"A slot has a power of two of bytes, {ALIGNMENT} or more, not {slot_bytes}."
            )
        engine = engine or engine_for(device)
        return cls(device, engine, engine.slots(slots, slot_bytes))

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot."""
        return int(self.slots[0].nbytes)
