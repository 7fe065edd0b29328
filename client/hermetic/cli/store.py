"""What is said of the daemon's store, where jobs are written down. Pure."""

from __future__ import annotations

from hermetic_wire.messages import StoreStatus

from .output import size

__all__ = ["state"]


def state(found: StoreStatus) -> str:
    """Its state in one line, with the reason where nothing can be written."""
    if found.state == "failing":
        return f"{found.path} cannot be written, so new jobs are refused: {found.reason}"
    pixels = f", {size(found.pixel_bytes)} of pixels" if found.pixel_bytes else ""
    return f"{found.path}, {found.jobs} jobs{pixels}"
