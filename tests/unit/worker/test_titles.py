"""A process's name as the kernel tells it to others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hermetic_worker.titles import MAX_BYTES

PROGRAM = """
import sys
from hermetic_worker.titles import take_title
take_title(sys.argv[1])
print("done", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("title", ["hermetic-spare", "much longer than fifteen bytes"])
def test_others_see_the_title(title: str) -> None:
    words = [sys.executable, "-c", PROGRAM, title]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"done\n"
        assert Path(f"/proc/{child.pid}/comm").read_text().rstrip("\n") == title[:MAX_BYTES]
