"""Each check finds its accident. That a template heeds them is test_template's to show."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from hermetic_worker import libraries, purity
from hermetic_worker.purity import Unclean

from .conftest import DIFFUSERS

pytestmark = DIFFUSERS


@pytest.fixture(autouse=True, scope="module")
def torch_is_imported() -> None:
    """Before anything of it, or of ctypes, is replaced."""
    libraries.bring_in()


def descriptors() -> frozenset[int]:
    """Those that stay open, unlike the listing's own."""
    names = [int(name) for name in os.listdir("/proc/self/fd")]
    return frozenset(name for name in names if Path(f"/proc/self/fd/{name}").exists())


def test_a_thread_is_found_and_named() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        with pytest.raises(Unclean, match=r"has \d+ threads \(.*\)"):
            purity.one_thread()
    finally:
        end.set()
        thread.join()


def test_a_descriptor_is_found_with_what_it_holds(tmp_path: Path) -> None:
    allowed = frozenset(range(1 << 10)) & descriptors()
    with (tmp_path / "file").open("w") as stream:
        with pytest.raises(Unclean, match=rf"holds descriptor {stream.fileno()}, .*/file"):
            purity.only_descriptors(allowed - {stream.fileno()})
        purity.only_descriptors(descriptors() | {stream.fileno()})


class Driver:
    """A libcuda that gives one answer."""

    def __init__(self, answer: int) -> None:
        self.answer = answer

    def cuDeviceGetCount(self, count: Any) -> int:
        return self.answer


@pytest.mark.parametrize("answer", [0, 100, 999])
def test_every_answer_but_not_initialised_is_one_too_many(
    answer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 is "no device": who says so has looked."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(answer))
    with pytest.raises(Unclean, match=f"cuDeviceGetCount says {answer}, not 3"):
        purity.untouched_device()


def test_a_driver_that_nobody_has_initialised_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(3))
    purity.untouched_device()


def test_a_machine_without_a_driver_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    purity.untouched_device()


def test_what_torch_says_itself_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(Unclean, match="torch has initialised CUDA"):
        purity.untouched_device()


def test_a_child_that_cannot_use_cuda_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(Unclean, match="it ended with 1"):
        purity.probe()


def test_a_child_that_dies_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(Unclean, match="it ended with -9"):
        purity.probe()
