"""A process's name as the kernel tells it to others."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from hermetic_worker.titles import MAX_BYTES, take_title


@pytest.mark.parametrize("title", ["hermetic-spare", "much longer than fifteen bytes"])
def test_others_see_the_title(title: str) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_take_and_wait, args=(title, theirs))
    child.start()
    try:
        assert ours.poll(20)
        assert Path(f"/proc/{child.pid}/comm").read_text().rstrip("\n") == title[:MAX_BYTES]
    finally:
        ours.send_bytes(b"end")
        child.join()


def _take_and_wait(title: str, pipe: Connection[bytes, bytes]) -> None:
    take_title(title)
    pipe.send_bytes(b"done")
    pipe.recv_bytes()
