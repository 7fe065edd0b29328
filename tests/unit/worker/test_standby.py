"""What is made ready before the model is known, on the CPU, and that it leaves nothing behind."""

from __future__ import annotations

import gc
import inspect
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hermetic_wire.errors import LoadFailed
from hermetic_worker import libraries, standby
from hermetic_worker.device import Device

from .conftest import DIFFUSERS

pytestmark = DIFFUSERS
CLASSES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")

UNPREPARED = """
import sys, torch
from typing import Any
torch.set_num_threads(1)
{draw}
sys.stdout.buffer.write(draw(sys.argv[1]))
"""
"""A new process that draws and does nothing else."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Threads that wait for each other are slower on a busy machine."""
    libraries.bring_in()
    import torch

    torch.set_num_threads(1)


def draw(folder: str) -> bytes:
    """An image of bare diffusers from that folder."""
    import diffusers
    import torch

    pipe: Any = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    image = pipe(
        "a red circle",
        num_inference_steps=2,
        guidance_scale=7.5,
        width=64,
        height=64,
        generator=torch.Generator().manual_seed(11),
    ).images[0]
    drawn: bytes = image.tobytes()
    return drawn


def states() -> list[object]:
    """Everything global that an image could depend on."""
    import numpy as np
    import torch

    numpys: Any = np.random.get_state()
    return [
        torch.get_rng_state().tolist(),
        random.getstate(),
        [*numpys[1].tolist(), *numpys[2:]],
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
    ]


def counting(calls: list[str], name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def called(*arguments: Any, **settings: Any) -> Any:
        calls.append(name)
        return real(*arguments, **settings)

    return called


def test_a_standby_tells_its_stages() -> None:
    ready = standby.prepare("cpu", CLASSES)
    assert (ready.device, ready.ring) == (Device("cpu"), None)
    assert list(ready.timings) == ["imports", "context", "kernels", "ring"]
    assert ready.timings["kernels"] > 0


@pytest.mark.parametrize("name", CLASSES)
def test_a_whole_image_is_drawn_to_warm_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    libraries.bring_in()
    import diffusers
    from diffusers.models.autoencoders.vae import Decoder

    calls: list[str] = []
    for part in (diffusers.UNet2DConditionModel, Decoder, getattr(diffusers, name)):
        method = "__call__" if part.__name__ == name else "forward"
        real = getattr(part, method)
        monkeypatch.setattr(part, method, counting(calls, part.__name__, real))
    standby.prepare("cpu", [name])
    assert calls == [name, "UNet2DConditionModel", "Decoder"]


@pytest.mark.parametrize("names", [(), ("FluxPipeline",), ("os", "NoSuchPipeline")])
def test_classes_that_are_not_known_are_left_to_their_models(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "_warm", lambda *arguments: pytest.fail("this is known"))
    assert "kernels" in standby.prepare("cpu", names).timings


def test_a_class_of_many_models_is_warmed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    warmed: list[object] = []
    monkeypatch.setattr(standby, "_warm", lambda build, device: warmed.append(build))
    standby.prepare("cpu", CLASSES * 3)
    assert len(warmed) == len(set(warmed)) == len(CLASSES)


def test_no_global_state_moves() -> None:
    before = states()
    standby.prepare("cpu", CLASSES)
    assert states() == before


def test_the_tiny_pipelines_are_freed() -> None:
    libraries.bring_in()
    import diffusers
    import transformers

    kinds = (
        diffusers.UNet2DConditionModel,
        diffusers.AutoencoderKL,
        diffusers.DiffusionPipeline,
        transformers.CLIPTextModel,
    )

    def living() -> set[int]:
        # By type: isinstance asks the objects themselves, and some answer with a warning.
        return {id(each) for each in gc.get_objects() if issubclass(type(each), kinds)}

    gc.collect()
    before = living()
    standby.prepare("cpu", CLASSES)
    assert living() <= before


def test_on_a_cpu_no_gpu_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries.bring_in()
    import torch

    def touch(*arguments: Any) -> None:
        pytest.fail("CUDA was initialised for a worker on the CPU")

    for name in ("init", "_lazy_init", "set_device", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, touch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    standby.prepare("cpu", CLASSES)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_device_that_cannot_be_had_is_told_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(standby, "_open", lambda device: pytest.fail("opened"))
    with pytest.raises(LoadFailed, match="is called cpu, cuda"):
        standby.prepare("gpu", CLASSES)


def test_a_later_image_is_the_same_with_and_without_it(sd15_folder: Path) -> None:
    """Without it in a new process, because this one may have prepared long before."""
    program = UNPREPARED.format(draw=inspect.getsource(draw))
    new = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, str(sd15_folder)],
        env={**os.environ, **libraries.ENVIRONMENT, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
    )
    standby.prepare("cpu", CLASSES)
    after = draw(str(sd15_folder))
    without, _ = new.communicate()
    assert len(without) == 64 * 64 * 3
    assert after == without
