"""The pixels of large results: one file per job, its frames one after another. Knows no database.

A file gets its name when it is whole, and is not forced to the disk: that would cost each image
5 to 15 ms. Its size and checksum stand in the journal, so that a loss of power is found out. To sum
up three megabytes takes about as long as to write them, so a second thread does it meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import os
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hermetic_wire.codec import Frame

from . import faults

__all__ = ["Spool", "parted"]

logger = logging.getLogger(__name__)

_UNFINISHED = ".part"
_BLOCK = 1 << 20
"""Bytes that are looked at together."""


class Spool:
    """The files under one directory, which it makes. Raises OSError where it says nothing else."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, exist_ok=True)
        self._summing = ThreadPoolExecutor(1, "checksum")

    def close(self) -> None:
        """Nothing is written any more."""
        self._summing.shutdown()

    def write(self, job_id: str, frames: Sequence[Frame]) -> tuple[list[int], int]:
        """Keep the frames; returns their sizes in bytes and the CRC-32 of all.

        What cannot be written whole leaves nothing: it may be the disk that is full.
        """
        faults.reach("finish.before_spool")
        views = [memoryview(frame).cast("B") for frame in frames]
        checksum = self._summing.submit(_checksum, views)
        unfinished = self._directory / (job_id + _UNFINISHED)
        try:
            _write(self._create(unfinished), views)
            faults.reach("finish.before_rename")
            unfinished.replace(self._directory / job_id)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
        faults.reach("finish.after_rename")
        return [len(view) for view in views], checksum.result()

    def _create(self, file: Path) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            return os.open(file, flags, 0o600)
        except FileNotFoundError:  # somebody has tidied the directory away
            self._directory.mkdir(mode=0o700, exist_ok=True)
            return os.open(file, flags, 0o600)

    def read(self, job_id: str, sizes: Sequence[int], checksum: int) -> list[Frame] | None:
        """The frames; None where they are not what was written."""
        try:
            data = memoryview((self._directory / job_id).read_bytes())
        except FileNotFoundError:
            return None
        if len(data) != sum(sizes) or zlib.crc32(data) != checksum:
            return None
        return parted(data, sizes)

    def is_whole(self, job_id: str, size: int, checksum: int) -> bool:
        """Whether the file is what was written: so many bytes, with this CRC-32. Raises nothing:
        what cannot be read is not whole."""
        found = 0
        try:
            with (self._directory / job_id).open("rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size != size:
                    return False
                while block := file.read(_BLOCK):
                    found = zlib.crc32(block, found)
        except OSError:
            return False
        return found == checksum

    def remove(self, job_ids: Iterable[str]) -> None:
        """Keep their pixels no longer; no error where there are none."""
        for job_id in job_ids:
            with contextlib.suppress(FileNotFoundError):
                (self._directory / job_id).unlink()

    def sweep(self, known: set[str]) -> None:
        """Remove what was not finished, and what belongs to no job that is known."""
        for file in self._directory.iterdir():
            if file.name not in known:
                try:
                    file.unlink()
                except OSError as error:  # such as a directory: it is nobody's result
                    logger.warning("%s does not belong there and stays: %s", file, error.strerror)


def parted(data: memoryview, sizes: Sequence[int]) -> list[Frame]:
    """The frames of these sizes that stand one after another."""
    frames: list[Frame] = []
    at = 0
    for size in sizes:
        frames.append(data[at : at + size])
        at += size
    return frames


def _checksum(views: Iterable[memoryview]) -> int:
    found = 0
    for view in views:
        found = zlib.crc32(view, found)
    return found


def _write(descriptor: int, views: Iterable[memoryview]) -> None:
    try:
        for view in views:
            half = len(view) // 2
            for part in (view[:half], view[half:]):
                _write_all(descriptor, part)
                faults.reach("finish.half_spooled")
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
