"""The copy to a real device: every bit, one block, and how it compares with the link."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from hermetic_worker.device import Device
from hermetic_worker.staging import Ring, measure, stage
from hermetic_worker.staging.copying import allocate

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(120)]
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
SLOT = 1 << 20
GIB = 1 << 30


def noise(nbytes: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(nbytes)
    return torch.randint(0, 256, (nbytes,), dtype=torch.uint8, generator=generator)


def same_bits(staged: torch.Tensor, source: torch.Tensor) -> bool:
    """Compared as bytes: NaNs of random weights are unequal as numbers."""
    flat = [each.reshape(-1).view(torch.uint8) for each in (staged.cpu(), source)]
    return (staged.dtype, staged.shape) == (source.dtype, source.shape) and torch.equal(*flat)


@pytest.fixture
def ring(claimed: Device) -> Ring:
    """Small, so that it turns many times."""
    return Ring.make(claimed, slots=3, slot_bytes=SLOT)


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[torch.Tensor]:
    """A GiB, mapped as weights are: shared, read-only, in the page cache."""
    file = tmp_path / "weights"
    with file.open("wb") as stream:
        part = noise(64 << 20).numpy().tobytes()
        for _ in range(GIB // len(part)):
            stream.write(part)
    descriptor = os.open(file, os.O_RDONLY)
    whole = mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ)
    os.close(descriptor)
    with pytest.warns(UserWarning, match="not writable"):
        view = torch.frombuffer(whole, dtype=torch.float16)
    yield view
    file.unlink()


def test_slots_are_pinned(ring: Ring) -> None:
    assert all(slot.is_pinned() for slot in ring.slots)


def test_every_bit_arrives_in_one_block(claimed: Device, ring: Ring) -> None:
    sources = [noise(2 * SLOT + 8 * number).view(dtype) for number, dtype in enumerate(DTYPES[:5])]
    sources += [noise(5 * SLOT + 1) > 127, torch.zeros(0, 3), torch.tensor(1.5)]
    told: list[float] = []
    staged = stage(sources, claimed, ring, on_progress=told.append)
    assert all(map(same_bits, staged, sources))
    assert {str(each.device) for each in staged} == {claimed.torch_name}
    assert {each.data_ptr() % 256 for each in staged if each.numel()} == {0}
    assert len({each.untyped_storage().data_ptr() for each in staged}) == 1
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_ring_serves_again_and_again(claimed: Device, ring: Ring) -> None:
    for number in range(20):
        source = noise(7 * SLOT + number)
        assert same_bits(stage([source], claimed, ring)[0], source)


def test_room_that_kernels_still_read_is_not_written_into(claimed: Device, ring: Ring) -> None:
    """The allocator gives a freed block again at once; its last owner's work may be queued."""
    size = 64 << 20
    source = noise(size)
    for _ in range(10):
        old = torch.ones(size, dtype=torch.uint8, device=claimed.torch_name)
        queued = torch.stack([old, old]).sum(dtype=torch.int64)
        del old
        (staged,) = stage([source], claimed, ring)
        assert int(queued) == 2 * size
        assert same_bits(staged, source)
        del staged


def test_a_full_device_is_told_in_torchs_own_words(claimed: Device, ring: Ring) -> None:
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        allocate(ring.engine, 1 << 50, seconds=0.02)
    source = noise(SLOT)
    assert same_bits(stage([source], claimed, ring)[0], source), "the device still works"


def test_the_rate_is_told_beside_the_links(
    claimed: Device,
    weights: torch.Tensor,
    record_property: Callable[[str, object], None],
) -> None:
    rates = measure(claimed)
    sources = list(weights.split(8 << 20))
    ring = Ring.make(claimed)
    stage(sources, claimed, ring)  # the pages are mapped and the device's memory is taken
    began = time.perf_counter()
    staged = stage(sources, claimed, ring)
    rate = weights.nbytes / (time.perf_counter() - began) / 1e9
    assert all(map(same_bits, staged, sources))
    assert rates.pinned
    assert rates.pageable
    told = f"staging {rate:.1f} GB/s, {rate / rates.pinned:.0%} of the link; {rates}"
    record_property("staging", told)
    print(told)  # noqa: T201  # a figure for people: it depends on the machine
