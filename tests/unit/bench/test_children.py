"""Processes of a benchmark end with it: asked to, not asked to, and when it is gone itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

import _chaos
import _children
from support.processes import gone, until

BENCH = Path(_children.__file__).parent
DEAF = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
signal.pause()
"""
PARENT = """
import os, sys
sys.path.insert(0, sys.argv[1])
import pathlib, signal, _children
words = [sys.executable, "-c", "import signal; print('there', flush=True); signal.pause()"]
child = _children.start(words, os.environ, pathlib.Path(sys.argv[2]))
print(child.pid, flush=True)
signal.pause()
"""
SECONDS = 20.0


def test_who_does_not_hear_sigterm_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = _children.start([sys.executable, "-c", DEAF], os.environ, log)
    until(lambda: "deaf" in log.read_text(), SECONDS, "it ignores SIGTERM")
    assert _children.end(process, 0.01) == -signal.SIGKILL


def test_an_exit_status_is_told_also_after_the_end(tmp_path: Path) -> None:
    process = _children.start([sys.executable, "-c", "exit(3)"], os.environ, tmp_path / "log")
    process.wait()
    assert _children.end(process, SECONDS) == 3


def test_a_killed_benchmark_leaves_no_child(tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = [sys.executable, "-c", PARENT, str(BENCH), str(log)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        until(lambda: "there" in log.read_text(), SECONDS, "the child runs")
        parent.kill()
    until(lambda: gone(child), SECONDS, "the child has ended")


def test_a_process_that_is_gone_is_no_orphan_and_one_that_lives_is() -> None:
    me = psutil.Process()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    had = {(ended.pid, psutil.Process(ended.pid).create_time()), (me.pid, me.create_time())}
    ended.wait()
    reused = (me.pid, me.create_time() - 100.0)
    assert _chaos._remaining(had | {reused}, 0.0) == {(me.pid, me.create_time())}
