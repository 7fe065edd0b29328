"""The daemon's part in the life of a template, played by a test: starts it, asks it for workers.

The test's own process adopts the workers, as the daemon does, and reaps every one by its pid.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil
import zmq

from hermetic_wire.codec import Frame
from hermetic_wire.generation import TextToImage
from hermetic_wire.template import (
    Forked,
    ForkRequest,
    FromTemplate,
    Refused,
    Serving,
    Setup,
    from_template,
    setup,
)
from hermetic_wire.worker import (
    Assign,
    Done,
    FromWorker,
    Hello,
    Loading,
    ModelSpec,
    Ready,
    Run,
    Step,
    ToWorker,
    from_worker,
    to_worker,
)

from .processes import until

__all__ = ["REAL", "ForkedWorker", "PlayedDaemon", "adopting"]

Kind = TypeVar("Kind")
REAL = ("-m", "hermetic_worker.template")
PATIENCE = 25.0
"""Seconds that a template may take to import everything on a busy machine."""
MAX_PACKET = 1 << 16
TOKEN = "0123456789abcdef" * 2
_MARK = "HERMETIC_TEST_TEMPLATE"
"""In the environment of a template and of all that it forks: its folder."""
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37  # <linux/prctl.h>


@contextmanager
def adopting() -> Iterator[None]:
    """Meanwhile this process adopts what its children leave behind: prctl(2)."""
    libc = ctypes.CDLL(None)
    before = ctypes.c_int()
    libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before))
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, before.value)


@dataclass
class ForkedWorker:
    """A worker as the daemon holds it: its pidfd, and the pipe whose end means "parent gone"."""

    epoch: int
    pid: int
    pidfd: int
    lifeline: int
    reaped: int | None = None

    def reap(self) -> int:
        """Wait for its end; the exit code, or minus the signal."""
        if self.reaped is None:
            self.reaped = _reap(self.pid)
            os.close(self.pidfd)
            os.close(self.lifeline)
        return self.reaped

    def end(self) -> int:
        """SIGKILL, as at a switch."""
        if self.reaped is None:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        return self.reap()


@dataclass
class PlayedDaemon:
    """One template and the sockets to it and to its workers. Everything in `folder`, whose path
    has to be short."""

    folder: Path
    program: Sequence[str] = REAL
    models: tuple[ModelSpec, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    workers: dict[int, ForkedWorker] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.bind(self.endpoint)
        self._peers: dict[int, bytes] = {}
        self._heard: dict[int, deque[tuple[FromWorker, list[Frame]]]] = defaultdict(deque)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(PATIENCE)
        self.pid = self._spawn(theirs)
        theirs.close()
        self._code: int | None = None

    @property
    def endpoint(self) -> str:
        return f"ipc://{self.folder}/w"

    def log(self) -> str:
        """What the template and its workers wrote."""
        return (self.folder / "log").read_text()

    def _spawn(self, control: socket.socket) -> int:
        _inherit_nothing()
        stdin = os.memfd_create("setup")
        (content,) = setup.encode(Setup(models=self.models, device="cpu", endpoint=self.endpoint))
        os.write(stdin, content)
        os.lseek(stdin, 0, os.SEEK_SET)
        with (self.folder / "log").open("wb") as log:
            own = (stdin, log.fileno(), log.fileno(), control.fileno())
            pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-W", "ignore", *self.program],
                {
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    _MARK: str(self.folder),
                    **self.environment,
                },
                file_actions=[(os.POSIX_SPAWN_DUP2, one, nth) for nth, one in enumerate(own)],
                setsid=True,
            )
        os.close(stdin)
        return pid

    # The template.

    def hear(self) -> tuple[FromTemplate | None, list[int]]:
        """Its next message and the descriptors that came along; None when it has gone."""
        packet, descriptors, *_ = socket.recv_fds(self.control, MAX_PACKET, 4)
        if not packet:
            return None, descriptors
        return from_template.decode([packet])[0], descriptors

    def serving(self) -> Serving:
        """Its first message, which must say that it serves."""
        return self._told(Serving)

    def refused(self) -> str:
        """Its next message must be a refusal, upon which it ends; the reason."""
        reason = self._told(Refused).reason
        assert self.wait() == 1, self.log()
        return reason

    def _told(self, kind: type[Kind]) -> Kind:
        message, descriptors = self.hear()
        assert isinstance(message, kind), (message, self.log())
        assert not descriptors
        return message

    def request(self, epoch: int) -> int:
        """Ask for a worker and do not wait for it; the lifeline."""
        stdin, lifeline = os.pipe()
        with (self.folder / "log").open("ab") as log:
            packet = ForkRequest(epoch, TOKEN).encode()
            socket.send_fds(self.control, [packet], [stdin, log.fileno()])
        os.close(stdin)
        return lifeline

    def fork(self, epoch: int) -> ForkedWorker:
        """Ask for a worker and take it over."""
        worker = self.take(self.request(epoch))
        assert worker.epoch == epoch
        return worker

    def take(self, lifeline: int) -> ForkedWorker:
        """The worker that comes next, and is kept alive by that pipe."""
        message, descriptors = self.hear()
        assert isinstance(message, Forked), (message, self.log())
        (pidfd,) = descriptors
        worker = ForkedWorker(message.epoch, message.pid, pidfd, lifeline)
        self.workers[message.epoch] = worker
        return worker

    def spare(self) -> int:
        """The child that waits for the next request."""
        found: list[int] = []

        def waits() -> bool:
            found[:] = [child.pid for child in psutil.Process(self.pid).children()]
            return len(found) == 1

        until(waits, PATIENCE, "a spare is there")
        return found[0]

    def wait(self) -> int:
        """The template's exit code, or minus the signal."""
        if self._code is None:
            self._code = _reap(self.pid)
        return self._code

    def kill(self) -> None:
        """SIGKILL to the template alone."""
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    # Its workers.

    def send(self, epoch: int, message: ToWorker) -> None:
        self._router.send_multipart([self._peers[epoch], *to_worker.encode(message)])

    def receive(self, epoch: int) -> tuple[FromWorker, list[Frame]]:
        """The next message of that worker."""
        while not self._heard[epoch]:
            said = self._router.poll(int(1000 * PATIENCE))
            assert said, f"epoch {epoch} says nothing:\n{self.log()}"
            peer, *frames = self._router.recv_multipart()
            message, raw = from_worker.decode(frames)
            self._peers[message.epoch] = peer
            self._heard[message.epoch].append((message, raw))
        return self._heard[epoch].popleft()

    def _next(self, epoch: int, kind: type[Kind], *passed: type) -> tuple[Kind, list[Frame]]:
        while isinstance((said := self.receive(epoch))[0], passed):
            pass
        message, frames = said
        assert isinstance(message, kind), (message, self.log())
        return message, frames

    def hello(self, epoch: int) -> Hello:
        return self._next(epoch, Hello)[0]

    def load(self, epoch: int, spec: ModelSpec) -> Ready:
        """From Hello to Ready."""
        self.hello(epoch)
        self.send(epoch, Assign(model=spec, device="cpu", smoke="never"))
        return self._next(epoch, Ready, Loading)[0]

    def run(self, epoch: int, task: TextToImage) -> list[bytes]:
        """The frames of the job's result."""
        self.send(epoch, Run(job_id="j", task=task))
        return [bytes(frame) for frame in self._next(epoch, Done, Step)[1]]

    # The end.

    def close(self) -> None:
        """End all; fails where a process that this template has made is left."""
        self.control.close()
        self.kill()
        for worker in self.workers.values():
            worker.end()
        self._context.destroy(linger=0)
        until(lambda: not self._left(), PATIENCE, "nothing that the template has made is left")

    def _left(self) -> list[psutil.Process]:
        """The living among the children that this process had to adopt; the dead are reaped."""
        left = []
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                if child.status() != psutil.STATUS_ZOMBIE:
                    left += [child] if child.environ().get(_MARK) == str(self.folder) else []
                elif child.name() == "hermetic-spare":
                    os.waitpid(child.pid, 0)
        return left

    def __enter__(self) -> PlayedDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _reap(pid: int) -> int:
    """A worker is ours only when its spare has ended, which may be a moment later."""
    found: list[int] = []

    def ended() -> bool:
        with suppress(ChildProcessError):
            which, status = os.waitpid(pid, os.WNOHANG)
            if which:
                found.append(os.waitstatus_to_exitcode(status))
        return bool(found)

    until(ended, PATIENCE, f"process {pid} ends")
    return found[0]


def _inherit_nothing() -> None:
    """What a careless library of the test left inheritable stays here, as with the daemon."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own is closed by now
            if int(name) > 2:
                os.set_inheritable(int(name), False)
