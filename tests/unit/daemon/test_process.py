"""Real processes through the kill ladder: the rung is recorded, nothing is left."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hermetic_daemon import process
from hermetic_daemon.oom_killer import OomKiller
from hermetic_daemon.process import ChildProcess, ExitStatus, Grace
from support.processes import gone, until

PATIENT = Grace(message=30.0, terminate=30.0)
HURRIED = Grace(message=0.05, terminate=0.05)

BORN = "import os, sys, signal, time; sys.stdin.readline(); "
DEAF = BORN + "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
WAIT = "open(sys.argv[1], 'w').close(); time.sleep(600)"
"""Opening the FIFO for writing is what the test waits for."""


async def ended(program: str, end: Callable[[ChildProcess], None] | None = None) -> ExitStatus:
    """Run a program to its end; `end` is called once it is ready."""
    over: asyncio.Queue[ExitStatus] = asyncio.Queue()
    with tempfile.TemporaryDirectory() as directory:
        fifo = Path(directory) / "ready"
        os.mkfifo(fifo)
        argv = [sys.executable, "-c", program, str(fifo)]
        process = ChildProcess.start(argv, os.environ, b"birth\n", over.put_nowait)
        if end is not None:
            await asyncio.wait_for(asyncio.to_thread(fifo.read_bytes), 20)
            end(process)
        exit = await asyncio.wait_for(over.get(), 20)
    await asyncio.sleep(0)
    assert over.empty(), "told exactly once"
    return exit


def test_an_exit_status_is_told_in_words() -> None:
    exit = asyncio.run(ended("import sys; sys.exit(7)"))
    assert (exit.code, exit.rung, exit.words) == (7, "itself", "it exited with status 7")


def test_a_status_that_stands_for_a_signal_is_told_as_one() -> None:
    exit = asyncio.run(ended("import sys; sys.exit(143)"))
    assert exit.words == "it exited with status 143, as after SIGTERM"


def test_without_a_grace_the_process_is_killed_at_once() -> None:
    exit = asyncio.run(ended(DEAF + WAIT, lambda process: process.end(None)))
    assert (exit.code, exit.rung) == (-signal.SIGKILL, "kill")
    assert exit.words == "Hermetic ended it with SIGKILL"


def test_the_polite_message_is_the_first_rung() -> None:
    child_hears = BORN + "signal.signal(signal.SIGUSR1, lambda *_: os._exit(3)); " + WAIT

    def end(process: ChildProcess) -> None:
        process.end(PATIENT, ask=lambda: os.kill(process.pid, signal.SIGUSR1))

    exit = asyncio.run(ended(child_hears, end))
    assert (exit.code, exit.rung) == (3, "message")


def test_who_ignores_the_message_is_terminated() -> None:
    exit = asyncio.run(ended(BORN + WAIT, lambda p: p.end(HURRIED, ask=lambda: None)))
    assert (exit.code, exit.rung) == (-signal.SIGTERM, "terminate")


def test_who_ignores_sigterm_too_is_killed() -> None:
    exit = asyncio.run(ended(DEAF + WAIT, lambda p: p.end(HURRIED, ask=lambda: None)))
    assert (exit.code, exit.rung) == (-signal.SIGKILL, "kill")


def test_who_stopped_itself_is_killed() -> None:
    def end(process: ChildProcess) -> None:
        os.kill(process.pid, signal.SIGSTOP)
        process.end(HURRIED)

    handles = BORN + "signal.signal(signal.SIGTERM, lambda *_: None); "
    assert asyncio.run(ended(handles + WAIT, end)).rung == "kill"


def test_somebody_elses_sigkill_is_told_from_ours() -> None:
    exit = asyncio.run(ended(BORN + WAIT, lambda p: os.kill(p.pid, signal.SIGKILL)))
    assert exit.rung == "itself"
    assert exit.words.startswith("SIGKILL ended it: somebody sent it")


@pytest.mark.parametrize(
    ("oom_kills", "words"),
    [
        (0, "somebody sent it, and not the kernel's OOM killer"),
        (1, "OOM killer was at work"),
        (None, "somebody sent it, or the kernel's OOM killer did"),
    ],
)
def test_a_sigkill_is_told_with_no_more_than_is_known(oom_kills: int | None, words: str) -> None:
    assert words in ExitStatus(-signal.SIGKILL, "itself", (), 0, oom_kills).words
    assert "OOM" not in ExitStatus(-signal.SIGSEGV, "itself", (), 0, oom_kills).words


OWN = "user.slice/hermetic"


def write_books(directory: Path, *, machine: int, own: int | None = None) -> None:
    """What the kernel tells of its OOM killer, with a cgroup's own figures or without."""
    (directory / "self").mkdir(exist_ok=True)
    (directory / "self/cgroup").write_text(f"4:memory:/elsewhere\n0::/{OWN}\n")
    (directory / "vmstat").write_text(f"pgfault 1\noom_kill {machine}\n")
    if own is not None:
        (directory / OWN).mkdir(parents=True, exist_ok=True)
        (directory / OWN / "memory.events").write_text(f"oom 9\noom_kill {own}\n")


