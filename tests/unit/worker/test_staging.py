"""From mapped files to a device, on host memory: the same code, slot by slot, as on CUDA."""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from ctypes import memmove
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hermetic_worker.device import Device
from hermetic_worker.staging import Rates, Ring, copying, measure, stage
from hermetic_worker.staging.engine import CudaEngine, Engine, HostEngine
from hermetic_worker.staging.layout import ALIGNMENT, Layout

pytestmark = pytest.mark.timeout(30, func_only=True)
CPU = Device("cpu")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
SLOT = 4096


def noise(nbytes: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (nbytes,), dtype=torch.uint8, generator=generator)


def raw(tensor: torch.Tensor) -> bytes:
    """Its bytes: NaNs of random weights compare unequal as numbers."""
    return bytes(tensor.reshape(-1).view(torch.uint8).tolist())


def small_ring(engine: Engine | None = None, slots: int = 2) -> Ring:
    return Ring.make(CPU, slots=slots, slot_bytes=SLOT, engine=engine)


class SlowEngine(HostEngine):
    """The slowest device there can be: no copy moves a byte until somebody waits for it.

    Whoever overwrites a slot before its copy was waited for is found by the copy of the slot
    that was made when the copy was begun.
    """

    def __init__(self) -> None:
        self.flying: dict[int, tuple[torch.Tensor, torch.Tensor, bytes]] = {}
        self.record: list[tuple[str, int]] = []

    def begin(self, index: int, source: torch.Tensor, target: torch.Tensor) -> None:
        assert index not in self.flying, "begun from a slot that is still being read"
        self.record.append(("begin", index))
        self.flying[index] = (source, target, raw(source))

    def wait(self, index: int) -> None:
        self.record.append(("wait", index))
        if index in self.flying:
            source, target, begun_with = self.flying.pop(index)
            assert raw(source) == begun_with, f"slot {index} was overwritten before its event"
            super().begin(index, source, target)

    def finish(self) -> None:
        for index in list(self.flying):
            self.wait(index)


class FullEngine(HostEngine):
    """A device with no room for the first attempts."""

    def __init__(self, refusals: int, error: Callable[[], Exception]) -> None:
        self.refusals = refusals
        self.attempts = 0
        self._error = error

    def allocate(self, nbytes: int) -> torch.Tensor:
        self.attempts += 1
        if self.attempts <= self.refusals:
            raise self._error()
        return super().allocate(nbytes)


class FakeStream(AbstractContextManager[None]):
    """Of torch.cuda, as far as the engine uses it; entering it is `with torch.cuda.stream(it)`."""

    def __init__(self, record: list[str]) -> None:
        self.record = record

    def __exit__(self, *error: object) -> None:
        self.record.append("leave stream")

    def synchronize(self) -> None:
        self.record.append("synchronize stream")


class FakeEvent:
    """Of torch.cuda; it knows on which stream it was last recorded."""

    def __init__(self, record: list[str], number: int) -> None:
        self._record = record
        self._number = number

    def record(self, stream: FakeStream) -> None:
        stream.record.append(f"record {self._number}")

    def synchronize(self) -> None:
        self._record.append(f"synchronize {self._number}")


