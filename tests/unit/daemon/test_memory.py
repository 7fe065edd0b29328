"""What a switch needs to know of memory, with NVML and the clock played by doubles."""

from __future__ import annotations

import asyncio
import heapq
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import pynvml
import pytest

from hermetic_daemon import memory
from hermetic_daemon.memory import Memory, prove_release
from hermetic_wire.errors import HermeticError, MemoryNotReleased

PID = 4242
GIB = 1 << 30


class NVMLError(Exception):
    pass


class FakeNvml:
    """Two GPUs; a device's handle is its number. `looks` says what PID holds, look by look: bytes,
    -1 for bytes that the driver does not tell, None for nothing; an error is raised."""

    NVMLError = NVMLError
    UUIDS = ("GPU-aaaa0000-1111", "GPU-bbbb0000-2222")

    def __init__(self) -> None:
        self.free = 8 * GIB
        self.looks: Sequence[int | Exception | None] = (None,)
        self.calls: list[tuple[str, object]] = []
        self.broken = False

    def _called(self, name: str, what: object = None) -> None:
        self.calls.append((name, what))
        if self.broken:
            raise NVMLError("GPU is lost")

    def nvmlInit(self) -> None:
        self._called("init")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.UUIDS)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        return number

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetUUID(self, gpu: int) -> str:
        return self.UUIDS[gpu]

    def nvmlDeviceGetMemoryInfo(self, gpu: object) -> Any:
        self._called("memory", gpu)
        return SimpleNamespace(total=16 * GIB, free=self.free)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: object) -> list[Any]:
        self._called("processes", gpu)
        held, *later = self.looks
        self.looks = later or (held,)
        other = SimpleNamespace(pid=PID + 1, usedGpuMemory=3 * GIB)
        match held:
            case Exception():
                raise held
            case None:
                return [other]
            case -1:
                return [other, SimpleNamespace(pid=PID, usedGpuMemory=None)]
            case _:
                return [other, SimpleNamespace(pid=PID, usedGpuMemory=held)]

    @property
    def asked(self) -> set[object]:
        """The devices that were asked for their memory or processes."""
        return {what for name, what in self.calls if name != "init"}


class FakeLoop:
    """The part of an event loop that keeps time: it passes only when `run` lets it."""

    def __init__(self) -> None:
        self.now = 100.0
        self._order = count()
        self._due: list[tuple[float, int, asyncio.TimerHandle]] = []

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: object) -> None:
        pass

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: object
    ) -> asyncio.TimerHandle:
        loop = cast("asyncio.AbstractEventLoop", self)
        handle = asyncio.TimerHandle(self.now + delay, callback, args, loop)
        heapq.heappush(self._due, (handle.when(), next(self._order), handle))
        return handle

    def run(self) -> None:
        """Lets time pass until nobody waits for it."""
        while self._due:
            self.now, _, handle = heapq.heappop(self._due)
            if not handle.cancelled():
                handle._run()


