"""What a standby has ready on a real device, and what it has given back."""

from __future__ import annotations

import pytest
import torch

from hermetic_worker import standby
from hermetic_worker.device import Device

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(120)]
CLASSES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
WORKSPACES = 128 << 20
"""Bytes that cuBLAS and its like may keep of the device, as they would after any image."""


def test_a_standby_has_its_context_its_kernels_and_its_ring(claimed: Device) -> None:
    before = torch.cuda.memory_allocated()
    ready = standby.prepare("cuda", CLASSES)
    assert (ready.device, ready.device.torch_name) == (claimed, "cuda:0")
    assert list(ready.timings) == ["imports", "context", "kernels", "ring"]
    assert ready.ring
    assert all(slot.is_pinned() for slot in ready.ring.slots)
    assert torch.cuda.is_initialized()
    assert torch.cuda.memory_allocated() - before < WORKSPACES, "a tiny pipeline is left"
    print(ready.timings)  # noqa: T201  # figures for people


def test_no_generator_moves() -> None:
    before = [torch.get_rng_state(), torch.cuda.get_rng_state()]
    standby.prepare("cuda", CLASSES)
    after = [torch.get_rng_state(), torch.cuda.get_rng_state()]
    assert all(map(torch.equal, before, after))


def test_the_peak_of_the_preparation_is_not_the_models(claimed: Device) -> None:
    standby.prepare("cuda", CLASSES)
    figures = claimed.memory()
    assert figures["device_peak"] == figures["device"]
