"""What is read of a process in /proc; a search that finds nothing has to be able to find."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

import _proc

HOLDER = "import sys; held = sys.stdin.readline(); print(flush=True); sys.stdin.read()"
"""Reads a line, says so, and keeps it until its standard input ends."""


def held_by_another(line: bytes, wanted: bytes) -> int:
    """How often `wanted` is found in a process that was given `line`."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(line + b"\n")
        process.stdin.flush()
        process.stdout.readline()
        try:
            return _proc.occurrences(process.pid, wanted)
        finally:
            process.stdin.close()


def test_what_a_process_holds_is_found_and_what_it_does_not_is_not() -> None:
    secret, other = secrets.token_hex(16).encode(), secrets.token_hex(16).encode()
    assert held_by_another(secret, secret) > 0
    assert held_by_another(secret, other) == 0


def test_what_lies_across_two_reads_is_found_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_proc, "_CHUNK", 8)
    place = tmp_path / "1"
    place.mkdir()
    (place / "maps").write_text("0-20 rw-p 0 0:0 0\n20-40 r--p 0 0:0 0\n")
    (place / "mem").write_bytes(b"......canary....canary..........canary")
    assert _proc.occurrences(1, b"canary", tmp_path) == 2, "the third is not writable"


def test_private_memory_is_what_is_not_shared(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "smaps_rollup").write_text(
        "0-1 ---p 0 0:0 0 [rollup]\nRss: 9000 kB\nShared_Clean: 4000 kB\n"
        "Private_Clean:      1024 kB\nPrivate_Dirty:      512 kB\n"
    )
    assert _proc.private_mib(1, tmp_path) == 1.5


def test_a_descriptor_more_is_counted() -> None:
    before = _proc.census(os.getpid())
    with Path(os.devnull).open("rb"):
        opened = _proc.census(os.getpid())
    assert opened.descriptors == before.descriptors + 1
    assert opened.threads >= 1
    assert opened.resident_mib > 1


def test_a_child_that_nobody_has_reaped_is_a_zombie() -> None:
    child = os.posix_spawn("/bin/true", ["true"], {})
    try:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert child in {pid for pid, _ in _proc.zombies(os.getpid())}
    finally:
        os.waitpid(child, 0)
    assert child not in {pid for pid, _ in _proc.zombies(os.getpid())}