class Proof:
    """A release that is being proven, and what came of it."""

    def __init__(self, of: Memory, seconds: float = 1.0) -> None:
        self.loop = FakeLoop()
        self.told: list[HermeticError | None] = []
        loop = cast("asyncio.AbstractEventLoop", self.loop)
        self.release = prove_release(of, PID, seconds, loop, self.told.append)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """What `import pynvml` finds, with no device hidden."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", cast("Any", fake))
    return fake


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """The warnings logged so far."""
    with caplog.at_level(logging.WARNING, logger=memory.__name__):
        yield lambda: [record.getMessage() for record in caplog.records]


# The host.


def test_a_model_beside_another_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    told = SimpleNamespace(total=64 * GIB, available=6 * GIB + (512 << 20))
    monkeypatch.setattr("psutil.virtual_memory", lambda: told)
    host = Memory("cpu")
    assert host.allows_beside(3 * GIB)
    assert not host.allows_beside(3 * GIB + 1)
    assert (host.total_bytes(), host.free_bytes()) == (told.total, told.available)


def test_a_reaped_process_holds_nothing_of_the_host() -> None:
    proof = Proof(Memory("cpu"))
    assert proof.told == [None], "at once, without the loop"


def test_a_cpu_never_needs_nvml() -> None:
    program = (
        "import sys; from hermetic_daemon.memory import Memory; "
        "one = Memory('cpu'); one.allows_beside(1), one.holds(1), one.free_bytes(); "
        "raise SystemExit('pynvml' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# A GPU.


def test_a_model_beside_another_on_a_gpu(nvml: FakeNvml) -> None:
    gpu = Memory("cuda")
    nvml.free = 6 * GIB
    assert gpu.allows_beside(4 * GIB)
    nvml.free -= 1
    assert not gpu.allows_beside(4 * GIB)
    assert (gpu.total_bytes(), gpu.free_bytes()) == (16 * GIB, 6 * GIB - 1)


def test_only_the_process_asked_for_counts(nvml: FakeNvml) -> None:
    nvml.looks = [5 * GIB, 5 * GIB, None]
    gpu = Memory("cuda")
    assert gpu.held_bytes(PID) == 5 * GIB
    assert gpu.holds(PID)
    assert not gpu.holds(PID)


def test_a_driver_that_does_not_tell_how_much(nvml: FakeNvml) -> None:
    nvml.looks = [-1]
    assert Memory("cuda").holds(PID)


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [
        ("cuda", None, 0),
        ("cuda:1", None, 1),
        ("cuda", "1", 1),
        ("cuda:1", "1, 0", 0),
        ("cuda", "GPU-bbbb0000-2222", 1),
        ("cuda:1", "1,GPU-aaaa", 0),
        ("cuda", "MIG-cccc-3333", "MIG-cccc-3333"),
    ],
)
def test_the_device_is_the_one_that_cuda_means(
    nvml: FakeNvml,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    visible: str | None,
    expected: int | str,
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpu = Memory(device)
    gpu.free_bytes()
    gpu.holds(PID)
    assert nvml.asked == {expected}


@pytest.mark.parametrize(
    ("device", "visible"),
    [("cuda:1", "0"), ("cuda", ""), ("cuda", "-1"), ("cuda", "GPU-eeee"), ("cuda", "none")],
)
def test_a_device_that_is_hidden_is_never_mistaken_for_another(
    nvml: FakeNvml,
    monkeypatch: pytest.MonkeyPatch,
    warnings: Callable[[], list[str]],
    device: str,
    visible: str,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpu = Memory(device)
    assert not gpu.allows_beside(1)
    assert not gpu.holds(PID)
    assert nvml.asked == set()
    (said,) = warnings()
    assert f"{device} (CUDA_VISIBLE_DEVICES={visible!r} has no such device)" in said


# NVML that is missing, or fails.


def blind(gpu: Memory) -> bool:
    """Nothing is known, nothing is allowed that would need knowledge, and nothing raises."""
    known = gpu.total_bytes() or gpu.free_bytes() or gpu.holds(PID) or gpu.allows_beside(0)
    return not known


def test_without_the_binding_work_goes_on(
    monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert blind(Memory("cuda"))
    assert len(warnings()) == 1


def test_the_double_plays_functions_that_the_binding_has() -> None:
    played = {name for name in vars(FakeNvml) if name.startswith("nvml")}
    assert played
    assert {name for name in played if not hasattr(pynvml, name)} == set()


def test_without_a_driver_work_goes_on(nvml: FakeNvml, warnings: Callable[[], list[str]]) -> None:
    nvml.broken = True
    assert blind(Memory("cuda:1"))
    (said,) = warnings()
    assert "cuda:1" in said
    assert "GPU is lost" in said


def test_a_driver_that_fails_later_is_not_asked_again(
    nvml: FakeNvml, warnings: Callable[[], list[str]]
) -> None:
    gpu = Memory("cuda")
    assert gpu.allows_beside(0)
    nvml.broken = True
    assert not gpu.allows_beside(0)
    nvml.broken = False
    asked = len(nvml.calls)
    assert blind(gpu)
    assert len(nvml.calls) == asked
    assert len(warnings()) == 1


# The proof of a release.


def test_memory_that_is_free_at_once_does_not_wait_for_the_loop(nvml: FakeNvml) -> None:
    proof = Proof(Memory("cuda"))
    assert proof.told == [None]
    proof.loop.run()
    assert proof.told == [None], "told once"
    assert proof.loop.now == 100.0


def test_memory_that_comes_back_after_a_few_looks(nvml: FakeNvml) -> None:
    nvml.looks = [5 * GIB, 5 * GIB, 1 * GIB, None]
    proof = Proof(Memory("cuda"))
    assert proof.told == []
    proof.loop.run()
    assert proof.told == [None]
    assert proof.loop.now == pytest.approx(100.0 + 3 * memory.POLL_SECONDS)


def test_memory_that_never_comes_back(nvml: FakeNvml) -> None:
    nvml.looks = [3 * GIB // 2]
    proof = Proof(Memory("cuda"), seconds=2.0)
    proof.loop.run()
    (error,) = proof.told
    assert isinstance(error, MemoryNotReleased)
    for said in ("process 4242", "cuda", "within 2 s", "1.5 GiB", "8.0 GiB of 16.0 GiB"):
        assert said in error.message
    assert proof.loop.now == pytest.approx(102.0, abs=2 * memory.POLL_SECONDS)


def test_no_time_at_all_is_one_look(nvml: FakeNvml) -> None:
    nvml.looks = [GIB]
    proof = Proof(Memory("cuda"), seconds=0.0)
    assert [type(one) for one in proof.told] == [MemoryNotReleased]


def test_nvml_that_fails_in_the_middle_of_a_proof(
    nvml: FakeNvml, warnings: Callable[[], list[str]]
) -> None:
    nvml.looks = [GIB, GIB, NVMLError("GPU is lost")]
    proof = Proof(Memory("cuda"))
    assert proof.told == []
    proof.loop.run()
    assert proof.told == [None]
    assert len(warnings()) == 1


def test_a_proof_that_nobody_wants_any_more(nvml: FakeNvml) -> None:
    nvml.looks = [GIB, None]
    proof = Proof(Memory("cuda"))
    proof.release.cancel()
    proof.loop.run()
    assert proof.told == []
