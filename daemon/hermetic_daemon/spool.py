"""The pixels of results: one file per job, its frames one after another. Knows no database.

A file gets its name when it is whole, and is not forced to the disk: that would cost each image
5 to 15 ms. Its size and checksum stand in the journal, so that a loss of power is found out.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from hermetic_wire.codec import Frame

from . import faults

__all__ = ["Spool"]

_UNFINISHED = ".part"


class Spool:
    """The files under one directory. Every method may raise OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, exist_ok=True)

    def write(self, job_id: str, frames: Sequence[Frame]) -> tuple[list[int], int]:
        """Keep the frames; returns their sizes in bytes and the CRC-32 of all."""
        faults.reach("finish.before_spool")
        unfinished = self._directory / (job_id + _UNFINISHED)
        sizes, checksum = [], 0
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb", buffering=0) as file:
            for frame in frames:
                data = memoryview(frame).cast("B")
                half = len(data) // 2
                for part in (data[:half], data[half:]):
                    _write_all(file.fileno(), part)
                    faults.reach("finish.half_spooled")
                sizes.append(len(data))
                checksum = zlib.crc32(data, checksum)
        faults.reach("finish.before_rename")
        unfinished.replace(self._directory / job_id)
        faults.reach("finish.after_rename")
        return sizes, checksum

    def read(self, job_id: str, sizes: Sequence[int], checksum: int) -> list[Frame] | None:
        """The frames; None where they are not what was written."""
        try:
            data = memoryview((self._directory / job_id).read_bytes())
        except FileNotFoundError:
            return None
        if len(data) != sum(sizes) or zlib.crc32(data) != checksum:
            return None
        frames: list[Frame] = []
        at = 0
        for size in sizes:
            frames.append(data[at : at + size])
            at += size
        return frames

    def remove(self, job_ids: Iterable[str]) -> None:
        """Keep their pixels no longer; no error where there are none."""
        for job_id in job_ids:
            with contextlib.suppress(FileNotFoundError):
                (self._directory / job_id).unlink()

    def sweep(self, known: set[str]) -> None:
        """Remove what was not finished, and what belongs to no job that is known."""
        for file in self._directory.iterdir():
            if file.name not in known:
                file.unlink()


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
