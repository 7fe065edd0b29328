"""Files of pixels: whole or not there, and never taken for what they are not."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermetic_daemon.spool import Spool

FRAMES = (b"red", bytearray(b"green"), memoryview(b"blue"))
SIZES = [3, 5, 4]
CHECKSUM = zlib.crc32(b"redgreenblue")


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "results")
    yield spool
    spool.close()


def test_frames_come_back_as_they_were(spool: Spool) -> None:
    assert spool.write("a", FRAMES) == (SIZES, CHECKSUM)
    found = spool.read("a", SIZES, CHECKSUM)
    assert found is not None
    assert [bytes(frame) for frame in found] == [b"red", b"green", b"blue"]
    assert spool.is_whole("a", 12, CHECKSUM)


def test_a_frame_of_more_than_one_dimension_is_its_bytes(spool: Spool) -> None:
    image = memoryview(bytes(range(12))).cast("B", (2, 2, 3))
    sizes, checksum = spool.write("a", [image])
    assert sizes == [12]
    assert spool.read("a", sizes, checksum) == [bytes(range(12))]


def test_a_result_written_again_is_the_new_one(spool: Spool) -> None:
    spool.write("a", [b"a longer one than that"])
    sizes, checksum = spool.write("a", FRAMES)
    assert spool.is_whole("a", sum(sizes), checksum)


@pytest.mark.parametrize(
    "damage", [None, b"", b"redgreenblu", b"redgreenblue!", b"redgreenblup", b"\0" * 12]
)
def test_a_file_that_is_not_what_was_written_is_none(
    spool: Spool, tmp_path: Path, damage: bytes | None
) -> None:
    """Zeros of the right length are what some file systems leave after a loss of power."""
    spool.write("a", FRAMES)
    file = tmp_path / "results" / "a"
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    assert spool.read("a", SIZES, CHECKSUM) is None
    assert not spool.is_whole("a", 12, CHECKSUM)


def test_a_large_file_is_checked_block_by_block(spool: Spool, tmp_path: Path) -> None:
    pixels = bytes(range(256)) * 10_000
    (size,), checksum = spool.write("a", [pixels])
    assert spool.is_whole("a", size, checksum)
    with (tmp_path / "results" / "a").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\0")
    assert not spool.is_whole("a", size, checksum)


def test_what_cannot_be_written_whole_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    """Its name is taken by a directory, so the rename fails: even root's."""
    (tmp_path / "results" / "a" / "b").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        spool.write("a", FRAMES)
    assert [file.name for file in (tmp_path / "results").iterdir()] == ["a"]


def test_whoever_has_no_file_is_removed_without_a_word(spool: Spool, tmp_path: Path) -> None:
    spool.write("a", FRAMES)
    spool.remove(["unknown", "a", "a"])
    assert not list((tmp_path / "results").iterdir())


def test_a_sweep_leaves_what_is_known_and_nothing_else(spool: Spool, tmp_path: Path) -> None:
    for name in ("a", "b"):
        spool.write(name, FRAMES)
    (tmp_path / "results" / "a.part").write_bytes(b"half")
    spool.sweep({"a"})
    assert [file.name for file in (tmp_path / "results").iterdir()] == ["a"]
