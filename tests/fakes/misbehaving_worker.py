"""The chaos worker: a real worker that misbehaves as its model's options say. Same command line.

The life around the pipeline is hermetic_worker's own; without options it is the echo pipeline.
A misfortune comes at a place, and the flag is both names: `crash_at_step = 2`. Its flag is on
standard error before it comes ("misfortune: crash_at_step"), so that a test can wait for it.

    misfortune      what the worker does                       place          its state   value
    crash           ends by SIGSEGV                            before_hello   starting    true
    exit            ends with status 137, as `docker kill`     in_load        loading     true
    abort           ends by SIGABRT                            when_ready     ready       true
    kill            ends by SIGKILL, as the OOM killer would   at_step        running     the step
    hang            sleeps for ever                            after_done     ended       true
    hold_gil        sleeps for ever with the interpreter's lock held
    stop            stops itself by SIGSTOP
    grandchild      leaves a child behind that holds its pipes, then ends with status 1
    double_fork     leaves a daemonised process of another session behind, then ends with status 1
    garbled         sends bytes that are no message, then goes on
    stale_epoch     sends Loading, Step and Done of the epoch before its own, then goes on
    out_of_memory   raises what torch raises on CUDA, unless the profile is `low_memory`
    lose_device     raises what torch raises on CUDA when the device is of no use any more

The first step is 1, and the misfortune comes before it is told. `when_ready` is a moment after
the worker has turned idle; `after_done` a moment after a Done with images, before the next job.

    flag                  state       what the worker does
    silent                starting    never says Hello, and lives
    wrong_token           starting    says Hello with a token that is not its own
    hello_twice           starting    says Hello two times
    never_ready           loading     tells of progress for ever
    flood_stderr = BYTES  loading     writes so much to standard error, then goes on
    ignore_sigterm        any         from its assignment on (from the environment: at once)
    out_of_memory_always  running     before the first step, in the low-memory profile too
    hold_device_memory    loading     is in the books of libnvidia_ml.c with 1 GiB, also when dead
    leak_mb_per_job = MB  running     keeps so much memory of every job
    stale_done            ended       sends the Done first as of the epoch before its own
    duplicate_done        ended       sends the Done two times
    done_for_another_job  ended       sends the Done first for a job that does not exist

    only_first_attempts = N, counter_file = PATH
                          only the first N workers that come to a misfortune have it; PATH counts
                          them. What stands in COMPANIONS is no misfortune and always happens.
    only_prompt = TEXT    what comes at a step or after it comes to jobs of this prompt alone

`HERMETIC_TEST_CHAOS` in the environment holds options as a JSON object for all models, known
before the model is: without it nothing happens before Hello. FLAGS and MISFORTUNES are the tables
above for programs.

A device whose memory does not come back is played by libnvidia_ml.c in the daemon: build it as
libnvidia-ml.so.1 into a folder of the daemon's LD_LIBRARY_PATH, name a file in
HERMETIC_TEST_NVML_HELD, and start the daemon with `--device cuda`; who wants the memory back
empties the file.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import NoReturn
from unittest import mock

import msgspec

from hermetic_wire.codec import Frame
from hermetic_wire.generation import Image, Output, Parameter, TextToImage
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
)
from hermetic_worker import loop
from hermetic_worker.__main__ import leave, main
from hermetic_worker.channel import Channel, Waker
from hermetic_worker.pipelines import PIPELINES
from hermetic_worker.pipelines.base import OUTLINED, Footprint, OnProgress, OnStep, Result
from hermetic_worker.pipelines.echo import Echo
from hermetic_worker.standby import Standby

__all__ = ["COMPANIONS", "ENVIRONMENT", "FLAGS", "MISFORTUNES", "PLACES", "STAGE"]

ENVIRONMENT = "HERMETIC_TEST_CHAOS"
STARTING, LOADING, READY, RUNNING, ENDED = "starting", "loading", "ready", "running", "ended"
PLACES: dict[str, str] = {
    STARTING: "before_hello",
    LOADING: "in_load",
    READY: "when_ready",
    RUNNING: "at_step",
    ENDED: "after_done",
}
"""By the worker's state, the second half of a flag."""
_ANYWHERE = frozenset(PLACES)
MISFORTUNES: dict[str, frozenset[str]] = {
    "crash": _ANYWHERE,
    "exit": _ANYWHERE,
    "abort": _ANYWHERE,
    "kill": _ANYWHERE,
    "hang": _ANYWHERE,
    "hold_gil": _ANYWHERE,
    "stop": _ANYWHERE,
    "grandchild": _ANYWHERE,
    "double_fork": _ANYWHERE,
    "garbled": _ANYWHERE,
    "stale_epoch": _ANYWHERE - {STARTING},
    "out_of_memory": frozenset({LOADING, RUNNING}),
    "lose_device": frozenset({LOADING, RUNNING}),
}
"""The states that each can come in: the flag is `f"{misfortune}_{PLACES[state]}"`."""
FLAGS: dict[str, frozenset[str]] = {
    f"{misfortune}_{PLACES[state]}": frozenset({state})
    for misfortune, states in MISFORTUNES.items()
    for state in PLACES
    if state in states
} | {
    "silent": frozenset({STARTING}),
    "wrong_token": frozenset({STARTING}),
    "hello_twice": frozenset({STARTING}),
    "never_ready": frozenset({LOADING}),
    "flood_stderr": frozenset({LOADING}),
    "ignore_sigterm": _ANYWHERE,
    "hold_device_memory": frozenset({LOADING}),
    "out_of_memory_always": frozenset({RUNNING}),
    "leak_mb_per_job": frozenset({RUNNING}),
    "stale_done": frozenset({ENDED}),
    "duplicate_done": frozenset({ENDED}),
    "done_for_another_job": frozenset({ENDED}),
}
"""By flag, the states of a worker in which it shows."""
COMPANIONS = ("flood_stderr", "hold_device_memory", "ignore_sigterm", "leak_mb_per_job")
"""Flags that make a misfortune worse, and are none alone."""

