"""Where each tensor lies in the block on the device: decided before anything is copied."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["ALIGNMENT", "Layout", "Piece"]

ALIGNMENT = 256
"""Bytes. What cudaMalloc promises at least, so kernels may choose as for a tensor of its own."""


class Piece(NamedTuple):
    """Bytes of one tensor that lie in a stretch of the block."""

    tensor: int
    """Its place in the order of the tensors."""
    start: int
    """Its first byte within the tensor."""
    offset: int
    """Its first byte within the block."""
    nbytes: int


@dataclass(frozen=True)
class Layout:
    """Tensors one behind the other, each aligned; all figures in bytes."""

    sizes: tuple[int, ...]
    offsets: tuple[int, ...]
    total: int

    @classmethod
    def of(cls, sizes: Sequence[int]) -> Layout:
        """In the given order; an empty tensor takes no room."""
        offsets, end = [], 0
        for size in sizes:
            start = -(-end // ALIGNMENT) * ALIGNMENT
            offsets.append(start)
            end = start + size
        return cls(tuple(sizes), tuple(offsets), end)

    def pieces(self, low: int, high: int) -> Iterator[Piece]:
        """What lies in [low, high) of the block; the gaps between tensors belong to nobody."""
        first = max(bisect_right(self.offsets, low) - 1, 0)
        for tensor in range(first, len(self.offsets)):
            offset = self.offsets[tensor]
            if offset >= high:
                return
            start, end = max(offset, low), min(offset + self.sizes[tensor], high)
            if start < end:
                yield Piece(tensor, start - offset, start, end - start)