@pytest.fixture
def cuda_record(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the CUDA engine asks of torch.cuda, in its order."""
    record: list[str] = []
    numbers = itertools.count()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream(record))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "Event", lambda blocking: FakeEvent(record, next(numbers)))
    return record


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def shortage() -> Exception:
    error: Exception = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return error


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[torch.Tensor]:
    """A flat view of a file that is mapped as weights are: shared, read-only."""
    file = tmp_path / "weights"
    file.write_bytes(bytes(noise(5 * SLOT).tolist()))
    descriptor = os.open(file, os.O_RDONLY)
    whole = mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ)
    os.close(descriptor)
    with pytest.warns(UserWarning, match="not writable"):
        view = torch.frombuffer(whole, dtype=torch.uint8)
    before = raw(view)
    yield view
    assert file.read_bytes() == before


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_bit_arrives_whatever_the_dtype(dtype: torch.dtype) -> None:
    if dtype is torch.bool:
        source = (noise(3 * SLOT) > 127).view(3, -1)
    else:
        source = noise(3 * SLOT).view(dtype).view(3, -1)
    (staged,) = stage([source], CPU, small_ring())
    assert (staged.dtype, staged.shape) == (source.dtype, source.shape)
    assert raw(staged) == raw(source)


def test_all_are_aligned_views_of_one_block() -> None:
    sources = [noise(size, seed=size) for size in (1, 255, 256, 257, SLOT, 3)]
    staged = stage(sources, CPU, small_ring())
    assert {each.data_ptr() % ALIGNMENT for each in staged} == {0}
    assert len({each.untyped_storage().data_ptr() for each in staged}) == 1
    assert [raw(each) for each in staged] == [raw(each) for each in sources]


@pytest.mark.parametrize("size", [SLOT - 1, SLOT, SLOT + 1, 2 * SLOT, 7 * SLOT + 5])
def test_a_tensor_is_cut_where_a_slot_ends(size: int) -> None:
    sources = [noise(300), noise(size, seed=1), noise(300, seed=2)]
    staged = stage(sources, CPU, small_ring(slots=3))
    assert [raw(each) for each in staged] == [raw(each) for each in sources]


def test_tensors_without_elements_and_without_dimensions_keep_their_place() -> None:
    sources = [torch.zeros(0, 4), torch.tensor(1.5), torch.zeros(2, 0, dtype=torch.bool)]
    staged = stage(sources, CPU, small_ring())
    assert [each.shape for each in staged] == [each.shape for each in sources]
    assert [each.dtype for each in staged] == [each.dtype for each in sources]
    assert staged[1].item() == 1.5


@pytest.mark.parametrize("sources", [[], [torch.zeros(0)]])
def test_nothing_to_copy_is_no_copy(sources: list[torch.Tensor]) -> None:
    engine, told = SlowEngine(), list[float]()
    staged = stage(sources, CPU, small_ring(engine), on_progress=told.append)
    assert ([each.numel() for each in staged], told) == ([0] * len(sources), [1.0])
    assert engine.record == []


def test_small_neighbours_share_a_slot() -> None:
    engine = SlowEngine()
    stage([noise(10, seed) for seed in range(16)], CPU, small_ring(engine))
    assert [what for what, _ in engine.record].count("begin") == 1


def test_a_read_only_map_is_copied_and_stays_as_it_was(mapped: torch.Tensor) -> None:
    sources = [mapped[: 2 * SLOT].view(torch.float16), mapped[2 * SLOT + 1 :]]
    staged = stage(sources, CPU, small_ring())
    assert [raw(each) for each in staged] == [raw(each) for each in sources]
    staged[1].zero_()  # what is staged is the worker's own; a write to the map would be SIGSEGV


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(
        st.one_of(st.integers(0, 700), st.integers(0, 4 * SLOT), st.just(SLOT)), max_size=12
    ),
    slots=st.integers(2, 4),
    threads=st.integers(1, 5),
)
def test_no_slot_is_overwritten_before_its_event(
    sizes: list[int], slots: int, threads: int
) -> None:
    engine = SlowEngine()
    sources = [noise(size, seed) for seed, size in enumerate(sizes)]
    staged = stage(sources, CPU, small_ring(engine, slots), threads=threads)
    assert [raw(each) for each in staged] == [raw(each) for each in sources]
    used = [index for what, index in engine.record if what == "begin"]
    assert used == [number % slots for number in range(len(used))], "round and round"
    assert not engine.flying


@given(st.lists(st.integers(0, 3 * ALIGNMENT), max_size=20), st.integers(1, 5 * ALIGNMENT))
def test_every_byte_lies_in_exactly_one_stretch(sizes: list[int], stretch: int) -> None:
    layout = Layout.of(sizes)
    found: list[list[int]] = [[] for _ in sizes]
    for low in range(0, layout.total, stretch):
        for piece in layout.pieces(low, low + stretch):
            assert piece.offset == layout.offsets[piece.tensor] + piece.start
            found[piece.tensor] += range(piece.start, piece.start + piece.nbytes)
    assert found == [list(range(size)) for size in sizes]


def test_progress_goes_forward_to_its_end() -> None:
    told: list[float] = []
    stage([noise(5 * SLOT)], CPU, small_ring(), on_progress=told.append)
    assert told == [0.2, 0.4, 0.6, 0.8, 1.0]


class Stopped(Exception):
    """What a progress callback raises when the daemon has asked to end."""


def test_a_stop_leaves_no_copy_in_flight() -> None:
    engine = SlowEngine()

    def stop(fraction: float) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        stage([noise(9 * SLOT)], CPU, small_ring(engine, slots=4), on_progress=stop)
    assert ("begin", 0) in engine.record
    assert not engine.flying, "the block is given back while something still writes to it"


def test_a_copy_that_fails_in_a_thread_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, done = SlowEngine(), list[int]()

    def fail_late(target: int, source: int, nbytes: int) -> None:
        if len(done) >= 3:
            raise OSError("the disk is gone")
        done.append(nbytes)
        memmove(target, source, nbytes)

    monkeypatch.setattr(copying, "memmove", fail_late)
    with pytest.raises(OSError, match="the disk is gone"):
        stage([noise(9 * SLOT)], CPU, small_ring(engine), threads=1)
    assert not engine.flying


def test_on_cuda_each_slot_has_its_event_behind_its_copy(cuda_record: list[str]) -> None:
    engine = CudaEngine(Device("cuda", 0))
    source, target = noise(8), torch.zeros(8, dtype=torch.uint8)
    engine.wait(0)
    for index in (0, 1, 0):
        engine.begin(index, source, target)
    engine.wait(1)
    engine.wait(0)
    engine.finish()
    assert raw(target) == raw(source)
    copied = ["leave stream", "record 0", "leave stream", "record 1", "leave stream", "record 0"]
    assert cuda_record == [*copied, "synchronize 1", "synchronize 0", "synchronize stream"]


def test_memory_that_comes_back_is_waited_for() -> None:
    engine, clock = FullEngine(3, shortage), Clock()
    block = copying.allocate(engine, 100, 1.0, clock, clock.sleep)
    assert (block.nbytes, engine.attempts) == (100, 4)
    assert clock.now == pytest.approx(3 * copying.RETRY_SECONDS)


def test_memory_that_does_not_come_back_is_told_as_it_was() -> None:
    engine, clock = FullEngine(1 << 30, shortage), Clock()
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        copying.allocate(engine, 100, 0.1, clock, clock.sleep)
    assert clock.now == pytest.approx(0.1, abs=copying.RETRY_SECONDS)
    assert engine.attempts == pytest.approx(21, abs=1)


def test_another_error_than_a_shortage_is_not_tried_again() -> None:
    engine = FullEngine(1 << 30, lambda: RuntimeError("CUDA error: unknown error"))
    with pytest.raises(RuntimeError, match="unknown error"):
        stage([noise(1)], CPU, small_ring(engine))
    assert engine.attempts == 1


def test_staging_has_its_budget_for_a_full_device() -> None:
    engine = FullEngine(1 << 30, shortage)
    with pytest.raises(torch.OutOfMemoryError):
        stage([noise(1)], CPU, small_ring(engine), allocation_seconds=0.0)
    assert engine.attempts == 1


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (torch.zeros(4, 4).t(), r"Source 1 is not a contiguous .* strides \(1, 4\)"),
        (torch.zeros(4, device="meta"), "its device is meta"),
    ],
)
def test_sources_that_are_not_plain_memory_are_refused(source: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        stage([torch.zeros(1), source], CPU, small_ring())


def test_a_ring_of_another_device_is_refused() -> None:
    with pytest.raises(ValueError, match="made for cpu, not for cuda:1"):
        stage([], Device("cuda", 1), small_ring())


@pytest.mark.parametrize(
    ("slots", "size", "said"),
    [(1, SLOT, "at least 2 slots"), (2, SLOT + 1, "power of two"), (2, 128, "256 or more")],
)
def test_rings_that_cannot_turn_are_refused(slots: int, size: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Ring.make(CPU, slots, size)


def test_the_machine_is_measured_without_a_gpu() -> None:
    rates = measure(CPU, threads=2, nbytes=1 << 20, passes=2)
    assert isinstance(rates, Rates)
    assert rates.memcpy_one > 0
    assert rates.memcpy_many > 0
    assert (rates.threads, rates.pinned, rates.pageable) == (2, None, None)
