"""The daemon's end of a worker's life, and tiny models that are built once per session."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import zmq

from hermetic_wire.codec import Frame
from hermetic_wire.generation import TextToImage
from hermetic_wire.worker import (
    Assign,
    FromWorker,
    Hello,
    Loading,
    ModelSpec,
    Ready,
    Step,
    ToWorker,
    from_worker,
    to_worker,
)
from hermetic_worker.steps import PACE_SECONDS
from support import tiny_models

Kind = TypeVar("Kind")
PATIENCE_MS = 20_000
TOKEN = "0123abcd"
DIFFUSERS = [
    # Of diffusers' Euler schedulers under numpy 2.4, at every job.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # Whichever test comes first also pays for the import of torch.
    pytest.mark.timeout(30, func_only=True),
]
"""Marks of the tests that run real pipelines."""


class DaemonEnd:
    """A ROUTER that one worker talks to."""

    def __init__(self, folder: Path) -> None:
        self.endpoint = f"ipc://{folder}/w"
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(self.endpoint)
        self._peer = b""

    def receive(self) -> tuple[FromWorker, list[Frame]]:
        """The next message of the worker, with its raw frames."""
        assert self._socket.poll(PATIENCE_MS), "the worker says nothing"
        self._peer, *frames = self._socket.recv_multipart()
        return from_worker.decode(frames)

    def expect(self, kind: type[Kind]) -> Kind:
        """The next message, which must be of that kind."""
        message, _ = self.receive()
        assert isinstance(message, kind), message
        return message

    def says_nothing(self) -> bool:
        """Whether no message is here by now."""
        return not self._socket.poll(0)

    def send(self, message: ToWorker) -> None:
        self.send_frames(to_worker.encode(message))

    def send_frames(self, frames: list[Frame]) -> None:
        self._socket.send_multipart([self._peer, *frames])

    def make_ready(self, spec: ModelSpec) -> tuple[Hello, Ready]:
        """From Hello to Ready."""
        hello = self.expect(Hello)
        self.send(Assign(model=spec, device="cpu"))
        while isinstance(message := self.receive()[0], Loading):
            pass
        assert isinstance(message, Ready), message
        return hello, message

    def end_of_job(self) -> tuple[FromWorker, list[Frame]]:
        """The first message that is no Step."""
        while isinstance((answer := self.receive())[0], Step):
            pass
        return answer

    def close(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def daemon_end(short_folder: Path) -> Iterator[DaemonEnd]:
    end = DaemonEnd(short_folder)
    yield end
    end.close()


@pytest.fixture
def short_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose sockets stay below 108 bytes however long the test's name is."""
    return tmp_path_factory.mktemp("w")


class StartedWorker:
    """A worker's process. Its standard input stays open, as the daemon keeps it."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._out, self._log = folder / "out", folder / "log"
        with self._out.open("wb") as out, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=log, start_new_session=True
            )
        self.pid = self._process.pid
        assert self._process.stdin is not None
        self._pipe = self._process.stdin
        self._pipe.write(f"{TOKEN}\n".encode())
        self._pipe.flush()

    def close_pipe(self) -> None:
        """What the death of the daemon does."""
        self._pipe.close()

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self) -> int:
        """Its exit code, or minus the signal."""
        return self._process.wait()

    def out(self) -> str:
        return self._out.read_text()

    def log(self) -> str:
        return self._log.read_text()

    def clean_up(self) -> None:
        self._process.kill()
        self._process.wait()
        self._pipe.close()


StartWorker = Callable[..., StartedWorker]


@pytest.fixture
def start_worker(
    daemon_end: DaemonEnd, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartWorker]:
    """Starts real workers as the daemon does; whichever still lives is killed at the end."""
    started: list[StartedWorker] = []

    def start(*program: str) -> StartedWorker:
        program = program or ("-m", "hermetic_worker")
        birth = ("--endpoint", daemon_end.endpoint, "--epoch", "7")
        folder = tmp_path_factory.mktemp("logs")
        started.append(StartedWorker([sys.executable, *program, *birth], folder))
        return started[-1]

    yield start
    for worker in started:
        worker.clean_up()


@pytest.fixture(scope="session")
def sd15_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    _one_thread()
    return tiny_models.sd15(tmp_path_factory.mktemp("models") / "sd15")


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    _one_thread()
    return tiny_models.sdxl(tmp_path_factory.mktemp("models") / "sdxl")


def _one_thread() -> None:
    """Threads that wait for each other make tiny models ten times slower on a busy machine."""
    from hermetic_worker import libraries

    libraries.bring_in()
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def echo_task() -> Callable[..., TextToImage]:
    """Makes small tasks for the echo pipeline, whose steps take so long that each is told."""

    def make(steps: int = 2, **changes: object) -> TextToImage:
        fields: dict[str, object] = {
            "prompts": ("a red circle",),
            "width": 16,
            "height": 8,
            "steps": steps,
            "guidance": 1.0,
            "seeds": (1,),
            "extra": {"step_seconds": PACE_SECONDS},
        }
        return TextToImage(**(fields | changes))  # type: ignore[arg-type]

    return make
