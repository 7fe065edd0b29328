"""A child process: started in its own session or adopted, watched by pidfd, ended rung by rung.

Owns processes and signals; knows nothing of models, jobs or messages. Its own child is all it ever
signals: the group is killed while the leader is still unreaped, so no other process can have
taken over the number.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import psutil

from .oom_killer import OomKiller

__all__ = ["CENSUS", "Census", "ChildProcess", "ExitStatus", "Grace", "Pipes", "Rung"]

Rung: TypeAlias = Literal["itself", "message", "terminate", "kill"]
"""What ended a process: nobody, the polite message, SIGTERM, SIGKILL."""

logger = logging.getLogger(__name__)

STDERR_LINES = 30
STDERR_LINE_BYTES = 2000
ADOPTION_SECONDS = 0.002
"""Between two looks at a dead process that its forker has not left to us yet."""
OOM_LOOK_SECONDS = 30.0
"""Between two looks at what the OOM killer has done: it is named for a death of the next minute."""


class Census:
    """The children that are known and not reaped yet; whoever else is a child is a stray."""

    def __init__(self) -> None:
        self.living: set[int] = set()
        self._on_birth: Callable[[int], None] = _nobody_listens
        self._on_reap: Callable[[int], None] = _nobody_listens

    def listen(self, on_birth: Callable[[int], None], on_reap: Callable[[int], None]) -> None:
        """Have every birth from now on, and every reap, told by pid."""
        self._on_birth, self._on_reap = on_birth, on_reap

    def add(self, pid: int) -> None:
        """A child is known."""
        self.living.add(pid)
        self._on_birth(pid)

    def remove(self, pid: int) -> None:
        """It has been reaped."""
        self.living.discard(pid)
        self._on_reap(pid)


def _nobody_listens(pid: int) -> None:
    pass


CENSUS = Census()
"""Of this process, as the kernel has one list of children for it."""


@dataclass(frozen=True)
class Grace:
    """How long each polite rung of the kill ladder may take, in seconds."""

    message: float
    terminate: float


@dataclass(frozen=True)
class ExitStatus:
    """How a process ended."""

    code: int
    """As `subprocess` says it: the exit status, or minus the signal's number."""
    rung: Rung
    stderr: tuple[str, ...]
    """The last lines it wrote."""
    peak_bytes: int
    """The most memory it ever had resident."""
    oom_kills: int | None = None
    """How many processes the OOM killer had ended lately: as `OomKiller` says it."""

    @property
    def words(self) -> str:
        """The exit in words a user understands."""
        if self.code >= 0:
            after = f", as after {_name(self.code - 128)}" if self.code > 128 else ""
            return f"it exited with status {self.code}{after}"
        number = -self.code
        name = _name(number)
        if self.rung in ("terminate", "kill"):
            return f"Hermetic ended it with {name}"
        return f"{name} ended it{self._sender if number == signal.SIGKILL else ''}"

    @property
    def _sender(self) -> str:
        """Who may have sent a SIGKILL that we did not: no signal says whose it is."""
        if self.oom_kills is None:
            return ": somebody sent it, or the kernel's OOM killer did"
        if self.oom_kills:
            return ": the kernel's OOM killer was at work in that minute, so memory may be used up"
        return ": somebody sent it, and not the kernel's OOM killer"


class Pipes:
    """The standard streams of a worker to come: this process's ends and the worker's."""

    def __init__(self) -> None:
        self.child_stdin, self.lifeline = os.pipe()
        self.stderr, self.child_stderr = os.pipe()

    def hand_over(self) -> None:
        """The worker has its ends."""
        os.close(self.child_stdin)
        os.close(self.child_stderr)

    def close(self) -> None:
        """There will be no worker; one that was just being forked finds its parent gone."""
        self.hand_over()
        os.close(self.lifeline)
        os.close(self.stderr)