STAGE = "soon"
"""Of the load that is `never_ready`."""
FOR_EVER = 3600
"""Seconds; every test is over before."""
QUIET_MS = 50
"""How long an idle worker waits before it misbehaves: what it said before has left by then."""
_STDERR = 2
_LINE = b"it could be worse, and it is about to be\n"
_GARBAGE = b"\xc1 is the one byte that begins no msgpack"
_SHORTAGE = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 23.68 GiB of "
    "which 1.25 GiB is free."
)
_LOSS = (
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be "
    "asynchronously reported at some other API call, so the stacktrace below might be incorrect."
)


class OutOfMemoryError(RuntimeError):
    """Named as torch's own, by which it is known."""


class AcceleratorError(RuntimeError):
    """Named as torch's own, which is known by its text."""


class Chaos:
    """The one worker of this process: what it is told to do, and what it is doing."""

    def __init__(self) -> None:
        self.options: dict[str, Parameter] = json.loads(os.environ.get(ENVIRONMENT, "{}"))
        self.channel: ChaosChannel | None = None
        self.epoch = 0
        self.low_memory = False
        self.run: Run | None = None
        self._leaked: list[bytes] = []

    def assign(self, assign: Assign) -> None:
        """The model's options are known from here on."""
        self.options |= assign.model.options
        self.low_memory = assign.low_memory
        self.heed_sigterm()
        _flood(int(self.options.get("flood_stderr", 0)))
        if self.options.get("hold_device_memory"):
            with open(os.environ["HERMETIC_TEST_NVML_HELD"], "a") as books:
                books.write(f"{os.getpid()} {1 << 30}\n")

    def heed_sigterm(self) -> None:
        """Or do not."""
        if self.options.get("ignore_sigterm"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def leak(self) -> None:
        """Keep what a job is told to leave behind, in pages that are really there."""
        self._leaked.append(b"\xff" * (int(self.options.get("leak_mb_per_job", 0)) << 20))

    def is_told(self, flag: str, step: int | None = None) -> bool:
        """Whether it happens now; then it has been announced."""
        value = self.options.get(flag)
        at_hand = int(value) == step if value and step is not None else bool(value)
        spared = flag.startswith("out_of_memory_") and self.low_memory and "always" not in flag
        if not at_hand or spared or not self._is_the_job(flag) or not self._is_early_enough:
            return False
        os.write(_STDERR, f"misfortune: {flag}\n".encode())
        return True

    def meet(self, state: str, step: int | None = None) -> None:
        """Be where misfortunes are waiting."""
        for name, act in _ACTS.items():
            if state in MISFORTUNES[name] and self.is_told(f"{name}_{PLACES[state]}", step):
                act(self)

    def _is_the_job(self, flag: str) -> bool:
        only = self.options.get("only_prompt")
        if only is None or not FLAGS[flag] <= {RUNNING, ENDED}:
            return True
        task = self.run.task if self.run else None
        return isinstance(task, TextToImage) and only in task.prompts

    @functools.cached_property
    def _is_early_enough(self) -> bool:
        """Decided once, when this worker comes to its first misfortune."""
        limit = self.options.get("only_first_attempts")
        if limit is None:
            return True
        with open(str(self.options["counter_file"]), "ab") as counter:
            counter.write(b"x")
            counter.flush()
            return counter.tell() <= int(limit)


class ChaosChannel(Channel):
    """The channel of a worker that says what it may not say."""

    def __init__(self, endpoint: str, waker: Waker) -> None:
        super().__init__(endpoint, waker)
        CHAOS.channel = self
        CHAOS.heed_sigterm()
        CHAOS.meet(STARTING)
        self._may_idle = False
        self._has_drawn = False

    def send(self, message: FromWorker, raw: Sequence[Frame] = ()) -> None:
        """The message, and what the flags add to it."""
        match message:
            case Hello():
                self._say_hello(message)
            case Done():
                self._say_done(message, raw)
            case _:
                self._may_idle |= isinstance(message, Ready)
                super().send(message, raw)

    def receive(self) -> ToWorker | None:
        """The next message, unless a misfortune comes before."""
        if self._has_drawn:
            self._has_drawn = False
            time.sleep(QUIET_MS / 1000)
            CHAOS.meet(ENDED)
        if self._may_idle and not self._ready(QUIET_MS):
            CHAOS.meet(READY)
        match message := super().receive():
            case Assign():
                CHAOS.assign(message)
            case Run():
                CHAOS.run = message
            case _:
                pass
        return message

    def send_garbage(self) -> None:
        self._socket.send_multipart([_GARBAGE])

    def send_stale(self, epoch: int, job_id: str) -> None:
        """All that a worker of that epoch might still have had to say."""
        super().send(Loading(epoch=epoch, stage="stale", fraction=0.5))
        super().send(Step(epoch=epoch, job_id=job_id, step=1, steps=2))
        super().send(Done(epoch=epoch, job_id=job_id, output=Output()))

    def _say_hello(self, hello: Hello) -> None:
        CHAOS.epoch = hello.epoch
        if CHAOS.is_told("silent"):
            return
        if CHAOS.is_told("wrong_token"):
            hello = msgspec.structs.replace(hello, token="0" * len(hello.token))
        super().send(hello)
        if CHAOS.is_told("hello_twice"):
            super().send(hello)

    def _say_done(self, done: Done, raw: Sequence[Frame]) -> None:
        if CHAOS.is_told("stale_done"):
            super().send(msgspec.structs.replace(done, epoch=done.epoch - 1), raw)
        if CHAOS.is_told("done_for_another_job"):
            super().send(msgspec.structs.replace(done, job_id=f"not-{done.job_id}"), raw)
        super().send(done, raw)
        if CHAOS.is_told("duplicate_done"):
            super().send(done, raw)
        self._has_drawn = bool(raw)


class Misbehaving:
    """The echo pipeline, until a misfortune comes."""

    def __init__(self) -> None:
        self._echo = Echo()

    def outline(self, spec: ModelSpec, device: str) -> str:
        """There is nothing to build."""
        return OUTLINED

    def load(
        self, assign: Assign, on_progress: OnProgress, standby: Standby | None = None
    ) -> Footprint:
        """The echo pipeline's load, unless told otherwise."""
        on_progress("misbehaving", 0.1)
        CHAOS.meet(LOADING)
        if CHAOS.is_told("never_ready"):
            while True:
                on_progress(STAGE, 0.5)
                time.sleep(QUIET_MS / 1000)
        return self._echo.load(assign, on_progress)

    def run(self, task: TextToImage, on_step: OnStep) -> Result:
        """The echo pipeline's run, until the step comes."""

        def misbehave(
            step: int,
            steps: int,
            timestep: float | None = None,
            show: Callable[[], tuple[Image, Frame]] | None = None,
        ) -> None:
            if CHAOS.is_told("out_of_memory_always"):
                raise OutOfMemoryError(_SHORTAGE)
            CHAOS.meet(RUNNING, step)
            on_step(step, steps, timestep, show)

        CHAOS.leak()
        return self._echo.run(task, misbehave)


def _flood(left: int) -> None:
    while left > 0:
        left -= os.write(_STDERR, _LINE)


def _end(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _exit(chaos: Chaos) -> None:
    os._exit(137)


def _hang(chaos: Chaos) -> None:
    while True:  # a signal handler that returns would end a single sleep early
        time.sleep(FOR_EVER)


def _leave_grandchild(chaos: Chaos) -> NoReturn:
    if os.fork() == 0:
        _stay_behind()
    os._exit(1)


def _leave_daemonised(chaos: Chaos) -> NoReturn:
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            _stay_behind()
        os._exit(0)
    os.waitpid(child, 0)
    os._exit(1)


def _stay_behind() -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(FOR_EVER)
    os._exit(0)


def _send_garbage(chaos: Chaos) -> None:
    assert chaos.channel is not None
    chaos.channel.send_garbage()


def _send_stale(chaos: Chaos) -> None:
    assert chaos.channel is not None
    chaos.channel.send_stale(chaos.epoch - 1, chaos.run.job_id if chaos.run else "none")


def _run_out_of_memory(chaos: Chaos) -> NoReturn:
    raise OutOfMemoryError(_SHORTAGE)


def _lose_device(chaos: Chaos) -> NoReturn:
    raise AcceleratorError(_LOSS)


_ACTS: dict[str, Callable[[Chaos], None]] = {
    "crash": lambda chaos: _end(signal.SIGSEGV),
    "exit": _exit,
    "abort": lambda chaos: _end(signal.SIGABRT),
    "kill": lambda chaos: os.kill(os.getpid(), signal.SIGKILL),
    "hang": _hang,
    "hold_gil": lambda chaos: ctypes.PyDLL(None).sleep(FOR_EVER),
    "stop": lambda chaos: os.kill(os.getpid(), signal.SIGSTOP),
    "grandchild": _leave_grandchild,
    "double_fork": _leave_daemonised,
    "garbled": _send_garbage,
    "stale_epoch": _send_stale,
    "out_of_memory": _run_out_of_memory,
    "lose_device": _lose_device,
}
CHAOS = Chaos()


if __name__ == "__main__":
    with mock.patch.object(loop, "Channel", ChaosChannel):
        leave(main(pipelines={**PIPELINES, "echo": Misbehaving, "misbehaving": Misbehaving}))
