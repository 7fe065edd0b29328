"""Memory made cheap to fork: what is used goes into huge pages, what is free is not filled."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import mmap, re, sys
from pathlib import Path
from hermetic_worker import pages
MB = 1 << 20
def private_bytes():
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(re.search(r"Anonymous: +(\\d+)", rollup)[1])
def touched(step):
    memory = mmap.mmap(-1, 64 * MB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for place in range(0, 64 * MB, step):
        memory[place] = place // step % 251 + 1
    return memory
full, sparse = touched(mmap.PAGESIZE), touched(2 * MB)
if "old" in sys.argv:
    pages._MADV_COLLAPSE = 9999
before = private_bytes()
collapsed = pages.collapse()
sound = all(full[p] == p // mmap.PAGESIZE % 251 + 1 for p in range(0, 64 * MB, mmap.PAGESIZE))
print(collapsed, (private_bytes() - before) // MB, sound)
"""


def outcome(*arguments: str) -> tuple[int, int, bool]:
    """Huge pages made, MiB that the process has grown by, and whether its memory is what it was.

    In a process of its own, which has 64 MiB in full use and 64 MiB with a byte here and there.
    """
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True
    ).stdout.split()
    return int(told[0]), int(told[1]), told[2] == "True"


def test_what_is_used_is_collapsed_and_what_is_free_stays_free() -> None:
    """Filled up by the kernel, an allocator's reserve would cost gigabytes."""
    collapsed, grown, sound = outcome()
    if collapsed == 0:
        pytest.skip("this kernel does not collapse memory")
    assert collapsed >= 30
    assert grown < 32
    assert sound


def test_a_kernel_that_cannot_do_it_changes_nothing() -> None:
    collapsed, _, sound = outcome("old")
    assert collapsed == 0
    assert sound