def test_the_oom_killers_work_elsewhere_on_the_machine_is_none_of_ours(tmp_path: Path) -> None:
    write_books(tmp_path, machine=3, own=3)
    killer = OomKiller(tmp_path, tmp_path)
    write_books(tmp_path, machine=5, own=4)
    assert killer.lately() == 1


def test_without_a_cgroups_own_figures_the_whole_machine_counts(tmp_path: Path) -> None:
    write_books(tmp_path, machine=3)
    killer = OomKiller(tmp_path, tmp_path)
    write_books(tmp_path, machine=5)
    assert killer.lately() == 2
    (tmp_path / "vmstat").unlink()
    assert killer.lately() is None


def test_the_oom_killers_work_is_remembered_for_one_more_look(tmp_path: Path) -> None:
    """Whoever it killed just before the last look may have died only now."""
    write_books(tmp_path, machine=3)
    killer = OomKiller(tmp_path, tmp_path)
    write_books(tmp_path, machine=4)
    killer.look()
    assert killer.lately() == 1
    killer.look()
    assert killer.lately() == 0


def test_the_oom_killer_is_named_for_a_death_of_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_books(tmp_path, machine=3)
    monkeypatch.setattr(process, "OomKiller", lambda: OomKiller(tmp_path, tmp_path))

    def end(child: ChildProcess) -> None:
        write_books(tmp_path, machine=4)
        assert child.memory()[0] > 0
        os.kill(child.pid, signal.SIGKILL)

    assert "OOM killer was at work" in asyncio.run(ended(BORN + WAIT, end)).words


def test_the_oom_killer_is_not_named_for_a_death_long_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is idle for days is looked at by nobody else."""
    write_books(tmp_path, machine=3)
    killer = OomKiller(tmp_path, tmp_path)
    look, looks = killer.look, itertools.count(1)
    monkeypatch.setattr(process, "OomKiller", lambda: killer)
    monkeypatch.setattr(process, "OOM_LOOK_SECONDS", 0.001)

    def end(child: ChildProcess) -> None:
        write_books(tmp_path, machine=4)

        def look_and_kill() -> None:
            look()
            if next(looks) == 2:
                os.kill(child.pid, signal.SIGKILL)

        monkeypatch.setattr(killer, "look", look_and_kill)

    assert asyncio.run(ended(BORN + WAIT, end)).oom_kills == 0


def test_a_grandchild_that_holds_the_pipes_dies_with_the_group_and_blocks_nobody() -> None:
    program = (
        "import subprocess, sys; child = subprocess.Popen(['sleep', '600']); "
        "sys.stderr.write(f'{child.pid}\\n')"
    )
    exit = asyncio.run(ended(program))
    (grandchild,) = exit.stderr
    assert exit.rung == "itself"
    until(lambda: gone(int(grandchild)), 10, "the grandchild is gone")


def test_last_words_without_an_end_are_kept_while_somebody_else_holds_the_pipe() -> None:
    """Of another session, so it outlives the group: no end of the pipe can be waited for."""
    left = (
        "import os, sys, time\n"
        "pid = os.fork()\n"
        "if pid == 0:\n    os.setsid()\n    time.sleep(60)\n"
        "while os.getsid(pid) != pid: time.sleep(0.001)\n"
        "sys.stderr.write(f'left {pid}')\n"
    )
    (words,) = asyncio.run(ended(left)).stderr
    assert words.startswith("left ")
    os.kill(int(words.split()[1]), signal.SIGKILL)


def test_a_flood_of_stderr_keeps_the_last_lines_only() -> None:
    program = "import sys\nfor i in range(20000): sys.stderr.write(f'line {i} ' + 'x' * 50 + '\\n')"
    exit = asyncio.run(ended(program))
    assert 0 < len(exit.stderr) <= 30
    *_, last = exit.stderr
    assert last.startswith("line 19999 ")


def test_one_endless_line_is_cut() -> None:
    exit = asyncio.run(ended("import sys; sys.stderr.write('x' * 1_000_000)"))
    assert sum(map(len, exit.stderr)) < 100_000


def test_the_peak_is_the_kernels_own_figure() -> None:
    exit = asyncio.run(ended("x = b'x' * (64 << 20)"))
    assert exit.peak_bytes > 64 << 20


def test_no_descriptor_is_left_and_none_is_inherited() -> None:
    before = set(os.listdir("/proc/self/fd"))
    listing = "import os, sys; sys.stderr.write(' '.join(os.listdir('/proc/self/fd')))"
    careless = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(careless, True)
    exit = asyncio.run(ended(listing))
    os.close(careless)
    assert set(exit.stderr[0].split()) == {"0", "1", "2", "3"}  # 3 is the listing itself
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_program_that_is_not_there_raises_and_leaves_nothing() -> None:
    async def start() -> None:
        with pytest.raises(FileNotFoundError):
            ChildProcess.start(["/nonexistent"], os.environ, b"", lambda exit: None)

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(start())
    assert len(os.listdir("/proc/self/fd")) == before