class ChildProcess:
    """A living process. Made by `start`, `adopt` or `serve`; `on_exit` is called once, after the
    reap."""

    def __init__(
        self,
        pid: int,
        pidfd: int,
        stderr: int,
        lifeline: int,
        on_exit: Callable[[ExitStatus], None],
    ) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._stderr_fd = stderr
        self._lifeline = lifeline
        self._on_exit = on_exit
        self._rung: Rung = "itself"
        self._oom_killer = OomKiller()
        self._timer: asyncio.TimerHandle | None = None
        self._partial = b""
        self._stderr: collections.deque[str] = collections.deque(maxlen=STDERR_LINES)
        self._loop = asyncio.get_running_loop()
        self._next_look = self._loop.call_later(OOM_LOOK_SECONDS, self._look_at_oom_killer)
        self._loop.add_reader(self._pidfd, self._died)
        os.set_blocking(stderr, False)
        self._loop.add_reader(stderr, self._read_stderr)
        CENSUS.add(pid)

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        environment: Mapping[str, str],
        birth_line: bytes,
        on_exit: Callable[[ExitStatus], None],
    ) -> ChildProcess:
        """Start `argv` as the leader of a session of its own. Raises OSError where it cannot.

        Its stdin is a pipe that holds `birth_line` and then stays open as long as this process
        lives: its end means "the parent is gone". Both of its output streams come back as the
        crash report's last lines. To be called from the main thread: a parent-death signal
        fires when the thread that started the child ends.
        """
        pipes = Pipes()
        try:
            pid = _spawn(argv, environment, (pipes.child_stdin, *[pipes.child_stderr] * 2))
        except OSError:
            pipes.close()
            raise
        os.write(pipes.lifeline, birth_line)
        return cls.adopt(pid, os.pidfd_open(pid), pipes, on_exit)

    @classmethod
    def adopt(
        cls, pid: int, pidfd: int, pipes: Pipes, on_exit: Callable[[ExitStatus], None]
    ) -> ChildProcess:
        """A process that was given its ends of `pipes`, started here or forked for us.

        Its forker leaves it to this process, which is the subreaper; that may not have happened
        yet.
        """
        pipes.hand_over()
        return cls(pid, pidfd, pipes.stderr, pipes.lifeline, on_exit)

    @classmethod
    def serve(
        cls,
        argv: Sequence[str],
        environment: Mapping[str, str],
        stdin: int,
        control: int,
        on_exit: Callable[[ExitStatus], None],
    ) -> ChildProcess:
        """Start `argv` with `stdin` and, as its descriptor 3, `control`; both are closed here.

        Otherwise as `start`. Raises OSError.
        """
        stderr, child_stderr = os.pipe()
        try:
            pid = _spawn(argv, environment, (stdin, child_stderr, child_stderr, control))
        except OSError:
            os.close(stderr)
            raise
        finally:
            for descriptor in (child_stderr, stdin, control):
                os.close(descriptor)
        return cls(pid, os.pidfd_open(pid), stderr, -1, on_exit)

    def end(self, grace: Grace | None, ask: Callable[[], None] | None = None) -> None:
        """Climb the kill ladder: `ask` (a polite message), SIGTERM, SIGKILL to the whole group.

        Without a grace, SIGKILL at once. May be called again to be less patient.
        """
        if self._timer is not None:
            self._timer.cancel()
        if grace is None:
            self._kill()
        elif ask is not None:
            self._rung = "message"
            ask()
            self._timer = self._loop.call_later(grace.message, self._terminate, grace)
        else:
            self._terminate(grace)

    def memory(self) -> tuple[int, int]:
        """Resident bytes, now and at most; zeros once the process is gone."""
        try:
            resident: int = psutil.Process(self.pid).memory_info().rss
            return resident, _high_water_mark(self.pid)
        except (psutil.Error, OSError):
            return 0, 0

    def _look_at_oom_killer(self) -> None:
        self._oom_killer.look()
        self._next_look = self._loop.call_later(OOM_LOOK_SECONDS, self._look_at_oom_killer)

    def _terminate(self, grace: Grace) -> None:
        self._rung = "terminate"
        self._signal(signal.SIGTERM)
        self._timer = self._loop.call_later(grace.terminate, self._kill)

    def _kill(self) -> None:
        self._rung = "kill"
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd < 0:
            return  # reaped: the descriptor's number may be somebody else's by now
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def _died(self) -> None:
        """The leader is a zombie: end what is left of its group, then reap it."""
        self._loop.remove_reader(self._pidfd)
        self._next_look.cancel()
        if self._timer is not None:
            self._timer.cancel()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._reap()

    def _reap(self) -> None:
        try:
            _, status, usage = os.wait4(self.pid, 0)
        except ChildProcessError:
            # It died younger than its adoption: whoever forked it is just ending.
            self._loop.call_later(ADOPTION_SECONDS, self._reap)
            return
        CENSUS.remove(self.pid)
        self._read_stderr()
        if self._partial:  # its last words, without an end of the line or, as yet, of the pipe
            self._note(self._partial)
        self._close()
        peak_bytes = usage.ru_maxrss * 1024
        code = os.waitstatus_to_exitcode(status)
        oom_kills = self._oom_killer.lately()
        self._on_exit(ExitStatus(code, self._rung, tuple(self._stderr), peak_bytes, oom_kills))

    def _close(self) -> None:
        os.close(self._pidfd)
        self._pidfd = -1
        if self._lifeline >= 0:
            os.close(self._lifeline)
        if self._stderr_fd >= 0:
            self._loop.remove_reader(self._stderr_fd)
            os.close(self._stderr_fd)
            self._stderr_fd = -1

    def _read_stderr(self) -> None:
        """Take what is there, never wait: a grandchild may hold the pipe open for ever."""
        if self._stderr_fd < 0:
            return
        try:
            data = os.read(self._stderr_fd, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._stderr_fd)
            os.close(self._stderr_fd)
            self._stderr_fd = -1
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > STDERR_LINE_BYTES or not data:
            lines, self._partial = [*lines, self._partial], b""
        for line in filter(None, lines):
            self._note(line)

    def _note(self, line: bytes) -> None:
        text = line[:STDERR_LINE_BYTES].decode(errors="replace")
        self._stderr.append(text)
        logger.debug("worker %d: %s", self.pid, text)


def _name(number: int) -> str:
    known = number in set(signal.Signals)
    return signal.Signals(number).name if known else f"signal {number}"


def _spawn(argv: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int]) -> int:
    """The pid; `descriptors` become the child's 0, 1, 2 and so on, and it gets no other."""
    _inherit_nothing()
    return os.posix_spawn(
        argv[0],
        list(argv),
        dict(environment),
        file_actions=[(os.POSIX_SPAWN_DUP2, own, child) for child, own in enumerate(descriptors)],
        setsid=True,
        setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGPIPE],
    )


def _inherit_nothing() -> None:
    """Also what this process was itself given by a careless parent stays here."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own descriptor is closed by now
            if int(name) > 2:
                os.set_inheritable(int(name), False)


def _high_water_mark(pid: int) -> int:
    """VmHWM in bytes: proc(5)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
