"""The page cache of a model's files: filled before warm switches, emptied before each cold one.

The kernel keeps pages that a living process has mapped and touched, and those not yet written.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

__all__ = ["cached_share", "drop", "fill", "size"]

_CHUNK = 16 << 20


def fill(folder: Path) -> None:
    """Read the files once, where there is memory for them."""
    for file in _files(folder):
        with file.open("rb", buffering=0) as stream:
            while stream.read(_CHUNK):
                pass


def drop(folder: Path) -> None:
    """Ask the kernel to forget the files; it is free not to."""
    for file in _files(folder):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # what is not on the disk yet cannot be forgotten
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def cached_share(folder: Path) -> float:
    """Which part of the files' pages is in memory, 0 to 1."""
    counted = [_pages(file) for file in _files(folder)]
    return sum(present for present, _ in counted) / max(sum(pages for _, pages in counted), 1)


def size(folder: Path) -> int:
    """Bytes of all its files."""
    return sum(file.stat().st_size for file in _files(folder))


def _files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]


def _pages(file: Path) -> tuple[int, int]:
    """How many are in memory, and how many there are: mincore(2) of a map that nobody touches."""
    length = file.stat().st_size
    if not length:
        return 0, 0
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    pages = -(-length // mmap.PAGESIZE)
    told = ctypes.create_string_buffer(pages)
    with file.open("rb") as stream:
        address = libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, stream.fileno(), 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap", str(file))
    try:
        if libc.mincore(address, length, told) != 0:
            raise OSError(ctypes.get_errno(), "mincore", str(file))
    finally:
        libc.munmap(address, length)
    return sum(byte & 1 for byte in told.raw), pages
